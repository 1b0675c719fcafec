// The EventSource transport and the shared connection in Chromium, over the real gateway.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { openBrowser, openFirefox } from "../../../../tests/browser/browser.js";
import { connect } from "../../../../tests/browser/publisher.js";
import { until } from "../../../../tests/browser/until.js";
import { firstDifference, numbers, openStreams, startChannels, token } from "./setup.js";

const bundle = readFileSync(new URL("../../dist/tidings.min.js", import.meta.url), "utf8");
const TOTAL = 2_000;
const PER_SECOND = 400;

let browser, stack, publisher;

before(async () => {
  stack = await startChannels();
  publisher = await connect(stack.nats);
  browser = await openBrowser();
});

after(async () => {
  await browser?.close();
  publisher?.close();
  await stack?.stop();
});

/** A browser with a profile of its own, which finds the package beside the gateway. */
async function newContext() {
  const context = await browser.newContext();
  await context.route("**/tidings-client/*", (route) =>
    route.request().url().endsWith(".js")
      ? route.fulfill({ contentType: "text/javascript", body: bundle })
      : route.fulfill({ contentType: "text/html", body: "<!doctype html><title>A page</title>" }),
  );
  return context;
}

/** A page that subscribes, and what it has been told. */
async function listen(context, channel, options) {
  const page = await context.newPage();
  const told = { page, tokens: 0 };
  // A token that is asked for comes from here.
  await page.exposeFunction("nextToken", () => options.tokens?.[Math.min(told.tokens++, options.tokens.length - 1)]());
  await page.goto(`${stack.base}/tidings-client/page.html`);
  await page.evaluate(
    async ({ url, options, tokens }) => {
      const { subscribe } = await import("/tidings-client/tidings.js");
      window.told = { events: [], gaps: [], ends: [], states: [], errors: [] };
      window.subscription = subscribe(url, {
        ...options,
        ...(tokens ? { token: () => window.nextToken() } : {}),
        onEvent: ({ type, data, id }) => window.told.events.push({ type, data, id }),
        onGap: ({ reason }) => window.told.gaps.push(reason),
        onEnd: ({ reason }) => window.told.ends.push(reason),
        onState: (state) => window.told.states.push(state),
        onError: ({ status, title, detail }) => window.told.errors.push({ status, title, detail }),
      });
    },
    { url: `/channels/test/${channel}/events`, options: { ...options, tokens: undefined }, tokens: !!options.tokens },
  );
  told.now = () => page.evaluate(() => ({ ...window.told, state: window.subscription.state, id: window.subscription.lastEventId }));
  told.data = async () => (await told.now()).events.map(({ data }) => data);
  told.has = (count, seconds = 60) => until(`${count} events`, seconds, async () => (await told.now()).events.length >= count);
  told.is = (state, seconds = 60) =>
    until(`the subscription is ${state}`, seconds, async () => (await told.now()).state === state).catch(async (error) => {
      error.message += ` ${JSON.stringify(await told.now()).slice(0, 2_000)}`;
      throw error;
    });
  return told;
}

/** Publishes numbers while the gateway is killed twice and ended once. */
async function publishOverRestarts(topic, gateway, received) {
  const published = publisher.publishNumbers(`tidings.test.open.${topic}`, TOTAL, PER_SECOND);
  for (const [count, signal] of [[400, "SIGKILL"], [1_000, "SIGKILL"], [1_500, "SIGTERM"]]) {
    await received(count);
    gateway.signal(signal);
    await gateway.exited;
    gateway = await stack.startGateway("--drain-delay=0s", "--drain-window=1s");
  }
  await published;
  return gateway;
}

test("a page over a gateway that is killed and restarted receives each event once", { timeout: 300_000 }, async () => {
  let gateway = await stack.startGateway("--drain-delay=0s", "--drain-window=1s");
  const context = await newContext();
  const told = await listen(context, "open", { topics: ["page"], types: ["typed"] });
  await told.is("open");
  gateway = await publishOverRestarts("page", gateway, (count) => told.has(count, 120));
  const typed = await fetch(`${stack.base}/channels/test/open/events?topic=page&event=typed`, { method: "POST", body: "the last" });
  assert.equal(typed.status, 201);
  await told.has(TOTAL + 1).catch(() => {}); // The comparison says what is missing.
  const now = await told.now();
  assert.equal(firstDifference(now.events.map(({ data }) => data), [...numbers(TOTAL), "the last"]), null);
  assert.equal(now.events.at(-1).type, "typed");
  assert.deepEqual([now.gaps, now.errors], [[], []]);
  await told.page.evaluate(() => window.subscription.close());
  await until("the stream has ended", 30, async () => (await openStreams(stack)) === 0);
  await context.close();
  await gateway.kill();
});

