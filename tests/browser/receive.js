// Subscribes with Chromium's own EventSource and prints what comes: "open", then the data of each event on a line of its own.
//
//   node receive.js GATEWAY /channels/NAMESPACE/NAME/events COUNT
//
// Ends after COUNT events. The page is the gateway's own, whatever it answers there: so the stream is of the same origin.

import { openBrowser } from "./browser.js";

const [gateway, events, count] = process.argv.slice(2);
const browser = await openBrowser();
try {
  const page = await browser.newPage();
  let received = 0;
  let resolve;
  const enough = new Promise((resolved) => (resolve = resolved));
  await page.exposeFunction("tell", (line) => {
    console.log(line);
    if (line !== "open") received += 1;
    if (received === Number(count)) resolve();
  });
  await page.goto(`${gateway}/`);
  await page.evaluate((events) => {
    const source = new EventSource(events);
    source.onopen = () => window.tell("open");
    source.onmessage = (event) => window.tell(event.data);
  }, events);
  await enough;
} finally {
  await browser.close();
}
