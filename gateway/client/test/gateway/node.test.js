// The fetch transport in Node, over the real gateway.

import assert from "node:assert/strict";
import path from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { start } from "../../../../tests/browser/process.js";
import { connect } from "../../../../tests/browser/publisher.js";
import { until } from "../../../../tests/browser/until.js";
import { subscribe } from "../../dist/index.js";
import { firstDifference, numbers, openStreams, startChannels, token } from "./setup.js";

const here = path.dirname(fileURLToPath(import.meta.url));
const TOTAL = 2_000;
const PER_SECOND = 400;

let stack, publisher;

before(async () => {
  stack = await startChannels();
  publisher = await connect(stack.nats);
});

after(async () => {
  publisher?.close();
  await stack?.stop();
});

/** A subscription, and all that it has told. */
function record(channel, options) {
  const told = { events: [], gaps: [], ends: [], states: [], errors: [] };
  told.subscription = subscribe(`${stack.base}/channels/test/${channel}/events`, {
    onEvent: (event) => told.events.push(event),
    onGap: (gap) => told.gaps.push(gap),
    onEnd: (end) => told.ends.push(end.reason),
    onState: (state) => told.states.push(state),
    onError: (error) => told.errors.push(error),
    ...options,
  });
  return told;
}

const opened = (told) => until("the stream is open", 30, () => told.subscription.state === "open");
const has = (told, count, seconds = 60) => until(`${count} events`, seconds, () => told.events.length >= count);
const data = (told) => told.events.map((event) => event.data);

async function publish(topic, body, type) {
  const answer = await fetch(`${stack.base}/channels/test/open/events?topic=${topic}${type ? `&event=${type}` : ""}`, { method: "POST", body });
  assert.equal(answer.status, 201, await answer.text());
}

test("events arrive as they were published, and nothing else does", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  const published = [["message", "naïve ☃ 日本"], ["typed", '{"total": 12}'], ["message", "two\n\nlines"], ["other", " : "], ["message", "x".repeat(47_000)]];
  for (const [type, body] of published) await publish("shapes", body, type === "message" ? undefined : type);
  await publish("elsewhere", "not this");
  const told = record("open", { topics: ["nothing", "shapes"], from: "all" });
  await has(told, published.length);
  // A checkpoint moves the position, and is no event.
  const { id } = told.events.at(-1);
  await publish("elsewhere", "nor this");
  await until("the position moves", 30, () => told.subscription.lastEventId !== id);
  assert.deepEqual(told.events.map(({ type, data }) => [type, data]), published);
  assert.deepEqual([told.gaps, told.ends, told.errors, told.states], [[], [], [], ["connecting", "open"]]);
  told.subscription.close();
  assert.equal(told.states.at(-1), "closed");
  await until("the stream has ended", 30, async () => (await openStreams(stack)) === 0);
  await gateway.kill();
});

test("a gateway that is killed and restarted costs no event and repeats none", { timeout: 300_000 }, async () => {
  let gateway = await stack.startGateway("--drain-delay=0s", "--drain-window=1s");
  const told = record("open", { topics: ["resume"] });
  await opened(told);
  const published = publisher.publishNumbers("tidings.test.open.resume", TOTAL, PER_SECOND);
  for (const count of [400, 1_000]) {
    await has(told, count, 120);
    await gateway.kill();
    gateway = await stack.startGateway("--drain-delay=0s", "--drain-window=1s");
  }
  await has(told, 1_500, 120);
  gateway.signal("SIGTERM");
  await gateway.exited;
  gateway = await stack.startGateway();
  await published;
  await has(told, TOTAL, 120).catch(() => {}); // The comparison says what is missing.
  assert.equal(firstDifference(data(told), numbers(TOTAL)), null);
  assert.deepEqual([told.gaps, told.ends, told.errors], [[], ["shutdown"], []]);
  told.subscription.close();
  await gateway.kill();
});

