// `make run` as a newcomer meets it: the printed lines, the demo page in Chromium, and how it ends.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";

import { openBrowser } from "./browser.js";
import { freePorts, occupy } from "./ports.js";
import { killAll, logs, processesWith, repository, run, start } from "./process.js";
import { until } from "./until.js";

const READY = 120; // seconds; the build is there, the nats-server too
const folders = [];

/** Starts `make run` on ports and in a folder of its own, as a terminal would: in a process group of its own. */
async function makeRun(variables = {}) {
  const folder = mkdtempSync(path.join(os.tmpdir(), "tidings-run-"));
  folders.push(folder);
  const port = await freePorts(4);
  const settings = { PORT: port, ADMIN_PORT: port + 1, NATS_PORT: port + 3, RUN_DIR: folder, ...variables };
  const words = Object.entries(settings).map(([name, value]) => `${name}=${value}`);
  const make = start("make", ["--no-print-directory", "run", ...words], { group: true });
  return {
    make,
    folder,
    ports: settings,
    base: `http://127.0.0.1:${settings.PORT}`,
    async ready() {
      await make.prints("that it is ready", (output) => /Ctrl-C ends it/.test(output), READY);
      return this;
    },
    /** The printed line that begins with `label`. */
    line(label) {
      const found = make.output.split("\n").find((line) => line.trim().startsWith(`${label}  `));
      assert.ok(found, `no line "${label}" in:\n${make.output}`);
      return found.trim().slice(label.length).trim();
    },
    started: () => processesWith(folder).filter((pid) => pid !== make.pid),
    async gone() {
      await until("everything that make run started has ended", 30, () => processesWith(folder).length === 0);
    },
  };
}

/** Runs a printed line as it stands, in another folder than the repository. */
const shell = (line) => run("sh", ["-c", line], { cwd: os.tmpdir() });

