// What users of the package see.

/** An event of the channel. */
export interface TidingsEvent {
  /** Its type: `message` if it was published without one. */
  readonly type: string;
  readonly data: string;
  /** Its position. */
  readonly id: string;
}

/** Events are missing: load what you show again. */
export interface Gap {
  /** `expired`, `reset`, `unknown-position`, `dropped`; `oversize`: one event is too large to be sent. */
  readonly reason: string;
  readonly [detail: string]: unknown;
}

/** The gateway has ended the stream. The subscription goes on by itself. */
export interface End {
  /** `shutdown`, `token-expired`, `access-changed`, … */
  readonly reason: string;
}

/** `waiting`: for the time of the next attempt. `closed`: for good, by you or with an error. */
export type State = "connecting" | "open" | "waiting" | "closed";

/** A token, or a function that gets one. One that returns nothing has renewed a cookie. */
export type Token = string | (() => string | undefined | void | Promise<string | undefined | void>);

export interface Options {
  /** Topics or filters with `*` and `>`. Absent: all that you may see. */
  topics?: readonly string[];
  /** Where to start: `new`, `all`, `last`, `last-per-topic`, or a time. Absent: what the channel says. */
  from?: string | Date;
  /** The id of the last event that you have: it goes on behind it. Counts more than `from`. */
  lastEventId?: string;
  /** Types of events besides `message`. EventSource hears only those; the fetch transport hears all and ignores this. */
  types?: readonly string[];
  token?: Token;
  /** `eventsource` where there is one, else `fetch`. */
  transport?: "eventsource" | "fetch";
  /** One connection for all tabs of the origin that subscribe to the same. Only with `from: "new"`, which is then the default. */
  /** A text keeps apart who must not share: tabs of different users. */
  shared?: boolean | string;
  /** Cookies for another origin. */
  withCredentials?: boolean;
  /** The fetch transport takes a connection for lost that has been silent for so long. In milliseconds, 30,000 by default. */
  silence?: number;
  signal?: AbortSignal;
  onEvent(event: TidingsEvent): void;
  onGap?(gap: Gap): void;
  onEnd?(end: End): void;
  onState?(state: State): void;
  /** The gateway has refused for good; the subscription is closed. */
  onError?(error: TidingsError): void;
}

export interface Subscription {
  readonly state: State;
  /** The position: what to go on from, as `lastEventId`. */
  readonly lastEventId: string;
  close(): void;
}

/** A refusal, with what the gateway's problem document (RFC 9457) says. */
export class TidingsError extends Error {
  override readonly name = "TidingsError";
  constructor(
    readonly title: string,
    /** The status of the answer; 0 if there is none. */
    readonly status = 0,
    readonly detail = "",
    /** As in `urn:tidings:problem:not-found`. */
    readonly type = "about:blank",
  ) {
    super(detail ? `${title}: ${detail}` : title);
  }
}
