// Waiting for a condition, with a deadline.

import { setTimeout as pause } from "node:timers/promises";

/** Asks `condition` again and again until it answers something true, and returns that. */
export async function until(what, seconds, condition) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const answer = await condition();
    if (answer) return answer;
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`);
    await pause(20);
  }
}
