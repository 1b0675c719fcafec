// The channels of these tests, tokens for them, and what is counted of a gateway.

import { createHmac } from "node:crypto";
import { writeFileSync } from "node:fs";
import path from "node:path";

import { made } from "../../../../tests/browser/evidence.js";
import { startStack } from "../../../../tests/browser/stack.js";

const ISSUER = "https://id.example";
const SECRET = "thirty-two bytes that nobody can guess";

const channel = (name, spec) => `
apiVersion: tidings.dev/v1alpha1
kind: Channel
metadata: { name: ${name}, namespace: test }
spec: ${JSON.stringify(spec)}
`;

/** Everything that a gateway needs, with three channels: for all, for one at a time, and for those with a token. */
export function startChannels() {
  const all = { mode: "Public", topics: [">"] };
  const events = { retryMilliseconds: 500, heartbeatSeconds: 1 };
  const manifests = {
    open: channel("open", { events, access: { subscribe: all, publish: all } }),
    one: channel("one", { events, access: { subscribe: all, publish: all }, limits: { connections: 1 } }),
    members: channel("members", {
      events,
      access: { tokenSources: ["Header", "Cookie", "Query"], subscribe: { mode: "Token", topics: ["user.{sub}"] } },
    }),
  };
  return startStack(manifests, (folder) => {
    writeFileSync(path.join(folder, "secret"), SECRET);
    const issuer = `{ name: main, issuer: ${ISSUER}, audience: tidings, algorithms: [HS256], secret: { file: ${folder}/secret } }`;
    return `issuers: [${issuer}]\ncookie: session\n`;
  });
}

/** A token that is good for so many seconds; `jti` tells one from another. */
export function token(sub, seconds = 3600, jti = "1") {
  const encode = (document) => Buffer.from(JSON.stringify(document)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + seconds;
  const body = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ iss: ISSUER, aud: "tidings", sub, exp, jti })}`;
  const signed = `${body}.${createHmac("sha256", SECRET).update(body).digest("base64url")}`;
  made(signed);
  return signed;
}

/** How many event streams the gateway has open. */
export async function openStreams(stack) {
  const metrics = await (await fetch(`${stack.admin}/metrics`)).text();
  return metrics
    .split("\n")
    .filter((line) => /^tidings_subscribers[ {]/.test(line))
    .reduce((sum, line) => sum + Number(line.split(" ").pop()), 0);
}

/** "1", "2", … */
export const numbers = (total) => Array.from({ length: total }, (_, index) => String(index + 1));

/** Where two lists part: thousands of lines of difference would tell less. */
export function firstDifference(actual, expected) {
  const at = Array.from({ length: Math.max(actual.length, expected.length) }, (_, index) => index).find((index) => actual[index] !== expected[index]);
  return at === undefined ? null : `at ${at} of ${expected.length} (${actual.length} received): ${actual.slice(Math.max(0, at - 3), at + 5)}`;
}
