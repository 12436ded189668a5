// One client of NATS, as its own users write it: it speaks over the way that it is told,
// publishes to a queue, hears what is stored, asks a service, and is told what it may
// not do. Each line that it writes is one result as JSON.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { connect as connectTLS } from "@nats-io/transport-node";
import { wsconnect } from "@nats-io/nats-core";
import { jetstream } from "@nats-io/jetstream";

const require = createRequire(import.meta.url);
globalThis.WebSocket ??= require("ws"); // Node.js 22 has its own

const [way, server, ca] = process.argv.slice(2);
const credentials = {
  servers: server,
  user: process.env.NATS_USER,
  pass: process.env.NATS_PASSWORD,
  inboxPrefix: process.env.NATS_INBOX_PREFIX,
  reconnect: Boolean(process.env.RECONNECT),
  reconnectTimeWait: 50,
  maxReconnectAttempts: -1,
};
const tls = { ca: ca && readFileSync(ca, "utf8") };

const ways = {
  tls: () => connectTLS({ ...credentials, tls }),
  "tls-first": () => connectTLS({ ...credentials, tls: { ...tls, handshakeFirst: true } }),
  old: () => require("nats").connect({ ...credentials, tls }),
  websocket: () => wsconnect(credentials),
};

const say = (result) => console.log(JSON.stringify(result));
const text = (data) => new TextDecoder().decode(data);

let nc;
try {
  nc = await ways[way]();
} catch (err) {
  say({ refused: err.message });
  process.exit(0);
}
say({ connected: true });
(async () => {
  const err = await nc.closed();
  say({ closed: err ? err.message : "" });
})();

if (process.env.RECONNECT) {
  // It publishes until it has come back once, and after that ten times more.
  let back = false;
  (async () => {
    for await (const s of nc.status()) back ||= s.type === "reconnect";
  })();
  for (let more = 0, n = 0; more < 10; more += back ? 1 : 0) {
    try {
      const ack = await jetstream(nc).publish("data.vhf", `{"n":${n++}}`, { timeout: 5000 });
      say({ stored: ack.seq, stream: ack.stream, back });
    } catch (err) {
      say({ missed: err.message });
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await nc.close();
  process.exit(0);
}

const heard = nc.subscribe("data.vhf", { max: 1 });
const publish = way === "old" ? nc.jetstream() : jetstream(nc);
const ack = await publish.publish("data.vhf", JSON.stringify({ burst: "sb1" }));
say({ stored: ack.seq, stream: ack.stream });
for await (const m of heard) say({ heard: text(m.data), sequence: m.headers.get("Nats-Sequence") });
say({ answer: text((await nc.request("echo.say", '"hello"', { timeout: 60000 })).data) });

// A durable consumer is asked for, and then read as any other.
const asked = await nc.request(`$FLQ.subscribe.${credentials.user}`, JSON.stringify({ subject: "data.vhf", name: way, from: "first" }), { timeout: 60000 });
const { consumers, error } = JSON.parse(text(asked.data));
if (error) say({ problem: error });
else {
  const { stream, consumer } = consumers[0];
  const messages = await (await publish.consumers.get(stream, consumer)).fetch({ max_messages: 1, expires: 60000 });
  for await (const m of messages) {
    await m.ackAck();
    say({ consumed: text(m.data) });
  }
}

for (const [what, act] of [
  ["publish", () => nc.request("secret.plans", "", { timeout: 10000 })],
  ["inbox", async () => { for await (const _ of nc.subscribe("_FL.user.>")); }],
]) {
  try {
    await act();
    say({ allowed: what });
  } catch (err) {
    say({ denied: what });
  }
}
if (process.env.STAY) await nc.closed();
await nc.close();
