import assert from "node:assert/strict";
import { test } from "node:test";

import { parser } from "../dist/parser.js";

/** What a parser tells of these chunks. */
function told(chunks, lastId) {
  const all = [];
  const feed = parser(
    {
      event: (...event) => all.push(["event", ...event]),
      position: (id) => all.push(["position", id]),
      retry: (milliseconds) => all.push(["retry", milliseconds]),
    },
    lastId,
  );
  for (const chunk of chunks) feed(typeof chunk === "string" ? new TextEncoder().encode(chunk) : chunk);
  return all;
}

const stream =
  "\uFEFFretry: 4210\r\nevent: tidings.position\r\ndata:\r\nid: e-1-a\r\n\r\n" +
  ": a comment\ndata: naïve ☃\ndata:  日本 😀\n\n:\n\nid: e-3\n\nevent: typed\rdata\rid: e-4\r\rdata: cut";

const expected = [
  ["retry", 4210],
  ["event", "tidings.position", "", "e-1-a"],
  ["event", "message", "naïve ☃\n 日本 😀", "e-1-a"],
  ["position", "e-3"],
  ["event", "typed", "", "e-4"],
];

test("a stream with all line ends, a byte order mark, comments and UTF-8", () => {
  assert.deepEqual(told([stream]), expected);
});

test("it may be cut into chunks anywhere", () => {
  const bytes = new TextEncoder().encode(stream);
  for (let at = 0; at <= bytes.length; at++) assert.deepEqual(told([bytes.subarray(0, at), bytes.subarray(at)]), expected, `cut at ${at}`);
  assert.deepEqual(told(Array.from(bytes, (byte) => Uint8Array.of(byte))), expected);
});

test("an id counts with the end of its block, and stays", () => {
  assert.deepEqual(told(["id: e-9\ndata: cut"], "e-8"), []);
  assert.deepEqual(told(["data: x\n\n"], "e-8"), [["event", "message", "x", "e-8"]]);
  assert.deepEqual(told(["id: e-8\n\n"], "e-8"), []);
  assert.deepEqual(told(["id\ndata: x\n\n"], "e-8"), [["event", "message", "x", ""]]);
  assert.deepEqual(told(["id: a\0b\ndata: x\n\n"], "e-8"), [["event", "message", "x", "e-8"]]);
});

test("fields as the standard has them", () => {
  assert.deepEqual(told(["data:x\nother: y\n data: z\nData: w\n\n"]), [["event", "message", "x", ""]]);
  assert.deepEqual(told(["event: only\n\ndata: x\n\n"]), [["event", "message", "x", ""]], "a type without data is dropped");
  assert.deepEqual(told(["retry: 1e3\nretry: -1\nretry:\nretry: 12\n"]), [["retry", 12]]);
  assert.deepEqual(told(["data\n\ndata\ndata\n\n"]), [["event", "message", "", ""], ["event", "message", "\n", ""]]);
});
