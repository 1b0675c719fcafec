// Reads an event stream by the rules of the HTML standard (section 9.2.6). Pure: bytes in, blocks out.

/** What the stream consists of, to whoever acts on it. */
export interface Sink {
  /** An event with its type, its data, and the last id that the stream has given. */
  event(type: string, data: string, id: string): void;
  /** The position has moved without an event. */
  position(id: string): void;
  /** How many milliseconds to wait before a reconnection. */
  retry(milliseconds: number): void;
}

/** Characters of one event that are kept until it is complete. Channels allow events of 64 MiB at most. */
const MAX_EVENT = 1 << 27;

/** A parser for one response; `lastId` is the position that it was asked for. Its function throws at an event that is too large. */
export function parser(sink: Sink, lastId = ""): (bytes: Uint8Array) => void {
  const decoder = new TextDecoder(); // Without the byte order mark; a character may be spread over chunks.
  let afterCarriageReturn = false;
  let line = "";
  let size = 0;
  let type = "";
  let data = "";
  let id = lastId;

  const field = (text: string): void => {
    const colon = text.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? text : text.slice(0, colon);
    let value = colon < 0 ? "" : text.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1);
    if (name === "data") data += value + "\n";
    else if (name === "event") type = value;
    else if (name === "id" && !value.includes("\0")) id = value;
    else if (name === "retry" && /^\d+$/.test(value)) sink.retry(+value);
  };

  const end = (): void => {
    // An id counts with the end of its block, also of one without data.
    const moved = id !== lastId;
    lastId = id;
    const [itsType, itsData] = [type || "message", data];
    type = data = "";
    size = 0;
    if (itsData) sink.event(itsType, itsData.slice(0, -1), id);
    else if (moved) sink.position(id);
  };

  return (bytes) => {
    let text = decoder.decode(bytes, { stream: true });
    if (!text) return;
    if (afterCarriageReturn && text[0] === "\n") text = text.slice(1);
    afterCarriageReturn = text ? text.endsWith("\r") : false;
    let from = 0;
    for (const { index, 0: mark } of text.matchAll(/\r\n?|\n/g)) {
      line += text.slice(from, index);
      from = index + mark.length;
      size += line.length;
      const complete = line;
      line = "";
      if (complete) field(complete);
      else end();
    }
    line += text.slice(from);
    if (size + line.length > MAX_EVENT) throw new RangeError("an event of the stream is too large");
  };
}