test("EventSource's own events are told apart, and a page in the cache comes back where it was", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  const context = await newContext();
  const told = await listen(context, "open", { topics: ["kept"], lastEventId: "0-7-x" });
  await until("a gap", 30, async () => (await told.now()).gaps.length > 0);
  publisher.publish("tidings.test.open.kept", "before");
  await told.has(1);
  const cached = (type) => told.page.evaluate((type) => window.dispatchEvent(new PageTransitionEvent(type, { persisted: true })), type);
  await cached("pagehide");
  await until("the stream has ended", 30, async () => (await openStreams(stack)) === 0);
  publisher.publish("tidings.test.open.kept", "meanwhile");
  await publisher.flush();
  await cached("pageshow");
  await told.has(2);
  const now = await told.now();
  assert.deepEqual([now.events.map(({ data }) => data), now.gaps], [["before", "meanwhile"], ["reset"]]);
  await context.close();
  await gateway.kill();
});

test("a page learns why it is refused", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  const context = await newContext();
  for (const [channel, options, status] of [["members", {}, 401], ["missing", { token: token("ann") }, 404], ["open", { from: "yesterday" }, 400]]) {
    const told = await listen(context, channel, options);
    await told.is("closed");
    const { errors, states } = await told.now();
    assert.equal(errors.length, 1);
    assert.equal(errors[0].status, status);
    assert.ok(errors[0].title && errors[0].detail, JSON.stringify(errors));
    assert.deepEqual(states, ["connecting", "closed"]);
  }
  await context.close();
  await gateway.kill();
});

test("a token in the address is renewed after a 401 and before it expires", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  const context = await newContext();
  let made = 0;
  const told = await listen(context, "members", { tokens: [() => "not a token", () => token("ann", 6, String((made += 1)))] });
  await told.is("open");
  for (let number = 1; made < 3; number++) {
    publisher.publish("tidings.test.members.user.ann", String(number));
    await told.has(number);
  }
  const now = await told.now();
  assert.equal(firstDifference(now.events.map(({ data }) => data), numbers(now.events.length)), null);
  assert.deepEqual([now.gaps, now.ends, now.errors], [[], [], []]);
  await context.close();
  await gateway.kill();
});

test("a cookie is renewed when the stream has ended with it", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  const context = await newContext();
  let made = 0;
  // Sets the cookie, and has nothing to return.
  const renew = () => context.addCookies([{ name: "session", value: token("eve", 4, String((made += 1))), url: stack.base }]);
  const told = await listen(context, "members", { tokens: [renew] });
  await told.is("open");
  assert.equal(made, 1);
  for (let number = 1; made < 2; number++) {
    publisher.publish("tidings.test.members.user.eve", String(number));
    await told.has(number);
  }
  const now = await told.now();
  assert.equal(firstDifference(now.events.map(({ data }) => data), numbers(now.events.length)), null);
  assert.ok(now.ends.length > 0 && now.ends.every((reason) => reason === "token-expired"), String(now.ends));
  assert.deepEqual([now.gaps, now.errors], [[], []]);
  await context.close();
  await gateway.kill();
});

test("in Firefox, two pages share one connection over a gateway that is killed", { timeout: 180_000 }, async (t) => {
  let gateway = await stack.startGateway();
  const firefox = await openFirefox();
  t.after(() => firefox.close());
  // Its pages are the gateway's own, which permit no modules of others: the module as a script.
  const [exports, subscribe] = /export\{.*?(\w+) as subscribe.*\};?\s*$/.exec(bundle);
  const script = `(() => { ${bundle.replace(exports, "")}; window.subscribe = ${subscribe}; })()`;
  const pages = [];
  for (let n = 0; n < 2; n++) {
    const page = await firefox.newPage();
    await page.goto(`${stack.base}/`);
    await page.evaluate(script);
    await page.evaluate(() => {
      window.told = [];
      const options = { topics: ["firefox"], shared: true, onGap: (gap) => window.told.push(gap.reason), onEvent: ({ data }) => window.told.push(data) };
      window.subscription = window.subscribe("/channels/test/open/events", options);
    });
    pages.push(page);
    await until("it is open", 60, () => page.evaluate(() => window.subscription.state === "open"));
  }
  assert.equal(await openStreams(stack), 1);
  const has = (page, count) => until(`${count} events`, 60, () => page.evaluate((count) => window.told.length >= count, count));
  publisher.publish("tidings.test.open.firefox", "1");
  for (const page of pages) await has(page, 1);
  await gateway.kill();
  publisher.publish("tidings.test.open.firefox", "2");
  await publisher.flush();
  gateway = await stack.startGateway();
  for (const page of pages) await has(page, 2);
  await pages[0].close();
  publisher.publish("tidings.test.open.firefox", "3");
  await has(pages[1], 3);
  assert.deepEqual(await pages[1].evaluate(() => window.told), numbers(3));
  await gateway.kill();
});

