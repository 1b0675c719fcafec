// One program under test: what it printed, how it ended. The kernel kills it when this process goes away.

import { spawn, spawnSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { said } from "./evidence.js";
import { until } from "./until.js";

export const repository = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const built = path.resolve(repository, process.env.CARGO_TARGET_DIR ?? "target", "debug");
export const logs = path.resolve(built, "../test-logs");

// setpriv is part of util-linux. Without it a test that is killed leaves its programs behind; nothing else changes.
const bound = spawnSync("setpriv", ["--pdeathsig", "KILL", "true"]).status === 0 ? ["setpriv", "--pdeathsig", "KILL"] : [];

const running = new Set();

/** Starts a program with pipes for its output; `group: true` makes it the leader of a process group of its own. */
export function start(program, args, { group = false, cwd = repository, env = {} } = {}) {
  const [command, ...rest] = [...bound, program, ...args];
  const child = spawn(command, rest, {
    cwd,
    detached: group,
    env: { ...clean(process.env), ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const started = { pid: child.pid, output: "", status: null };
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      started.output += text;
      said(program, child.pid, text);
    });
  }
  started.exited = new Promise((resolve) => {
    child.on("error", (error) => resolve((started.status = `failed to start: ${error.message}`)));
    // "close" comes after the last output; a grandchild can keep that open, hence "exit" for the status.
    child.on("exit", (code, signal) => {
      running.delete(started);
      resolve((started.status = signal ?? code));
    });
  });
  started.signal = (signal) => (started.status === null ? child.kill(signal) : false);
  started.signalGroup = (signal) => process.kill(-child.pid, signal);
  started.kill = async () => {
    started.signal("SIGKILL");
    await started.exited;
  };
  /** Waits until `condition(output)` holds; a program that ends first fails at once, with what it printed. */
  started.prints = (what, condition, seconds = 60) =>
    until(`${path.basename(program)} ${args.join(" ")} prints ${what}`, seconds, () => {
      if (condition(started.output)) return true;
      if (started.status !== null) throw new Error(`it ended with ${started.status}:\n${started.output}`);
      return false;
    });
  running.add(started);
  return started;
}

/** Starts one of our binaries. */
export function startBuilt(name, args) {
  return start(path.join(built, name), args);
}

/** Runs a program to its end and returns its standard output; anything but exit code 0 fails. */
export async function run(program, args, options) {
  const started = start(program, args, options);
  const status = await started.exited;
  if (status !== 0) throw new Error(`${program} ${args.join(" ")} ended with ${status}:\n${started.output}`);
  return started.output;
}

/** Kills what a test left running. */
export async function killAll() {
  await Promise.all([...running].map((started) => started.kill()));
}

/** The processes of this machine with `text` on their command line. */
export function processesWith(text) {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(text);
      } catch {
        return false; // It has just ended.
      }
    })
    .map(Number);
}

// What make and npm tell their children would reach the make that is under test.
function clean(environment) {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !/^(MAKE|MFLAGS|npm_|TIDINGS_(?!CACHE))/.test(name)));
}
