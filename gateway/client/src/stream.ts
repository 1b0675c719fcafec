// Keeps one stream going: connects, waits, renews tokens, goes on from the last position. Who shares it is not its business.

import { overEventSource, overFetch, type Connect, type Observer } from "./connection.js";
import { decide, FIRST, type Outcome } from "./retry.js";
import { expiry, renewIn } from "./token.js";
import { TidingsError, type Options, type State } from "./types.js";

/** Whom a stream tells. */
export interface Listener {
  /** An event of any type, the gateway's own included. */
  event(type: string, data: string, id: string): void;
  /** The position has moved without an event. */
  position(id: string): void;
  state(state: State): void;
  /** It was refused for good; it has stopped. */
  fail(error: TidingsError): void;
}

export interface Stream {
  /** Begins, or begins again, behind this position. */
  start(id: string): void;
  stop(): void;
  /** The page is seen again, or the network is back: try now what was waiting for that. */
  wake(): void;
}

/** The address of the events, absolute. */
export function address(url: string | URL, { topics, from }: Options): URL {
  const base = (globalThis as { location?: { href: string } }).location?.href;
  const full = new URL(url, base);
  for (const topic of topics ?? []) full.searchParams.append("topic", topic);
  if (from) full.searchParams.set("from", typeof from === "string" ? from : from.toISOString());
  return full;
}

/** Makes a stream that does nothing yet. */
export function makeStream(url: URL, options: Options, listener: Listener): Stream {
  const byEventSource = (options.transport ?? (typeof EventSource === "undefined" ? "fetch" : "eventsource")) === "eventsource";
  const connect: Connect = byEventSource ? overEventSource : overFetch;
  const canRenew = typeof options.token === "function";
  let id = "";
  let attempts = FIRST;
  let token: string | undefined;
  let stale = true; // The token has to be asked for before the next attempt.
  let patient = false; // The server has said how long to wait.
  let end: (() => void) | undefined; // Ends the attempt that is under way.
  let timer: ReturnType<typeof setTimeout> | undefined; // The next attempt.
  let renewal: ReturnType<typeof setTimeout> | undefined;
  let run = 0; // What was asked for by an earlier run is dropped.

  const stop = (): void => {
    run += 1;
    clearTimeout(timer);
    clearTimeout(renewal);
    timer = undefined;
    end?.();
    end = undefined;
  };

  const getToken = async (): Promise<string | undefined> =>
    (typeof options.token === "function" ? await options.token() : options.token) || undefined;

  const attempt = async (): Promise<void> => {
    stop();
    const mine = run;
    listener.state("connecting");
    if (run !== mine) return;
    const known = token && expiry(token);
    if (stale || (canRenew && known && known <= Date.now())) {
      try {
        const fresh = await getToken();
        if (run !== mine) return;
        token = fresh;
        stale = false;
      } catch {
        if (run === mine) over({ kind: "network" });
        return;
      }
    }
    open();
  };

  const open = (): void => {
    const target = new URL(url);
    if (byEventSource) {
      if (token) target.searchParams.set("access_token", token);
      if (id) target.searchParams.set("last_event_id", id);
    }
    const { types = [], withCredentials = false, silence = 30_000 } = options;
    scheduleRenewal();
    end = connect({ url: target.href, token: byEventSource ? undefined : token, lastEventId: id, types, withCredentials, silence }, observer);
  };

  const scheduleRenewal = (): void => {
    const pause = canRenew && token ? renewIn(token, Date.now(), Math.random()) : undefined;
    if (pause === undefined) return;
    const mine = run;
    renewal = setTimeout(async () => {
      const fresh = await getToken().catch(() => token);
      if (run !== mine) return;
      if (fresh === token) return scheduleRenewal();
      token = fresh;
      stale = false;
      // Between two attempts the next one takes it; an open stream goes on with it from its position.
      if (end) void attempt();
    }, pause);
  };

  const over = (outcome: Outcome, error?: TidingsError): void => {
    stop();
    const decision = decide(attempts, outcome, canRenew, Math.random());
    if (decision.next === "fail") return listener.fail(error ?? new TidingsError("The stream was refused"));
    attempts = decision.attempts;
    if (decision.next === "renew") {
      stale = true;
      void attempt();
      return;
    }
    patient = decision.told;
    timer = setTimeout(() => void attempt(), decision.milliseconds);
    listener.state("waiting");
  };

  const observer: Observer = {
    opened() {
      attempts = { ...attempts, renewed: false };
      listener.state("open");
    },
    waiting: () => listener.state("waiting"),
    retry: (milliseconds) => void (attempts = { ...attempts, retry: milliseconds }),
    event(type, data, itsId) {
      id = itsId;
      attempts = { ...attempts, failures: 0 };
      if (type === "tidings.end" && canRenew && data.includes("token-expired")) {
        stale = true;
        // EventSource would come back with the old one, and does not tell how long to wait.
        if (byEventSource) over({ kind: "ended", told: true });
      }
      listener.event(type, data, itsId);
    },
    position(itsId) {
      id = itsId;
      listener.position(itsId);
    },
    over,
  };

  return {
    start(from) {
      id = from;
      attempts = FIRST;
      void attempt();
    },
    stop,
    wake() {
      if (timer !== undefined && !patient) void attempt();
    },
  };
}
