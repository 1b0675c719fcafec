// Chromium's own EventSource over a gateway that is killed in mid-stream.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";

import { openBrowser } from "./browser.js";
import { freePorts } from "./ports.js";
import { killAll, repository, run, start, startBuilt } from "./process.js";
import { connect } from "./publisher.js";
import { until } from "./until.js";

const PER_SECOND = 500;
const TOTAL = 6_000;
/** After so many events the gateway is killed. */
const KILLS = [1_000, 3_000];

const manifest = `
apiVersion: tidings.dev/v1alpha1
kind: Channel
metadata: { name: numbers, namespace: test }
spec:
  events: { retryMilliseconds: 500 }
  access:
    subscribe: { mode: Public, topics: [">"] }
`;

let folder, browser, ports, nats;

before(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "tidings-resume-"));
  ports = await freePorts(4);
  nats = ports + 3;
  const server = (await run(`${repository}/scripts/nats-server.sh`, [])).trim().split("\n").pop();
  const started = start(server, ["--addr", "127.0.0.1", "--port", String(nats), "--jetstream", "--store_dir", `${folder}/nats`]);
  await started.prints("that it is ready", (output) => output.includes("Server is ready"));
  const channels = path.join(folder, "channels");
  await run("mkdir", ["-p", channels]);
  writeFileSync(path.join(channels, "numbers.yaml"), manifest);
  startBuilt("tidings-operator", [
    ...["--nats", `nats://127.0.0.1:${nats}`, "--admin", `127.0.0.1:${ports + 2}`],
    ...["--channels", channels, "--routes", `${folder}/routes`],
  ]);
  await ready(ports + 2);
  browser = await openBrowser();
});

after(async () => {
  await browser?.close();
  await killAll();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

async function ready(admin) {
  await until(`http://127.0.0.1:${admin}/readyz answers 200`, 60, async () => {
    const response = await fetch(`http://127.0.0.1:${admin}/readyz`).catch(() => null);
    return response?.status === 200;
  });
}

async function startGateway() {
  const gateway = startBuilt("tidings-gateway", [
    ...["--nats", `nats://127.0.0.1:${nats}`, "--listen", `127.0.0.1:${ports}`, "--admin", `127.0.0.1:${ports + 1}`],
    ...["--routes", `${folder}/routes`, "--demo"],
  ]);
  await ready(ports + 1);
  return gateway;
}

test("a page receives every event exactly once and in order while its gateway is killed and replaced", { timeout: 180_000 }, async () => {
  let gateway = await startGateway();
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${ports}/`);
  await page.evaluate(() => {
    window.record = { events: [], opened: 0, lost: 0, control: [] };
    const source = new EventSource("/channels/test/numbers/events");
    source.onopen = () => (record.opened += 1);
    source.onerror = () => (record.lost += 1);
    source.onmessage = (event) => record.events.push([event.data, event.lastEventId]);
    for (const name of ["tidings.gap", "tidings.oversize", "tidings.end"]) {
      source.addEventListener(name, (event) => record.control.push(`${name} ${event.data}`));
    }
  });
  await page.waitForFunction(() => record.opened === 1);

  const publisher = await connect(nats);
  const published = publisher.publishNumbers("tidings.test.numbers", TOTAL, PER_SECOND);
  for (const kill of KILLS) {
    await page.waitForFunction((kill) => record.events.length >= kill, kill, { timeout: 60_000 });
    await gateway.kill();
    gateway = await startGateway();
  }
  const seconds = await published;
  publisher.close();
  assert.ok(seconds < (TOTAL / PER_SECOND) * 1.25, `the publisher kept its pace: ${TOTAL} in ${seconds} s`);

  await page
    .waitForFunction((total) => record.events.length >= total, TOTAL, { timeout: 60_000 })
    .catch(() => {}); // The comparison below says what is missing.
  const record = await page.evaluate(() => record);

  const expected = Array.from({ length: TOTAL }, (_, index) => index + 1);
  const numbers = record.events.map(([data]) => Number(data));
  const sequences = record.events.map(([, id]) => Number(id.split("-")[1]));
  assert.equal(firstDifference(numbers, expected), null);
  assert.equal(firstDifference(sequences, expected), null);
  assert.equal(new Set(record.events.map(([, id]) => id.split("-")[0])).size, 1, "one epoch");
  assert.deepEqual(record.control, [], "no gap was announced, for there was none");
  assert.equal(record.opened, 1 + KILLS.length, "every kill cut the stream, once");
});

/** Where two lists part, with what stands around it: six thousand lines of difference would tell less. */
function firstDifference(actual, expected) {
  const length = Math.max(actual.length, expected.length);
  const at = Array.from({ length }, (_, index) => index).find((index) => actual[index] !== expected[index]);
  if (at === undefined) return null;
  return `at ${at} of ${expected.length} (${actual.length} received): ${actual.slice(Math.max(0, at - 3), at + 5)}`;
}
