// What this run leaves for the search for tokens at the end of scripts/test.sh, as tests/src/evidence.rs does: what programs
// said, the series of their metrics, and the tokens that were made. Without TIDINGS_EVIDENCE nothing is kept.

import { appendFileSync, mkdirSync } from "node:fs";
import path from "node:path";

const directory = process.env.TIDINGS_EVIDENCE;
for (const folder of directory ? ["logs", "series", "tokens"] : []) mkdirSync(path.join(directory, folder), { recursive: true });

const append = (folder, name, text) => directory && appendFileSync(path.join(directory, folder, `browser-${name}`), text);

/** A program said something. */
export const said = (program, pid, text) => append("logs", `${path.basename(program)}-${pid}.log`, text);

/** A token was made. */
export const made = (token) => append("tokens", process.pid, `${token}\n`);

/** Metrics were scraped. */
export const scraped = (text) => append("series", process.pid, `${text}\n`);
