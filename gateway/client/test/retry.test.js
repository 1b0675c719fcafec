import assert from "node:assert/strict";
import { test } from "node:test";

import { decide, FIRST, retryAfter } from "../dist/retry.js";

const network = { kind: "network" };
const status = (status, retryAfter) => ({ kind: "status", status, retryAfter });

test("a stream that ended waits for as long as it said, and up to half as long again", () => {
  const attempts = { ...FIRST, retry: 4210, failures: 3 };
  const decision = decide(attempts, { kind: "ended", told: true }, false, 0);
  assert.deepEqual(decision, { next: "wait", milliseconds: 4210, told: true, attempts: { ...attempts, failures: 0 } });
  assert.equal(decide(attempts, { kind: "ended", told: true }, false, 1).milliseconds, 6315);
});

test("attempts without an answer come at growing intervals with a bound", () => {
  const pauses = [];
  for (let attempts = FIRST, n = 0; n < 2_000; n++) {
    const decision = decide(attempts, n % 2 ? network : { kind: "ended", told: false }, false, 0);
    pauses.push(decision.milliseconds);
    attempts = decision.attempts;
  }
  assert.deepEqual(pauses.slice(0, 6), [3_000, 6_000, 12_000, 24_000, 30_000, 30_000]);
  assert.equal(pauses.at(-1), 30_000);
});

test("no server makes a client hammer it or wait for ever", () => {
  for (const [retry, expected] of [[0, 100], [60_000, 60_000], [1e300, 3_600_000]]) {
    for (const outcome of [{ kind: "ended", told: true }, network]) {
      assert.equal(decide({ ...FIRST, retry }, outcome, false, 0).milliseconds, expected);
    }
  }
  assert.equal(decide(FIRST, status(503, 1e300), false, 0).milliseconds, 3_600_000);
});

test("refusals are final, what passes by itself is not", () => {
  for (const final of [200, 204, 400, 401, 403, 404, 405, 410, 501]) assert.deepEqual(decide(FIRST, status(final), false, 0), { next: "fail" });
  for (const passing of [408, 425, 429, 500, 502, 503, 504]) assert.equal(decide(FIRST, status(passing), false, 0).next, "wait");
  assert.equal(decide(FIRST, status(503, 7_000), false, 0).milliseconds, 7_000);
});

test("a 401 asks for a new token once", () => {
  const renew = decide(FIRST, status(401), true, 0);
  assert.deepEqual(renew, { next: "renew", attempts: { ...FIRST, renewed: true } });
  assert.deepEqual(decide(renew.attempts, status(401), true, 0), { next: "fail" });
  const waited = decide(renew.attempts, network, true, 0);
  assert.deepEqual(decide(waited.attempts, status(401), true, 0), { next: "fail" }, "also after a pause");
});

test("Retry-After is seconds or a date", () => {
  const now = Date.UTC(2026, 10, 1);
  assert.equal(retryAfter("7", now), 7_000);
  assert.equal(retryAfter(new Date(now + 9_000).toUTCString(), now), 9_000);
  assert.equal(retryAfter(new Date(now - 9_000).toUTCString(), now), 0);
  for (const nothing of [null, "", "soon"]) assert.equal(retryAfter(nothing, now), undefined);
});
