// TCP ports on 127.0.0.1 that stay the same when a server is started again.

import net from "node:net";

// Below what the kernel gives to outgoing connections, and beside what the Rust harness takes (20,000 to 31,999).
const first = 12_000;
const count = 8_000;

/** The first of `run` ports in a row that nobody listens on. */
export async function freePorts(run = 1) {
  for (let tries = 0; tries < 1_000; tries++) {
    const port = first + Math.floor(Math.random() * (count - run));
    const free = await Promise.all(Array.from({ length: run }, (_, offset) => canListen(port + offset)));
    if (free.every(Boolean)) return port;
  }
  throw new Error("no free port found");
}

/** Listens on a port of its own until `close()` is called. */
export function occupy(port) {
  return new Promise((resolve, reject) => {
    const server = net.createServer((socket) => socket.on("error", () => {}));
    server.once("error", reject).listen(port, "127.0.0.1", () => resolve(server));
  });
}

async function canListen(port) {
  try {
    const server = await occupy(port);
    await new Promise((resolve) => server.close(resolve));
    return true;
  } catch {
    return false;
  }
}
