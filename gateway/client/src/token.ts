// When a token has to be renewed. It is read, never verified: that is the gateway's business.

/** Longer timers fire at once. */
const MAX_TIMER = 2 ** 31 - 1;

/** When the token expires, in milliseconds since 1970; undefined if it is no JWT or does not say. */
export function expiry(token: string): number | undefined {
  try {
    const claims: unknown = JSON.parse(atob((token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/")));
    const exp = (claims as { exp?: unknown } | null)?.exp;
    return typeof exp === "number" ? exp * 1000 : undefined;
  } catch {
    return undefined;
  }
}

/**
 * In how many milliseconds to ask for the next token: after 75 to 90 % of the time that is left, by chance, so that streams which
 * began together do not ask together. Undefined: not at all. So little is left that the end of the stream asks.
 */
export function renewIn(token: string, now: number, random: number): number | undefined {
  const left = (expiry(token) ?? NaN) - now;
  return left > 2000 ? Math.min(MAX_TIMER, left * (0.75 + 0.15 * random)) : undefined;
}
