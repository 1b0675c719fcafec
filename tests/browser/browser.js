// A headless Chromium: the one scripts/chromium.sh finds or installs.

import { chromium } from "playwright-core";

import { repository, run } from "./process.js";

/** Starts it with an empty profile. */
export async function openBrowser() {
  const found = await run(`${repository}/scripts/chromium.sh`, []);
  return chromium.launch({
    // apt's own words come before the path.
    executablePath: found.trim().split("\n").pop(),
    args: [
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}
