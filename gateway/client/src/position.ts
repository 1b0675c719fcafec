// How two positions stand to each other. Pure. An id is EPOCH-SEQUENCE or EPOCH-SEQUENCE-STAMP.

/** Below 0: `a` is before `b`; 0: the same place; NaN: of different epochs, or one of them is no position. */
export function compare(a: string, b: string): number {
  const [epochA, sequenceA = NaN] = a.split("-");
  const [epochB, sequenceB = NaN] = b.split("-");
  return epochA === epochB ? +sequenceA - +sequenceB : NaN;
}

/** What a tab makes of something that another one has read for it. */
export type Verdict = "take" | "drop" | "behind";

/**
 * Decides for a tab at `own`: `previous` is where the reader was before, `id` what it is at with this. A tab that is not at
 * `previous` yet has missed something, one that is beyond `id` has it already.
 */
export function judge(own: string, previous: string, id: string, gap?: { after?: unknown }): Verdict {
  if (!own || (gap && gap.after === own)) return "take";
  const ahead = compare(own, id);
  if (ahead >= 0) return "drop";
  if (gap) return "take";
  return own === previous || compare(own, previous) >= 0 ? "take" : "behind";
}
