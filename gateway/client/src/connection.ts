// One attempt to read a stream, over EventSource or fetch. Decides nothing: it tells what comes and how it ends.

import { parser, type Sink } from "./parser.js";
import { retryAfter, type Outcome } from "./retry.js";
import { TidingsError } from "./types.js";

/** What an attempt needs to know. */
export interface Target {
  url: string;
  /** Headers, for fetch only. */
  token: string | undefined;
  lastEventId: string;
  types: readonly string[];
  withCredentials: boolean;
  silence: number;
}

/** Whom an attempt tells. After `over` or after it was closed it tells nothing more. */
export interface Observer extends Sink {
  opened(): void;
  /** EventSource waits, and connects again by itself. */
  waiting(): void;
  over(outcome: Outcome, error?: TidingsError): void;
}

/** Starts an attempt; the function that it returns ends it. */
export type Connect = (target: Target, observer: Observer) => () => void;

const CONTROL = ["tidings.position", "tidings.gap", "tidings.oversize", "tidings.end"];

const STREAM = "text/event-stream";

function get({ url, token, lastEventId, withCredentials }: Target, signal: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = { accept: STREAM };
  if (token) headers["authorization"] = `Bearer ${token}`;
  if (lastEventId) headers["last-event-id"] = lastEventId;
  return fetch(url, { headers, signal, cache: "no-store", credentials: withCredentials ? "include" : "same-origin" });
}

const isStream = (response: Response): boolean =>
  response.status === 200 && !!response.headers.get("content-type")?.toLowerCase().startsWith(STREAM);

/** What an answer means that is no stream. */
async function refusal(response: Response): Promise<[Outcome, TidingsError]> {
  const { status, headers } = response;
  const problem: Record<string, unknown> = await response.json().catch(() => ({}));
  const text = (name: string) => (typeof problem?.[name] === "string" ? (problem[name] as string) : undefined);
  const title = text("title") ?? (response.ok ? "The answer is not an event stream" : `HTTP status ${status}`);
  const after = retryAfter(headers.get("retry-after"), Date.now());
  return [{ kind: "status", status, retryAfter: after }, new TidingsError(title, status, text("detail"), text("type"))];
}

/** Reads with fetch: tokens in a header, all types of events. */
export const overFetch: Connect = (target, observer) => {
  const abort = new AbortController();
  let told = false;
  let closed = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const over = (outcome: Outcome, error?: TidingsError): void => {
    if (closed) return;
    close();
    observer.over(outcome, error);
  };
  const alive = (): void => {
    clearTimeout(timer);
    if (!closed) timer = setTimeout(() => over({ kind: "network" }), target.silence);
  };
  const close = (): void => {
    closed = true;
    clearTimeout(timer);
    abort.abort();
  };
  const sink: Sink = {
    event(type, data, id) {
      told = true;
      if (!closed) observer.event(type, data, id);
    },
    position: (id) => closed || observer.position(id),
    retry(milliseconds) {
      told = true;
      if (!closed) observer.retry(milliseconds);
    },
  };
  const run = async (): Promise<void> => {
    alive();
    const response = await get(target, abort.signal);
    if (!isStream(response)) return over(...(await refusal(response)));
    if (!closed) observer.opened();
    const reader = response.body!.getReader();
    const feed = parser(sink, target.lastEventId);
    for (;;) {
      const { done, value } = await reader.read();
      if (done || closed) break;
      alive();
      feed(value);
    }
  };
  // A stream that is cut after it has told something ends as one that is complete does: the gateway leaves out the last chunk.
  run().then(
    () => over({ kind: "ended", told }),
    (error: unknown) =>
      error instanceof RangeError
        ? over({ kind: "status", status: 200 }, new TidingsError(error.message))
        : over(told ? { kind: "ended", told } : { kind: "network" }),
  );
  return close;
};

/** Reads with EventSource, which reconnects by itself as long as that helps. */
export const overEventSource: Connect = (target, observer) => {
  const source = new EventSource(target.url, { withCredentials: target.withCredentials });
  const abort = new AbortController();
  let interrupted = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const close = (): void => {
    source.close();
    abort.abort();
    clearTimeout(timer);
    source.onopen = source.onerror = null;
    for (const type of types) source.removeEventListener(type, take);
  };
  const over = (outcome: Outcome, error?: TidingsError): void => {
    if (abort.signal.aborted) return;
    close();
    observer.over(outcome, error);
  };
  const take = (event: Event): void => {
    const { type, data, lastEventId } = event as MessageEvent<string>;
    observer.event(type, data, lastEventId);
  };
  const types = new Set(["message", ...target.types, ...CONTROL]);
  for (const type of types) source.addEventListener(type, take);
  source.onopen = () => {
    interrupted = false;
    observer.opened();
  };
  source.onerror = async () => {
    // It does not tell a reconnection that failed from the first; the pauses between more of them are ours, and grow.
    if (source.readyState === EventSource.CONNECTING) {
      if (interrupted) return over({ kind: "network" });
      interrupted = true;
      return observer.waiting();
    }
    // It has given up, and does not say why: ask, and read the answer.
    timer = setTimeout(() => over({ kind: "network" }), target.silence);
    try {
      const response = await get({ ...target, lastEventId: "", token: undefined }, abort.signal);
      if (!isStream(response)) return over(...(await refusal(response)));
    } catch {
      // No answer either.
    }
    over({ kind: "network" });
  };
  return close;
};
