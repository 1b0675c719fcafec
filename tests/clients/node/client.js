// One client from npm:  node client.js NAME URL
// Prints each event as [type, id, data]. What differs from a client's defaults is what docs/clients.md says about it.

import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const [name, url] = process.argv.slice(2);

/** The types that are listened to: EventSource has no way to hear of all. */
const TYPES = ["message", "typed", "tidings.gap", "tidings.oversize", "tidings.end"];

const print = (type, id, data) => console.log(JSON.stringify([type, id ?? "", data]));

/** What has the interface of a browser's EventSource. */
function eventSource(EventSource) {
  const source = new EventSource(url);
  for (const type of TYPES) source.addEventListener(type, (event) => print(type, event.lastEventId, event.data));
}

const clients = {
  eventsource2: () => eventSource(require("eventsource2")),
  eventsource3: () => eventSource(require("eventsource3").EventSource),
  eventsource4: async () => eventSource((await import("eventsource4")).EventSource),
  undici: () => eventSource(require("undici").EventSource),
  "event-source-polyfill": () => {
    const { EventSourcePolyfill } = require("event-source-polyfill");
    eventSource(class extends EventSourcePolyfill {
      constructor(url) {
        super(url, { lastEventIdQueryParameterName: "last_event_id" });
      }
    });
  },
  "eventsource-client": async () => {
    const { createEventSource } = await import("eventsource-client");
    createEventSource({ url, onMessage: ({ id, event, data }) => keep(event ?? "message", id, data) });
  },
  "fetch-event-source": async () => {
    // It is made for browsers.
    globalThis.window ??= globalThis;
    globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} };
    const { fetchEventSource } = require("@microsoft/fetch-event-source");
    await fetchEventSource(url, {
      openWhenHidden: true,
      onmessage: ({ event, id, data }) => keep(event || "message", id, data),
      // A complete response is the end to it. Thrown, this is an error, and errors are retried.
      onclose() {
        throw new Error("the stream has ended");
      },
    });
  },
};

/** For clients that tell of every event: checkpoints are for the client, not for the page. */
function keep(type, id, data) {
  if (type !== "tidings.position") print(type, id, data);
}

await clients[name]();
setInterval(() => {}, 1 << 30); // The client is killed; it does not end by itself.
