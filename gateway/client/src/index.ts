// Subscribes to a channel of Tidings. What is seen of it is in types.ts.

import { canShare, makeSharedStream } from "./shared.js";
import { address, makeStream, type Listener } from "./stream.js";
import { TidingsError, type Options, type State, type Subscription } from "./types.js";

export { TidingsError };
export type { End, Gap, Options, State, Subscription, TidingsEvent, Token } from "./types.js";

/** Calls a function of the user: what it throws is reported as an error of its own, and harms no stream. */
function call<T>(callback: ((value: T) => void) | undefined, value: T): void {
  try {
    callback?.(value);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** Data of a control event. */
function details(data: string): { reason: string } {
  try {
    return { reason: "", ...JSON.parse(data) };
  } catch {
    return { reason: "" };
  }
}

/** Subscribes to the events of a channel, until `close()` is called, the signal is aborted, or the gateway refuses for good. */
export function subscribe(url: string | URL, given: Options): Subscription {
  const options: Options = given.shared ? { from: "new", ...given } : given;
  if (options.shared && options.from !== "new") throw new TypeError('shared subscriptions begin with from: "new"');
  const { signal } = options;
  let state: State = "connecting";
  let id = options.lastEventId ?? "";
  let told: State | undefined;

  const become = (next: State): void => {
    if (state === "closed" || next === told) return;
    told = state = next;
    call(options.onState, next);
  };
  const listener: Listener = {
    event(type, data, itsId) {
      if (state === "closed") return;
      id = itsId;
      if (!type.startsWith("tidings.")) call(options.onEvent, { type, data, id });
      else if (type === "tidings.gap") call(options.onGap, details(data));
      else if (type === "tidings.oversize") call(options.onGap, { ...details(data), reason: "oversize" });
      else if (type === "tidings.end") call(options.onEnd, details(data));
    },
    position: (itsId) => void (id = itsId),
    state: become,
    fail(error) {
      close();
      call(options.onError, error);
    },
  };
  const full = address(url, options);
  const stream =
    options.shared && canShare()
      ? makeSharedStream(`tidings ${JSON.stringify([full.href, options.shared, options.types, options.withCredentials])}`, full, options, listener)
      : makeStream(full, options, listener);

  const close = (): void => {
    if (state === "closed") return;
    stream.stop();
    unwatch();
    signal?.removeEventListener("abort", close);
    become("closed");
  };
  const unwatch = watchPage({
    hide: () => stream.stop(),
    show: () => stream.start(id),
    wake: () => stream.wake(),
  });
  signal?.addEventListener("abort", close);
  if (signal?.aborted) close();
  else stream.start(id);
  return {
    get state() {
      return state;
    },
    get lastEventId() {
      return id;
    },
    close,
  };
}

/** Tells when a page goes into the back/forward cache, comes back from there, or is seen again. Returns what ends that. */
function watchPage(page: { hide(): void; show(): void; wake(): void }): () => void {
  if (typeof document === "undefined") return () => {};
  const listening = new AbortController();
  const on = (target: EventTarget, type: string, act: (event: Event) => void): void =>
    target.addEventListener(type, act, { signal: listening.signal });
  const kept = (event: Event): boolean => (event as PageTransitionEvent).persisted;
  on(window, "pagehide", (event) => kept(event) && page.hide());
  on(window, "pageshow", (event) => kept(event) && page.show());
  on(window, "online", page.wake);
  on(document, "visibilitychange", () => document.hidden || page.wake());
  return () => listening.abort();
}
