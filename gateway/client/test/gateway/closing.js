// Subscribes, closes in the state that is named, and must end by itself:  node closing.js URL STATE

import { subscribe } from "../../dist/index.js";

const [url, state] = process.argv.slice(2);
const subscription = subscribe(url, {
  onEvent() {},
  onState(now) {
    if (now !== state) return;
    console.log(`closing while ${now}`);
    setImmediate(() => subscription.close());
  },
});