after(async () => {
  await killAll();
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

describe("make run", () => {
  let running, browser;

  before(async () => {
    running = await (await makeRun()).ready();
    browser = await openBrowser();
  });

  after(async () => {
    await browser?.close();
    running?.make.signal("SIGTERM");
    await running?.gone();
  });

  test("prints where it is, and lines that subscribe and publish as they stand", { timeout: 600_000 }, async () => {
    assert.equal(running.make.output.match(/^ready: (.*)$/m)[1], running.base);
    const subscriber = start("sh", ["-c", running.line("subscribe")], { cwd: os.tmpdir(), group: true });
    await subscriber.prints("the checkpoint", (output) => /^id: /m.test(output));

    const published = await shell(running.line("publish"));
    const { id, duplicate } = JSON.parse(published.slice(published.indexOf("{")));
    assert.match(id, /^[a-z0-9]+-\d+$/);
    assert.equal(duplicate, false);
    await shell(running.line("publish by NATS")); // On a fresh machine this builds the client.
    await subscriber.prints("both publications", (output) => /^data: Hello from curl\n[^]*^data: Hello from NATS\n/m.test(output));
    subscriber.signalGroup("SIGKILL");
  });

  test("the demo page shows what is published, and publishes what is typed", { timeout: 120_000 }, async () => {
    const page = await browser.newPage({ viewport: { width: 900, height: 600 } });
    const faults = [];
    page.on("pageerror", (error) => faults.push(error.message));
    await page.goto(running.line("demo page"));
    await page.waitForSelector("#state[data-state=open]");
    assert.equal(await page.inputValue("#channel"), "demo/hello");
    const received = Number(await page.textContent("#count"));
    assert.equal(received, 0);

    // The last line is markup: it has to arrive as text.
    const typed = ["Hello from the page", "Grüße, 世界 👋", "<b onclick='x'>not bold</b>"];
    for (const [index, text] of typed.entries()) {
      await page.fill("#data", text);
      await page.press("#data", "Enter");
      await page.waitForFunction((count) => document.querySelectorAll("#events li").length === count, index + 1);
    }
    await shell(running.line("publish"));
    await page.waitForFunction((count) => document.querySelectorAll("#events li").length === count, typed.length + 1);

    const rows = await page.$$eval("#events li", (items) => items.map((item) => item.querySelector(".data").textContent));
    assert.deepEqual(rows, ["Hello from curl", ...typed.toReversed()], "the newest stands on top");
    const ids = await page.$$eval("#events .id", (cells) => cells.map((cell) => Number(cell.textContent.split("-")[1])));
    assert.deepEqual(ids, ids.toSorted((one, other) => other - one));
    assert.equal(await page.inputValue("#data"), "", "the field is ready for the next one");
    mkdirSync(logs, { recursive: true });
    await page.screenshot({ path: path.join(logs, "demo.png") });
    assert.deepEqual(faults, []);
    await page.close();
  });

  test("the demo page goes to another channel, with a topic filter, and says why it may not publish there", { timeout: 300_000 }, async () => {
    const page = await browser.newPage();
    await page.goto(running.base);
    await page.fill("#channel", "demo/orders");
    await page.fill("#subscribe input[name=topic]", "user.*");
    await Promise.all([page.waitForURL(/channel=demo(%2F|\/)orders/), page.click("#subscribe button")]);
    await page.waitForSelector("#state[data-state=open]");
    const nats = running.line("publish by NATS").replace(/ pub .*/, " pub");
    await shell(`${nats} tidings.demo.orders.announcements 'not for this filter'`);
    await shell(`${nats} tidings.demo.orders.user.42 '{"total": 12}'`);
    await page.waitForFunction(() => document.querySelector("#events li .data")?.textContent === '{"total": 12}');
    assert.equal(await page.textContent("#count"), "1");

    await page.fill("#data", "not allowed");
    await page.click("#publish button");
    await page.waitForFunction(() => document.querySelector("#problem").textContent.startsWith("Not published: "));
    await page.close();
  });

  test("the demo page shows the last values first, and what passes through an ephemeral channel", { timeout: 300_000 }, async () => {
    const nats = running.line("publish by NATS").replace(/ pub .*/, " pub");
    for (const price of ["4010.00", "4011.00", "4012.50"]) await shell(`${nats} tidings.demo.prices.gold ${price}`);
    await shell(`${nats} tidings.demo.prices.silver 52.10`);
    const prices = await browser.newPage();
    await prices.goto(`${running.base}/?channel=demo/prices`);
    await prices.waitForFunction(() => document.querySelectorAll("#events li").length === 2);
    const shown = await prices.$$eval("#events li .data", (cells) => cells.map((cell) => cell.textContent));
    assert.deepEqual(shown.toSorted(), ["4012.50", "52.10"], "the older prices of gold are gone");
    await prices.close();

    const pulse = await browser.newPage();
    await pulse.goto(`${running.base}/?channel=demo/pulse&topic=cpu`);
    await pulse.waitForSelector("#state[data-state=open]");
    await shell(`${nats} tidings.demo.pulse.cpu 0.42`);
    await pulse.waitForFunction(() => document.querySelector("#events li .data")?.textContent === "0.42");
    assert.equal(await pulse.textContent("#events li .id"), "", "an ephemeral event has no id");
    await pulse.close();
  });
});

describe("make run ends", () => {
  // Somebody else's nats-server, which every run below has to leave alone; it serves the last test as well.
  let foreign, foreignPort, folder;

  before(async () => {
    folder = mkdtempSync(path.join(os.tmpdir(), "tidings-foreign-"));
    folders.push(folder);
    foreignPort = await freePorts();
    const server = (await run(`${repository}/scripts/nats-server.sh`, [])).trim().split("\n").pop();
    foreign = start(server, ["--addr", "127.0.0.1", "--port", String(foreignPort), "--jetstream", "--store_dir", folder]);
    await foreign.prints("that it is ready", (output) => output.includes("Server is ready"));
  });

  after(() => {
    assert.equal(foreign.status, null, "the other nats-server still runs");
  });

  test("with Ctrl-C, everything it started", { timeout: 180_000 }, async () => {
    const running = await (await makeRun()).ready();
    assert.equal(running.started().length, 3, "nats-server, operator and gateway");
    // An open stream does not hold it up.
    const subscriber = start("curl", ["-sN", `${running.base}/channels/demo/hello/events`]);
    await subscriber.prints("the checkpoint", (output) => /^id: /m.test(output));
    const asked = Date.now();
    running.make.signalGroup("SIGINT");
    await running.make.exited;
    await running.gone();
    assert.ok(Date.now() - asked < 10_000, `it took ${Date.now() - asked} ms`);
    assert.doesNotMatch(running.make.output, /killed/, "everything ended by itself");
    await subscriber.exited;
  });

  test("when make is asked to end, when make is killed, and when the script is killed", { timeout: 300_000 }, async () => {
    for (const [whom, signal] of [["make", "SIGTERM"], ["make", "SIGKILL"], ["run.sh", "SIGKILL"]]) {
      const running = await (await makeRun()).ready();
      if (whom === "make") running.make.signal(signal);
      else {
        const scripts = (await run("pgrep", ["-P", String(running.make.pid)])).trim().split("\n").map(Number);
        for (const pid of scripts) process.kill(pid, signal);
      }
      await running.gone();
      await running.make.exited;
    }
  });

  test("when one of its programs ends, with the reason", { timeout: 180_000 }, async () => {
    const running = await (await makeRun()).ready();
    const [gateway] = processesWith(`${running.folder}/routes`).filter((pid) => processesWith("tidings-gateway").includes(pid));
    process.kill(gateway, "SIGKILL");
    assert.notEqual(await running.make.exited, 0);
    await running.gone();
    assert.match(running.make.output, /error: gateway ended/);
  });

  test("at once with a clear error when a port is taken", { timeout: 180_000 }, async () => {
    for (const [variable, offset, answer] of [
      ["PORT", 0, "make run PORT="],
      ["ADMIN_PORT", 1, "make run ADMIN_PORT="],
      ["ADMIN_PORT", 2, "make run ADMIN_PORT="],
      ["NATS_PORT", 3, "make run NATS_URL=nats://127.0.0.1:"],
    ]) {
      const port = await freePorts(4);
      const other = await occupy(port + offset);
      const running = await makeRun({ PORT: port, ADMIN_PORT: port + 1, NATS_PORT: port + 3 });
      assert.notEqual(await running.make.exited, 0, `${variable} was taken`);
      assert.match(running.make.output, new RegExp(`error: port ${port + offset} is taken`));
      assert.ok(running.make.output.includes(answer), running.make.output);
      assert.deepEqual(running.started(), []);
      other.close();
    }
  });

  test("without touching a NATS server that already ran", { timeout: 180_000 }, async () => {
    const running = await (await makeRun({ NATS_URL: `nats://127.0.0.1:${foreignPort}` })).ready();
    assert.equal(running.started().length, 2, "operator and gateway");
    const subscriber = start("sh", ["-c", running.line("subscribe")], { group: true });
    await subscriber.prints("the checkpoint", (output) => /^id: /m.test(output));
    await shell(running.line("publish by NATS"));
    await subscriber.prints("the publication", (output) => output.includes("data: Hello from NATS"));
    running.make.signalGroup("SIGINT");
    await running.gone();
  });
});
