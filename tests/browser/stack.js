// nats-server, an operator and the folder that gateways read their Routes from, on ports of their own.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";

import { freePorts } from "./ports.js";
import { killAll, repository, run, start, startBuilt } from "./process.js";
import { until } from "./until.js";

/** Starts it with these manifests, by name; `settings(folder)` writes what the gateways' settings need and returns them. */
export async function startStack(manifests, settings = () => "") {
  const folder = mkdtempSync(path.join(os.tmpdir(), "tidings-browser-"));
  const ports = await freePorts(4);
  const nats = ports + 3;
  const server = (await run(`${repository}/scripts/nats-server.sh`, [])).trim().split("\n").pop();
  const started = start(server, ["--addr", "127.0.0.1", "--port", String(nats), "--jetstream", "--store_dir", `${folder}/nats`]);
  await started.prints("that it is ready", (output) => output.includes("Server is ready"));
  const channels = path.join(folder, "channels");
  mkdirSync(channels);
  for (const [name, manifest] of Object.entries(manifests)) writeFileSync(path.join(channels, `${name}.yaml`), manifest);
  writeFileSync(path.join(folder, "settings.yaml"), settings(folder));
  startBuilt("tidings-operator", [
    ...["--nats", `nats://127.0.0.1:${nats}`, "--admin", `127.0.0.1:${ports + 2}`],
    ...["--channels", channels, "--routes", `${folder}/routes`],
  ]);
  await ready(ports + 2);
  return {
    nats,
    base: `http://127.0.0.1:${ports}`,
    admin: `http://127.0.0.1:${ports + 1}`,
    /** Starts a gateway: always at the same address. */
    async startGateway(...args) {
      const gateway = startBuilt("tidings-gateway", [
        ...["--nats", `nats://127.0.0.1:${nats}`, "--listen", `127.0.0.1:${ports}`, "--admin", `127.0.0.1:${ports + 1}`],
        ...["--routes", `${folder}/routes`, "--demo", "--config", `${folder}/settings.yaml`, ...args],
      ]);
      await ready(ports + 1);
      return gateway;
    },
    /** Ends everything that was started. */
    async stop() {
      await killAll();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

async function ready(admin) {
  await until(`http://127.0.0.1:${admin}/readyz answers 200`, 60, async () => {
    const response = await fetch(`http://127.0.0.1:${admin}/readyz`).catch(() => null);
    return response?.status === 200;
  });
}
