import assert from "node:assert/strict";
import { test } from "node:test";

import { expiry, renewIn } from "../dist/token.js";

const jwt = (claims) => `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.x`;

test("the expiry is read, whatever else is in the token", () => {
  assert.equal(expiry(jwt({ exp: 1_800_000_000, name: "naïve ☃ ÿþ>>>???" })), 1_800_000_000_000);
  for (const none of ["", "a", "a.b", "a.!!.c", jwt(null), jwt([]), jwt("x"), jwt({}), jwt({ exp: "soon" })]) assert.equal(expiry(none), undefined, none);
});

test("a token is renewed before it expires", () => {
  const now = 1_800_000_000_000;
  const token = jwt({ exp: now / 1000 + 3_600 });
  assert.equal(renewIn(token, now, 0), 2_700_000);
  assert.equal(Math.round(renewIn(token, now, 1)), 3_240_000);
  assert.equal(renewIn(token, now + 3_599_000, 0), undefined, "not again and again at the end");
  assert.equal(renewIn(token, now + 9_999_000, 0), undefined);
  assert.equal(renewIn("opaque", now, 0), undefined);
  assert.equal(renewIn(jwt({ exp: now }), now, 0), 2 ** 31 - 1, "no timer is longer");
});
