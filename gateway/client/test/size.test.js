import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

test("the package is at most 5,000 bytes, minified and compressed", (t) => {
  const size = gzipSync(readFileSync(new URL("../dist/tidings.min.js", import.meta.url)), { level: 9 }).length;
  t.diagnostic(`${size} bytes`);
  assert.ok(size <= 5_000, `${size} bytes`);
});
