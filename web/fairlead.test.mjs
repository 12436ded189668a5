// Tests of fairlead.js without a browser: node --test web/
import assert from "node:assert/strict"
import {createServer} from "node:http"
import {once} from "node:events"
import {afterEach, beforeEach, test} from "node:test"
import {connect} from "./fairlead.js"

// Socket is a WebSocket whose door is the test.
class Socket {
  static all = []
  static refuse = false
  constructor(url, protocols) {
    Object.assign(this, {url: new URL(url), protocols})
    Socket.all.push(this)
    queueMicrotask(() => (Socket.refuse ? this.onclose?.({code: 1006}) : this.onopen?.()))
  }
  say(event) {
    this.onmessage?.({data: JSON.stringify(event)})
  }
  hello(cursor = "c0") {
    this.say({event: "hello", cursor, heartbeat: 15000, subjects: ["data.*"]})
  }
  message(n) {
    this.say({event: "message", cursor: "c" + n, subject: "data.a", sequence: n, time: "2026-01-02T03:04:05Z", data: n})
  }
  end(code) {
    this.onclose?.({code})
  }
  close() {
    this.closed = true
  }
}

const settle = () => new Promise((resolve) => setImmediate(resolve))

async function opened(n) {
  for (let i = 0; i < 100 && Socket.all.length < n; i++) await settle()
  assert.equal(Socket.all.length, n)
  await settle()
  return Socket.all[n - 1]
}

let feeds = []
const open = (url, options) => {
  const feed = connect(url, options)
  feeds.push(feed)
  return feed
}

beforeEach((t) => {
  globalThis.WebSocket = Socket
  Socket.all = []
  Socket.refuse = false
  t.mock.timers.enable({apis: ["setTimeout"]})
})

afterEach(() => {
  for (const feed of feeds) feed.close()
  feeds = []
})

test("messages are handed out once each, with their cursor", async () => {
  const feed = open("http://door/live", {subject: ["data.a", "data.b"], presence: true})
  const socket = await opened(1)
  assert.equal(socket.url.href, "ws://door/live?subject=data.a&subject=data.b&presence=1")
  assert.deepEqual(socket.protocols, ["fairlead"])
  socket.hello()
  socket.message(1)
  socket.message(2)
  socket.say({event: "presence", count: 7})
  const got = feed[Symbol.asyncIterator]()
  const {value} = await got.next()
  assert.deepEqual(value, {subject: "data.a", sequence: 1, time: new Date("2026-01-02T03:04:05Z"), cursor: "c1", data: 1})
  assert.equal(feed.cursor, "c1")
  assert.equal((await got.next()).value.data, 2)
  assert.equal(feed.presence, 7)
  assert.equal(feed.state, "open")
  feed.close()
  assert.equal((await got.next()).done, true)
})

test("data is JSON, text or bytes", async () => {
  const got = []
  open("http://door/live", {onmessage: (m) => got.push(m.data)})
  const socket = await opened(1)
  socket.hello()
  for (const data of [{data: {a: 1}}, {data: null}, {text: "no JSON"}, {base64: "AP8="}]) socket.say({event: "message", subject: "data.a", time: "2026-01-02T03:04:05Z", ...data})
  assert.deepEqual(got, [{a: 1}, null, "no JSON", new Uint8Array([0, 255])])
})

test("it comes back where it was", async (t) => {
  const got = []
  const states = []
  const gaps = []
  open("http://door/live", {onmessage: (m) => got.push(m.data), onstate: (s) => states.push(s), ongap: (g) => gaps.push(g)})
  const first = await opened(1)
  first.hello()
  first.message(1)
  first.end(1006)
  assert.equal(states.at(-1), "waiting")
  t.mock.timers.tick(1000)
  const second = await opened(2)
  assert.equal(second.url.searchParams.get("cursor"), "c1")
  second.hello("c1")
  second.say({event: "gap", cursor: "c5"})
  second.message(6)
  first.message(2) // of a connection that is given up
  assert.deepEqual(got, [1, 6])
  assert.deepEqual(gaps, [{cursor: "c5"}])
  assert.deepEqual(states, ["open", "waiting", "connecting", "open"])
})

test("a token is asked for anew each time", async (t) => {
  let n = 0
  open("http://door/live", {token: async () => "t" + ++n})
  const first = await opened(1)
  assert.deepEqual(first.protocols, ["fairlead", "bearer.t1"])
  first.hello()
  first.end(1008)
  t.mock.timers.tick(1000)
  assert.deepEqual((await opened(2)).protocols, ["fairlead", "bearer.t2"])
})

