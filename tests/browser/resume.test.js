// Chromium's own EventSource: over a gateway that is killed in mid-stream, and with tokens in both places where a page can
// have one.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";

import { openBrowser } from "./browser.js";
import { made, scraped } from "./evidence.js";
import { connect } from "./publisher.js";
import { startStack } from "./stack.js";

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

const members = `
apiVersion: tidings.dev/v1alpha1
kind: Channel
metadata: { name: members, namespace: test }
spec:
  access:
    tokenSources: [Cookie, Query]
    subscribe: { mode: Token, topics: ["user.{sub}"] }
`;

const SECRET = "thirty-two bytes that nobody can guess";
const ISSUER = "https://id.example";

/** A token of the issuer in the settings, good for an hour. */
function token(sub) {
  const encode = (document) => Buffer.from(JSON.stringify(document)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const body = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ iss: ISSUER, aud: "tidings", sub, exp })}`;
  const signed = `${body}.${createHmac("sha256", SECRET).update(body).digest("base64url")}`;
  made(signed);
  return signed;
}

let browser, stack;

before(async () => {
  stack = await startStack({ numbers: manifest, members }, (folder) => {
    writeFileSync(path.join(folder, "secret"), SECRET);
    const issuer = `{ name: main, issuer: ${ISSUER}, audience: tidings, algorithms: [HS256], secret: { file: ${folder}/secret } }`;
    return `issuers: [${issuer}]\ncookie: session\n`;
  });
  browser = await openBrowser();
});

after(async () => {
  await browser?.close();
  await stack?.stop();
});

test("a page receives every event exactly once and in order while its gateway is killed and replaced", { timeout: 180_000 }, async () => {
  let gateway = await stack.startGateway();
  const page = await browser.newPage();
  await page.goto(`${stack.base}/`);
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

  const publisher = await connect(stack.nats);
  const published = publisher.publishNumbers("tidings.test.numbers", TOTAL, PER_SECOND);
  for (const kill of KILLS) {
    await page.waitForFunction((kill) => record.events.length >= kill, kill, { timeout: 60_000 });
    await gateway.kill();
    gateway = await stack.startGateway();
  }
  const seconds = await published;
  publisher.close();
  assert.ok(seconds < (TOTAL / PER_SECOND) * 1.25, `the publisher kept its pace: ${TOTAL} in ${seconds} s`);

  await page
    .waitForFunction((total) => record.events.length >= total, TOTAL, { timeout: 60_000 })
    .catch(() => {}); // The comparison below says what is missing.
  const record = await page.evaluate(() => record);
  await gateway.kill();

  const expected = Array.from({ length: TOTAL }, (_, index) => index + 1);
  const numbers = record.events.map(([data]) => Number(data));
  const sequences = record.events.map(([, id]) => Number(id.split("-")[1]));
  assert.equal(firstDifference(numbers, expected), null);
  assert.equal(firstDifference(sequences, expected), null);
  assert.equal(new Set(record.events.map(([, id]) => id.split("-")[0])).size, 1, "one epoch");
  assert.deepEqual(record.control, [], "no gap was announced, for there was none");
  assert.equal(record.opened, 1 + KILLS.length, "every kill cut the stream, once");
});

test("pages subscribe with a token in the cookie or in the address, and the gateway tells neither", { timeout: 120_000 }, async () => {
  const gateway = await stack.startGateway();
  const base = stack.base;
  const publisher = await connect(stack.nats);
  for (const [user, other, place] of [["ann", "bob", "cookie"], ["bob", "ann", "address"]]) {
    const context = await browser.newContext();
    const signed = token(user);
    if (place === "cookie") await context.addCookies([{ name: "session", value: signed, url: base }]);
    const page = await context.newPage();
    await page.goto(base);
    await page.evaluate((query) => {
      window.seen = { data: [], opened: false };
      const source = new EventSource(`/channels/test/members/events${query}`);
      source.onopen = () => (seen.opened = true);
      source.onmessage = (event) => seen.data.push(event.data);
    }, place === "cookie" ? "" : `?access_token=${signed}`);
    await page.waitForFunction(() => seen.opened);
    for (const name of [other, user]) publisher.publish(`tidings.test.members.user.${name}`, name);
    await page.waitForFunction(() => seen.data.length > 0);
    assert.deepEqual(await page.evaluate(() => seen.data), [user], `the token of ${user}, in the ${place}`);
    await context.close();
  }
  publisher.close();
  const metrics = await fetch(`${stack.admin}/metrics`);
  scraped(await metrics.text());
  await gateway.kill();
  assert.doesNotMatch(gateway.output, /eyJ/, "every token begins like this");
});

/** Where two lists part, with what stands around it: six thousand lines of difference would tell less. */
function firstDifference(actual, expected) {
  const length = Math.max(actual.length, expected.length);
  const at = Array.from({ length }, (_, index) => index).find((index) => actual[index] !== expected[index]);
  if (at === undefined) return null;
  return `at ${at} of ${expected.length} (${actual.length} received): ${actual.slice(Math.max(0, at - 3), at + 5)}`;
}