test("a position that the gateway does not know is told as a gap", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  await publish("gap", "first");
  const told = record("open", { topics: ["gap"], lastEventId: "0-7-x" });
  await until("a gap", 30, () => told.gaps.length > 0);
  assert.equal(told.gaps[0].reason, "reset");
  assert.equal(told.gaps[0].after, "0-7-x");
  await publish("gap", "second");
  await until("the next event", 30, () => data(told).includes("second"));
  assert.ok(told.events.every(({ type }) => type === "message"));
  told.subscription.close();
  await gateway.kill();
});

test("a channel that is full is waited for", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  const first = record("one", {});
  await opened(first);
  const second = record("one", {});
  await until("it has been sent away", 30, () => second.states.includes("waiting"));
  first.subscription.close();
  // Of two streams that are open, one after the other, the second stays.
  await until("it has come in", 60, async () => second.subscription.state === "open" && (await openStreams(stack)) === 1);
  assert.deepEqual(second.errors, []);
  second.subscription.close();
  await gateway.kill();
});

test("a refusal ends the subscription, and says what the gateway says", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  for (const [channel, options, status, type] of [
    ["members", {}, 401, "unauthorized"],
    ["missing", { token: token("ann") }, 404, "not-found"],
    ["open", { from: "yesterday" }, 400, "invalid-request"],
  ]) {
    const told = record(channel, options);
    await until(`${channel} refuses`, 30, () => told.errors.length > 0);
    const [error] = told.errors;
    assert.equal(error.name, "TidingsError");
    assert.deepEqual([error.status, error.type, told.states], [status, `urn:tidings:problem:${type}`, ["connecting", "closed"]]);
    assert.ok(error.title && error.detail, String(error));
  }
  await gateway.kill();
});

test("a token is asked for once more after a 401, and no more", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  const answers = ["not a token", token("ann")];
  let asked = 0;
  const good = record("members", { token: async () => answers[asked++] });
  await opened(good);
  assert.equal(asked, 2);
  publisher.publish("tidings.test.members.user.ann", "for ann");
  await has(good, 1);
  good.subscription.close();

  asked = 0;
  const bad = record("members", { token: () => ((asked += 1), "not a token") });
  await until("it is refused", 30, () => bad.errors.length > 0);
  assert.deepEqual([asked, bad.errors[0].status], [2, 401]);
  await gateway.kill();
});

test("a token is renewed before it expires", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  let asked = 0;
  const told = record("members", { token: () => token("bob", 6, String((asked += 1))) });
  await opened(told);
  for (let number = 1; asked < 4; number++) {
    publisher.publish("tidings.test.members.user.bob", String(number));
    await has(told, number);
  }
  assert.equal(firstDifference(data(told), numbers(told.events.length)), null);
  assert.deepEqual([told.ends, told.gaps, told.errors], [[], [], []]);
  told.subscription.close();
  await gateway.kill();
});

test("what a handler throws is reported, and harms no stream", { timeout: 120_000 }, async (t) => {
  const gateway = await stack.startGateway();
  const reported = [];
  // The runner's own listener would count it as a failure of this test.
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException").on("uncaughtException", (error) => reported.push(error.message));
  t.after(() => {
    process.removeAllListeners("uncaughtException");
    for (const listener of listeners) process.on("uncaughtException", listener);
  });
  const seen = [];
  const told = record("open", {
    topics: ["throws"],
    onEvent({ data }) {
      seen.push(data);
      throw new Error(`not ${data}`);
    },
  });
  await opened(told);
  for (const body of ["1", "2"]) await publish("throws", body);
  await until("both are reported", 30, () => reported.length === 2);
  assert.deepEqual([seen, reported], [["1", "2"], ["not 1", "not 2"]]);
  told.subscription.close();
  await gateway.kill();
});

test("a closed subscription keeps no process alive", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  const url = `${stack.base}/channels/test/open/events`;
  for (const [state, address] of [["connecting", url], ["open", url], ["waiting", "http://127.0.0.1:9/"]]) {
    const program = start(process.execPath, [`${here}/closing.js`, address, state]);
    await until(`a program ends that closes while ${state}`, 30, () => program.status !== null);
    assert.deepEqual([program.status, program.output], [0, `closing while ${state}\n`]);
  }
  await gateway.kill();
});
