// One stream for all tabs: the tab that holds a Web Lock reads it, and tells the others over a BroadcastChannel. When it closes or no
// longer answers, the next one takes over. Each tab has a position of its own: what it has, it drops; what it missed, it asks for.

import { compare, judge } from "./position.js";
import { makeStream, type Listener, type Stream } from "./stream.js";
import { TidingsError, type Options, type State } from "./types.js";

type Message =
  /** A tab says where it is, and wants to know that somebody reads. */
  | { kind: "hello"; id: string }
  /** The reader: its state and its position. */
  | { kind: "state"; state: State; id: string }
  | { kind: "event"; type: string; data: string; id: string; previous: string }
  | { kind: "position"; id: string; previous: string }
  | { kind: "fail"; error: [string, number, string, string] };

/** How often a tab asks whether the reader is still there, and how long it waits for an answer. */
const ASK = 15_000;
const ANSWER = 5_000;

export const canShare = (): boolean =>
  typeof BroadcastChannel !== "undefined" && typeof navigator !== "undefined" && !!navigator.locks;

/** A stream that is shared with all that have the same `name`. */
export function makeSharedStream(name: string, url: URL, options: Options, listener: Listener): Stream {
  let own = ""; // What this tab has.
  let cursor = ""; // Where the reader is, if it is this tab.
  let channel: BroadcastChannel | undefined;
  let abort: AbortController | undefined;
  let release: (() => void) | undefined; // Set while this tab reads.
  let asking: ReturnType<typeof setInterval> | undefined;
  let answer: ReturnType<typeof setTimeout> | undefined;
  let asked = "";

  const post = (message: Message): void => channel?.postMessage(message);

  const parse = (data: string): { after?: unknown } => {
    try {
      return Object(JSON.parse(data)) as { after?: unknown };
    } catch {
      return {};
    }
  };

  /** What this tab or another one has read. */
  const take = (message: Message): void => {
    if (message.kind === "state") return listener.state(message.state);
    if (message.kind === "fail") {
      stop();
      return listener.fail(new TidingsError(...message.error));
    }
    if (message.kind === "hello") return;
    const event = message.kind === "event" ? message : undefined;
    const verdict = judge(own, message.previous, message.id, event?.type === "tidings.gap" ? parse(event.data) : undefined);
    if (verdict === "behind") return hello();
    if (verdict === "take") own = message.id;
    // The end of a stream moves nobody, and concerns all.
    else if (event?.type !== "tidings.end") return;
    if (event) listener.event(event.type, event.data, own);
    else listener.position(own);
  };

  const tell = (message: Message): void => {
    post(message);
    take(message);
  };
  let state: State = "connecting";
  const reader = makeStream(url, options, {
    event(type, data, id) {
      const previous = cursor;
      cursor = id;
      tell({ kind: "event", type, data, id, previous });
    },
    position(id) {
      const previous = cursor;
      cursor = id;
      tell({ kind: "position", id, previous });
    },
    state(now) {
      state = now;
      tell({ kind: "state", state: now, id: cursor });
    },
    fail: ({ title, status, detail, type }) => tell({ kind: "fail", error: [title, status, detail, type] }),
  });

  const hello = (): void => {
    if (release || (own && asked === own)) return; // The answer to the same question is under way.
    asked = own;
    post({ kind: "hello", id: own });
    answer ??= setTimeout(() => {
      answer = undefined;
      asked = "";
      // Suspended, or gone in a way that its lock does not show.
      lead(true);
    }, ANSWER);
  };

  const hear = ({ data: message }: MessageEvent<Message>): void => {
    if (message.kind === "hello") {
      if (!release) return;
      // Somebody is behind: read again from there. The others drop what they have.
      if (message.id && cursor && message.id !== cursor && !(compare(message.id, cursor) >= 0)) {
        reader.start((cursor = message.id));
      } else {
        post({ kind: "state", state, id: cursor });
      }
      return;
    }
    clearTimeout(answer);
    answer = undefined;
    if (release) return; // The last words of one that this tab took over from.
    if (message.kind === "state") {
      asked = "";
      if (!own && message.id) listener.position((own = message.id));
      // A new reader, or an old one, that is further than this tab: events may lie between.
      if (own && message.id && compare(own, message.id) < 0) hello();
    }
    take(message);
  };

  const lead = (steal: boolean): void => {
    if (!abort) return;
    const { signal } = abort;
    let held = false;
    const work = (): Promise<void> | void => {
      if (signal.aborted || release) return;
      clearTimeout(answer);
      answer = undefined;
      held = true;
      return new Promise((resolve) => {
        release = resolve;
        reader.start((cursor = own));
      });
    };
    navigator.locks.request(name, steal ? { steal } : { signal }, work).catch(() => {
      // Stolen, or no longer wanted.
      if (signal.aborted || !held) return;
      release = undefined;
      reader.stop();
      // One that stole still stands in the queue.
      if (!steal) lead(false);
    });
  };

  const stop = (): void => {
    abort?.abort();
    abort = undefined;
    reader.stop();
    release?.();
    release = undefined;
    clearInterval(asking);
    clearTimeout(answer);
    answer = undefined;
    channel?.close();
    channel = undefined;
  };

  return {
    start(id) {
      stop();
      own = id;
      asked = "";
      listener.state("connecting");
      abort = new AbortController();
      channel = new BroadcastChannel(name);
      channel.onmessage = hear;
      asking = setInterval(() => {
        asked = "";
        hello();
      }, ASK);
      lead(false);
      hello();
    },
    stop,
    wake() {
      asked = "";
      if (release) reader.wake();
      else hello();
    },
  };
}