test("tabs share one connection, and the next one takes over", { timeout: 300_000 }, async () => {
  let gateway = await stack.startGateway("--drain-delay=0s", "--drain-window=1s");
  const context = await newContext();
  const tabs = [];
  for (let n = 0; n < 3; n++) {
    tabs.push(await listen(context, "open", { topics: ["shared"], shared: true }));
    await tabs[n].is("open");
    assert.equal(await openStreams(stack), 1);
  }
  gateway = await publishOverRestarts("shared", gateway, (count) => tabs[2].has(count, 120));
  for (const tab of tabs) {
    await tab.has(TOTAL).catch(() => {}); // The comparison says what is missing.
    const now = await tab.now();
    assert.equal(firstDifference(now.events.map(({ data }) => data), numbers(TOTAL)), null);
    assert.deepEqual([now.gaps, now.errors], [[], []]);
  }
  // The tab that reads goes, in the middle of events; then the next one.
  const more = publisher.publishNumbers("tidings.test.open.shared", TOTAL, PER_SECOND);
  await tabs[2].has(TOTAL + 500);
  await tabs[0].page.close();
  await tabs[2].has(TOTAL + 1_000);
  await until("one stream is open", 30, async () => (await openStreams(stack)) === 1);
  await tabs[1].page.evaluate(() => window.subscription.close());
  await more;
  await tabs[2].has(2 * TOTAL).catch(() => {});
  const now = await tabs[2].now();
  assert.equal(firstDifference(now.events.map(({ data }) => data), [...numbers(TOTAL), ...numbers(TOTAL)]), null);
  assert.deepEqual([now.gaps, now.errors], [[], []]);
  await until("one stream is open", 30, async () => (await openStreams(stack)) === 1);
  await tabs[2].page.evaluate(() => window.subscription.close());
  await until("the stream has ended", 30, async () => (await openStreams(stack)) === 0);
  await context.close();
  await gateway.kill();
});

test("a tab that was away from the others catches up, and they see nothing twice", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  const context = await newContext();
  const tabs = [];
  for (let n = 0; n < 2; n++) {
    tabs.push(await listen(context, "open", { topics: ["away"], shared: true }));
    await tabs[n].is("open");
  }
  const publish = (data) => publisher.publish("tidings.test.open.away", data);
  const cached = (tab, type) => tab.page.evaluate((type) => window.dispatchEvent(new PageTransitionEvent(type, { persisted: true })), type);
  publish("1");
  for (const tab of tabs) await tab.has(1);
  // First the one that listens, then the one that reads.
  for (const [away, stays, count] of [[tabs[1], tabs[0], 1], [tabs[0], tabs[1], 3]]) {
    await cached(away, "pagehide");
    await until("one stream is open", 30, async () => (await stays.now()).state === "open" && (await openStreams(stack)) === 1);
    publish(String(count + 1));
    await stays.has(count + 1);
    await cached(away, "pageshow");
    await away.has(count + 1);
    publish(String(count + 2));
    for (const tab of tabs) await tab.has(count + 2);
  }
  for (const tab of tabs) {
    const now = await tab.now();
    assert.deepEqual([now.events.map(({ data }) => data), now.gaps, now.errors], [numbers(5), [], []]);
  }
  assert.equal(await openStreams(stack), 1);
  await context.close();
  await gateway.kill();
});

test("a tab that reads for others and no longer answers is replaced", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  const context = await newContext();
  const tabs = [];
  for (let n = 0; n < 2; n++) {
    tabs.push(await listen(context, "open", { topics: ["stuck"], shared: true }));
    await tabs[n].is("open");
  }
  publisher.publish("tidings.test.open.stuck", "1");
  for (const tab of tabs) await tab.has(1);
  // A dialog that nobody closes: the reader keeps its lock and its stream, and tells nothing.
  let dialog;
  tabs[0].page.on("dialog", (shown) => (dialog = shown));
  await tabs[0].page.evaluate(() => void setTimeout(() => alert("stuck")));
  await until("the dialog is shown", 30, () => dialog);
  publisher.publish("tidings.test.open.stuck", "2");
  await publisher.flush();
  // Whoever comes to the other tab makes it ask.
  await tabs[1].page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await until("both have a stream", 30, async () => (await openStreams(stack)) === 2);
  await tabs[1].has(2);
  assert.deepEqual(await tabs[1].data(), ["1", "2"]);
  await dialog.dismiss();
  await tabs[0].has(2);
  publisher.publish("tidings.test.open.stuck", "3");
  for (const tab of tabs) {
    await tab.has(3);
    assert.deepEqual(await tab.data(), numbers(3));
  }
  await until("one stream is open", 30, async () => (await openStreams(stack)) === 1);
  await context.close();
  await gateway.kill();
});
