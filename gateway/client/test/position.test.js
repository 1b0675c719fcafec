import assert from "node:assert/strict";
import { test } from "node:test";

import { compare, judge } from "../dist/position.js";

test("positions of one epoch are in order", () => {
  assert.ok(compare("e-9-x", "e-10-a") < 0);
  assert.equal(compare("e-9-x", "e-9"), 0);
  for (const [a, b] of [["e-9", "f-9"], ["", "e-9"], ["e", "e-9"]]) assert.ok(Number.isNaN(compare(a, b)), `${a} ${b}`);
});

test("a tab takes what follows what it has", () => {
  assert.equal(judge("", "e-4", "e-5"), "take", "it has nothing yet");
  assert.equal(judge("e-4-s", "e-4-s", "e-5-s"), "take");
  assert.equal(judge("no position", "no position", "e-5"), "take");
  assert.equal(judge("e-6", "e-4", "e-9"), "take", "what the reader passed over was of other topics");
});

test("it drops what it has, and notices what it missed", () => {
  assert.equal(judge("e-5", "e-4", "e-5"), "drop");
  assert.equal(judge("e-7", "e-4", "e-5"), "drop");
  assert.equal(judge("e-3", "e-4", "e-5"), "behind");
  assert.equal(judge("e-3", "", "e-5"), "behind", "the reader has just begun");
  assert.equal(judge("d-9", "e-4", "e-5"), "behind", "of another epoch");
});

test("a gap concerns those that it lies before", () => {
  assert.equal(judge("e-3-s", "e-3-s", "e-9", { after: "e-3-s" }), "take");
  assert.equal(judge("e-12", "e-3", "e-9", { after: "e-3" }), "drop", "it has what comes behind the gap");
  assert.equal(judge("d-3", "d-3", "e-9", { after: "d-1" }), "take", "all of another epoch");
  assert.equal(judge("e-12", "e-12", "e-9", { after: "e-12" }), "take", "the stream went back in time");
});
