// What engines make of a stream that breaks, in Chromium and in Firefox: they differ in which ids they remember.

import assert from "node:assert/strict";
import net from "node:net";
import { after, before, test } from "node:test";

import { openBrowser, openFirefox } from "./browser.js";
import { connect } from "./publisher.js";
import { startStack } from "./stack.js";
import { until } from "./until.js";

const manifest = `
apiVersion: tidings.dev/v1alpha1
kind: Channel
metadata: { name: open, namespace: test }
spec:
  events: { retryMilliseconds: 500, heartbeatSeconds: 1 }
  access:
    subscribe: { mode: Public, topics: [">"] }
`;

let stack, publisher;

before(async () => {
  stack = await startStack({ open: manifest });
  publisher = await connect(stack.nats);
});

after(async () => {
  publisher?.close();
  await stack?.stop();
});

/** What a page may be told of: it writes it all down. */
const CONTROL = ["tidings.position", "tidings.gap", "tidings.oversize", "tidings.end"];

/** Opens a page at `base` that listens to `topic`. */
async function listen(browser, base, topic) {
  const page = await browser.newPage();
  await page.goto(`${base}/`);
  await page.evaluate(
    ({ topic, control }) => {
      window.record = { data: [], ids: [], opened: 0, control: [] };
      const source = new EventSource(`/channels/test/open/events?topic=${topic}`);
      source.onopen = () => (window.record.opened += 1);
      source.onmessage = (event) => {
        window.record.data.push(event.data);
        window.record.ids.push(event.lastEventId);
      };
      for (const name of control) {
        source.addEventListener(name, (event) => window.record.control.push([name, event.data, event.lastEventId]));
      }
    },
    { topic, control: CONTROL },
  );
  await page.waitForFunction(() => window.record.opened === 1);
  const record = () => page.evaluate(() => window.record);
  return {
    record,
    close: () => page.close(),
    /** Waits until so many events have come, and a little for what should not. */
    async data(count) {
      await until(`${count} events`, 60, async () => (await record()).data.length >= count);
      return (await record()).data;
    },
  };
}

/** A relay in front of the gateway that cuts the first stream so many bytes behind `mark`. */
async function cutBehind(mark, further = 0) {
  const gateway = new URL(stack.base).port;
  let cut = false;
  const server = net.createServer((client) => {
    const upstream = net.connect(gateway, "127.0.0.1");
    const both = [client, upstream];
    const destroy = () => both.forEach((socket) => socket.destroy());
    for (const socket of both) socket.on("error", destroy).on("close", destroy);
    client.on("data", (bytes) => upstream.write(bytes));
    upstream.on("data", (bytes) => {
      const at = cut ? -1 : bytes.indexOf(mark);
      if (at < 0) return client.write(bytes);
      cut = true;
      // What was sent arrives before the end does.
      client.end(bytes.subarray(0, at + mark.length + further), () => upstream.destroy());
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { base: `http://127.0.0.1:${server.address().port}`, wasCut: () => cut, close: () => server.close() };
}

for (const [engine, open] of [["Chromium", openBrowser], ["Firefox", openFirefox]]) {
  test(engine, { timeout: 300_000 }, async (t) => {
    const browser = await open();
    t.after(() => browser.close());

    await t.test("a page that has received nothing loses nothing by an orderly restart", async () => {
      let gateway = await stack.startGateway("--drain-delay=0s", "--drain-window=1s");
      const page = await listen(browser, stack.base, `${engine}.restart`);
      gateway.signal("SIGTERM");
      await gateway.exited;
      publisher.publish(`tidings.test.open.${engine}.restart`, "meanwhile");
      await publisher.flush();
      gateway = await stack.startGateway();
      assert.deepEqual(await page.data(1), ["meanwhile"]);
      await page.close();
      await gateway.kill();
    });

    await t.test("nor by a gateway that is killed", async () => {
      let gateway = await stack.startGateway();
      const page = await listen(browser, stack.base, `${engine}.killed`);
      await gateway.kill();
      publisher.publish(`tidings.test.open.${engine}.killed`, "meanwhile");
      await publisher.flush();
      gateway = await stack.startGateway();
      assert.deepEqual(await page.data(1), ["meanwhile"]);
      await page.close();
      await gateway.kill();
    });

    await t.test("an event that is cut in its middle arrives once", async () => {
      const gateway = await stack.startGateway();
      const long = `two${"x".repeat(3_000)}`;
      for (const [mark, further] of [[long.slice(0, 1_000), 0], [`${long}\n`, 0], [`${long}\nid: `, 5]]) {
        const relay = await cutBehind(mark, further);
        const topic = `${engine}.cut${mark.length + further}`;
        const page = await listen(browser, relay.base, topic);
        for (const data of ["one", long, "three"]) publisher.publish(`tidings.test.open.${topic}`, data);
        const data = await page.data(3);
        assert.deepEqual(data.map((text) => text.slice(0, 5)), ["one", "twoxx", "three"]);
        assert.ok(relay.wasCut());
        await page.close();
        relay.close();
      }
      await gateway.kill();
    });

    await t.test("a checkpoint is silent in onmessage, and moves the position", async () => {
      const gateway = await stack.startGateway();
      const page = await listen(browser, stack.base, `${engine}.silent`);
      for (let n = 0; n < 5; n++) publisher.publish("tidings.test.open.elsewhere", String(n));
      const seen = await until("a heartbeat that moves the position", 60, async () => {
        const record = await page.record();
        return new Set(record.control.map(([, , id]) => id)).size > 1 && record;
      });
      assert.deepEqual(seen.data, []);
      assert.ok(seen.control.every(([name, data]) => name === "tidings.position" && data === ""), JSON.stringify(seen));
      await page.close();
      await gateway.kill();
    });
  });
}
