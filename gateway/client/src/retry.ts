// What to do when a stream has ended or was refused. Pure: chance is an argument.

/** How an attempt to read a stream ended. */
export type Outcome =
  /** There was a stream, and it is over; `told`: it has said how long to wait, or brought an event. */
  | { kind: "ended"; told: boolean }
  /** No answer, or one that broke off. */
  | { kind: "network" }
  /** Another answer than a stream; `retryAfter` in milliseconds. */
  | { kind: "status"; status: number; retryAfter?: number | undefined };

/** What a subscription remembers of its attempts. */
export interface Attempts {
  /** The stream's `retry`, in milliseconds. */
  retry: number;
  /** Attempts in a row that brought nothing. */
  failures: number;
  /** A new token was already asked for, and there was no stream since. */
  renewed: boolean;
}

/** What comes next. */
export type Decision =
  | { next: "wait"; milliseconds: number; told: boolean; attempts: Attempts }
  | { next: "renew"; attempts: Attempts }
  | { next: "fail" };

/** Of a subscription that has just begun. */
export const FIRST: Attempts = { retry: 3000, failures: 0, renewed: false };

/** The longest pause of our own choice, before chance is added. */
const MAX_BACKOFF = 30_000;
/** The longest pause that a server can ask for: timers take no more than 24 days, and a wrong unit is more likely than a day. */
const MAX_TOLD = 3_600_000;
/** The shortest pause, whatever the server says. */
const MIN = 100;

const within = (milliseconds: number): number => Math.min(MAX_TOLD, Math.max(MIN, milliseconds));

/** Answers that pass by themselves. All others are final. */
const PASSING = new Set([408, 425, 429, 500, 502, 503, 504]);

/** Decides; `random` is between 0 and 1, `canRenew` says whether there is a function for tokens. */
export function decide(attempts: Attempts, outcome: Outcome, canRenew: boolean, random: number): Decision {
  const wait = (milliseconds: number, told: boolean, failures: number): Decision => ({
    next: "wait",
    // Never earlier than what was asked for, and spread by half of it: thousands may have lost the same server.
    milliseconds: milliseconds * (1 + random / 2),
    told,
    attempts: { ...attempts, failures },
  });
  if (outcome.kind === "ended" && outcome.told) return wait(within(attempts.retry), true, 0);
  if (outcome.kind === "status") {
    if (outcome.status === 401 && canRenew && !attempts.renewed) return { next: "renew", attempts: { ...attempts, renewed: true } };
    if (!PASSING.has(outcome.status)) return { next: "fail" };
    if (outcome.retryAfter !== undefined) return wait(within(outcome.retryAfter), true, attempts.failures + 1);
  }
  const backoff = Math.min(MAX_BACKOFF, within(attempts.retry) * 2 ** Math.min(attempts.failures, 20));
  return wait(Math.max(within(attempts.retry), backoff), false, attempts.failures + 1);
}

/** `Retry-After` in milliseconds: seconds or a date. */
export function retryAfter(value: string | null, now: number): number | undefined {
  if (!value) return undefined;
  const milliseconds = /^\d+$/.test(value) ? +value * 1000 : Date.parse(value) - now;
  return Number.isNaN(milliseconds) ? undefined : Math.max(0, milliseconds);
}
