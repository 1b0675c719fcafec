// Headless browsers, with empty profiles: those that scripts/browser.sh finds or installs.

import { chromium } from "playwright-core";
import puppeteer from "puppeteer-core";

import { repository, run } from "./process.js";

/** Chromium. */
export async function openBrowser() {
  return chromium.launch({
    executablePath: await installed("chromium"),
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

/** Firefox, over WebDriver BiDi: Playwright drives only builds of its own. */
export async function openFirefox() {
  return puppeteer.launch({
    browser: "firefox",
    executablePath: await installed("firefox"),
    headless: true,
    extraPrefsFirefox: { "datareporting.policy.dataSubmissionEnabled": false, "app.normandy.enabled": false },
  });
}

async function installed(browser) {
  const found = await run(`${repository}/scripts/browser.sh`, [browser]);
  // apt's own words come before the path.
  return found.trim().split("\n").pop();
}
