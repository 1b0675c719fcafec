// A publisher that speaks the NATS protocol itself: PUB lines over one socket.

import net from "node:net";
import { setTimeout as pause } from "node:timers/promises";

/** Connects to nats-server. */
export async function connect(port) {
  const socket = net.connect(port, "127.0.0.1");
  let received = "";
  let pongs = 0;
  let broken = null;
  socket.setEncoding("utf8").on("data", (text) => {
    received += text;
    for (let end; (end = received.indexOf("\r\n")) >= 0; received = received.slice(end + 2)) {
      const line = received.slice(0, end);
      if (line === "PING") socket.write("PONG\r\n");
      else if (line === "PONG") pongs += 1;
      else if (line.startsWith("-ERR")) broken = new Error(`nats-server: ${line}`);
    }
  });
  await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
  socket.on("error", (error) => (broken ??= error));
  socket.write('CONNECT {"verbose":false,"pedantic":false,"lang":"test","version":"0"}\r\n');

  const publish = (subject, data) => {
    if (broken) throw broken;
    socket.write(`PUB ${subject} ${Buffer.byteLength(data)}\r\n${data}\r\n`);
  };
  return {
    publish,
    /** Returns once the server has read everything that was published before. */
    async flush() {
      const expected = pongs + 1;
      socket.write("PING\r\n");
      while (pongs < expected) {
        if (broken) throw broken;
        await pause(5);
      }
    },
    /** Publishes "1", "2", … "total", so many a second; a tick that came late is made up for by the next. */
    async publishNumbers(subject, total, perSecond) {
      const begun = performance.now();
      for (let number = 0; number < total; ) {
        const due = Math.min(total, Math.ceil(((performance.now() - begun) * perSecond) / 1000));
        while (number < due) publish(subject, String(++number));
        await pause(4);
      }
      await this.flush();
      return (performance.now() - begun) / 1000;
    },
    close: () => socket.destroy(),
  };
}