test("a silent connection is given up", async (t) => {
  open("http://door/live")
  const socket = await opened(1)
  socket.hello()
  t.mock.timers.tick(30_000)
  socket.say({event: "heartbeat", cursor: "c3"})
  t.mock.timers.tick(30_000)
  assert.equal(socket.closed, undefined)
  t.mock.timers.tick(8_000)
  assert.equal(socket.closed, true)
  t.mock.timers.tick(1_000)
  assert.equal((await opened(2)).url.searchParams.get("cursor"), "c3")
})

test("pauses grow, and a door that leaves is come back to soon", async (t) => {
  open("http://door/live", {transport: "websocket"})
  ;(await opened(1)).hello()
  Socket.all[0].end(1001)
  t.mock.timers.tick(1000)
  Socket.refuse = true
  let socket = await opened(2)
  for (let n = 3; n < 12; n++) {
    await settle()
    t.mock.timers.tick(Math.min(249 * 2 ** (n - 3), 14_999))
    await settle()
    assert.equal(Socket.all.length, n - 1, "it came back too soon")
    t.mock.timers.tick(31_000)
    socket = await opened(n)
  }
  assert.equal(socket.url.searchParams.get("cursor"), "c0")
})

test("who iterates slowly gets everything, over several connections", async () => {
  const feed = open("http://door/live", {buffer: 10})
  let socket = await opened(1)
  socket.hello()
  for (let n = 1; n <= 10; n++) socket.message(n)
  assert.equal(socket.closed, true)
  socket.message(11) // goes nowhere: the next connection brings it
  const got = feed[Symbol.asyncIterator]()
  for (let n = 1; n <= 10; n++) assert.equal((await got.next()).value.data, n)
  socket = await opened(2)
  assert.equal(socket.url.searchParams.get("cursor"), "c10")
  socket.hello("c10")
  socket.message(11)
  assert.equal((await got.next()).value.data, 11)
})

test("a fault of the page does not end the feed", async () => {
  const reported = []
  globalThis.reportError = (err) => reported.push(err.message)
  let n = 0
  open("http://door/live", {
    onmessage() {
      n++
      throw new Error("of the page")
    },
  })
  const socket = await opened(1)
  socket.hello()
  socket.message(1)
  socket.message(2)
  delete globalThis.reportError
  assert.equal(n, 2)
  assert.deepEqual(reported, ["of the page", "of the page"])
})

test("an AbortSignal closes it", async () => {
  const abort = new AbortController()
  const feed = open("http://door/live", {signal: abort.signal})
  const socket = await opened(1)
  abort.abort()
  assert.equal(socket.closed, true)
  assert.equal(feed.state, "closed")
  for await (const message of feed) assert.fail(message)
})

// door answers with server-sent events where no WebSocket opens.
async function door(t, serve) {
  t.mock.timers.reset()
  const server = createServer(serve)
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  t.after(() => {
    for (const feed of feeds) feed.close()
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${server.address().port}/live`
}

test("server-sent events where no WebSocket opens", async (t) => {
  Socket.refuse = true
  const asked = []
  const url = await door(t, (q, s) => {
    asked.push([q.url, q.headers.authorization])
    s.writeHead(200, {"Content-Type": "text/event-stream"})
    s.write('retry: 1000\n\nevent: hello\nid: c0\ndata: {"heartbeat":15000}\n\n')
    s.write('id: c1\ndata: {"subject":"data.a","sequence":1,"time":"2026-01-02T03:04:05Z",')
    setTimeout(() => s.write('"data":"ä"}\n\nid: c2\ndata: {"subject":"data.a","text":"x","time":"2026-01-02T03:04:05Z"}\n\n'), 5)
    if (asked.length === 1) setTimeout(() => s.end('event: end\ndata: {"code":"leaving"}\n\n'), 20)
  })
  const feed = open(url, {token: "secret"})
  const got = []
  for await (const message of feed) {
    got.push(message.data)
    if (got.length === 4) break
  }
  assert.deepEqual(got, ["ä", "x", "ä", "x"])
  assert.deepEqual(asked, [
    ["/live", "Bearer secret"],
    ["/live?cursor=c2", "Bearer secret"],
  ])
})

test("a refusal is an error with its status", async (t) => {
  Socket.refuse = true
  const url = await door(t, (q, s) => {
    s.writeHead(403, {"Content-Type": "application/problem+json"})
    s.end('{"detail":"this needs the role analyst"}')
  })
  const feed = open(url)
  await assert.rejects(feed[Symbol.asyncIterator]().next(), {name: "FeedError", code: "refused", status: 403, message: "this needs the role analyst"})
  assert.equal(feed.state, "closed")
})

test("what is no feed is said", async (t) => {
  Socket.refuse = true
  const url = await door(t, (q, s) => s.end("<html>"))
  await assert.rejects(open(url)[Symbol.asyncIterator]().next(), {code: "protocol"})
})
