// Real clients against the real gateway: what they are sent arrives, as it was published, at once, and once.
//
// CLIENTS=node,python,go says whose; PYTHON and GO_CLIENTS say where the latter two are: scripts/clients.sh sets them.

import assert from "node:assert/strict";
import path from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { start } from "../browser/process.js";
import { connect } from "../browser/publisher.js";
import { startStack } from "../browser/stack.js";
import { until } from "../browser/until.js";

const here = path.dirname(fileURLToPath(import.meta.url));
const node = ["eventsource2", "eventsource3", "eventsource4", "undici", "event-source-polyfill", "eventsource-client", "fetch-event-source"];
const families = {
  node: { names: node, command: (name) => [process.execPath, [`${here}/node/client.js`, name]] },
  python: { names: ["httpx-sse", "sseclient-py", "requests"], command: (name) => [process.env.PYTHON, [`${here}/python/client.py`, name]] },
  go: { names: ["r3labs", "tmaxmax"], command: (name) => [process.env.GO_CLIENTS, [name]] },
};
const wanted = (process.env.CLIENTS ?? "node").split(",");
const clients = wanted.flatMap((family) => families[family].names.map((name) => [name, families[family].command(name)]));

/** How many events the resuming clients are sent, how fast, and when the gateway goes. */
const TOTAL = 2_000;
const PER_SECOND = 400;
const KILLED_AT = [400, 1_000];
const RESTARTED_AT = 1_500;

const manifest = `
apiVersion: tidings.dev/v1alpha1
kind: Channel
metadata: { name: open, namespace: test }
spec:
  events: { retryMilliseconds: 500 }
  access:
    subscribe: { mode: Public, topics: [">"] }
    publish: { mode: Public, topics: [">"] }
`;

let stack;

before(async () => {
  stack = await startStack({ open: manifest });
});

after(() => stack?.stop());

/** A client of these events, and what it has printed. */
function run([program, args], query) {
  const client = start(program, [...args, `${stack.base}/channels/test/open/events?${query}`]);
  const events = () =>
    client.output
      .split("\n")
      .slice(0, -1)
      .filter((line) => line.startsWith("["))
      .map((line) => JSON.parse(line));
  return {
    /** Those of the channel. */
    events: () => events().filter(([type]) => !type.startsWith("tidings.")),
    control: () => events().filter(([type]) => type.startsWith("tidings.")),
    kill: () => client.kill(),
    output: () => client.output,
  };
}

async function publish(topic, body, type) {
  const event = type ? `&event=${type}` : "";
  const answer = await fetch(`${stack.base}/channels/test/open/events?topic=${topic}${event}`, { method: "POST", body });
  assert.equal(answer.status, 201, await answer.text());
}

/** Waits until a client has so many events, and says what it has if it does not. */
async function has(client, count, seconds) {
  await until(`${count} events`, seconds, () => client.events().length >= count).catch((error) => {
    error.message += `\n${client.output().slice(-2_000)}`;
    throw error;
  });
}

test("what is published arrives as it was published", { timeout: 120_000 }, async (t) => {
  const gateway = await stack.startGateway();
  const published = [
    ["message", "naïve ☃ 日本"],
    ["typed", '{"total": 12}'],
    ["message", "two\nlines"],
    ["message", "a line that is empty\n\nin the middle"],
    ["typed", " a space in front, a colon: inside"],
    ["message", "x".repeat(47_000)],
    ["message", "the last"],
  ];
  for (const [type, data] of published) await publish("shapes", data, type === "message" ? undefined : type);
  for (const [name, command] of clients) {
    await t.test(name, async () => {
      const client = run(command, "topic=shapes&from=all");
      await has(client, published.length, 30);
      assert.deepEqual(client.events().map(([type, , data]) => [type, data]), published);
      assert.deepEqual(client.control(), []);
      await client.kill();
    });
  }
  await gateway.kill();
});

test("a small event arrives when it is published", { timeout: 180_000 }, async (t) => {
  const gateway = await stack.startGateway();
  for (const [name, command] of clients) {
    await t.test(name, async () => {
      const topic = `live.${name}`;
      await publish(topic, "first");
      const client = run(command, `topic=${topic}&from=all`);
      await has(client, 1, 30);
      // Each waits for the one before: none of them pushes another through a buffer.
      for (const number of [2, 3, 4]) {
        await publish(topic, String(number));
        await has(client, number, 5);
      }
      await client.kill();
    });
  }
  await gateway.kill();
});

test("a gateway that is killed and restarted costs no event and repeats none", { timeout: 300_000 }, async (t) => {
  let gateway = await stack.startGateway();
  await publish("resume", "0");
  const running = clients.map(([name, command]) => [name, run(command, "topic=resume&from=all")]);
  for (const [, client] of running) await has(client, 1, 60);
  const publisher = await connect(stack.nats);
  const published = publisher.publishNumbers("tidings.test.open.resume", TOTAL, PER_SECOND);
  // The first of them is as good as any: they all lose the same gateway.
  const [, first] = running[0];
  for (const count of KILLED_AT) {
    await has(first, count, 120);
    await gateway.kill();
    gateway = await stack.startGateway();
  }
  await has(first, RESTARTED_AT, 120);
  gateway.signal("SIGTERM");
  await gateway.exited;
  gateway = await stack.startGateway();
  await published;
  publisher.close();
  const expected = Array.from({ length: TOTAL + 1 }, (_, number) => String(number));
  for (const [name, client] of running) {
    await t.test(name, async () => {
      await has(client, expected.length, 120);
      const data = client.events().map(([, , data]) => data);
      const at = expected.findIndex((data, index) => data !== client.events()[index]?.[2]);
      assert.ok(at < 0 && data.length === expected.length, `at ${at}: ${JSON.stringify(data.slice(Math.max(0, at - 3), at + 5))}`);
      assert.deepEqual(client.control().filter(([type]) => type !== "tidings.end"), []);
      await client.kill();
    });
  }
  await gateway.kill();
});
