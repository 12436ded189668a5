// fairlead.js: what a fairlead door publishes, in a page. One ES module without
// dependencies; the door serves it where a route says `monitor: client`.
//
//   import {connect} from "/fairlead.js"
//
//   const feed = connect("/live", {subject: "data.*"})
//   for await (const message of feed) show(message.subject, message.data)
//
// It stays connected: by a WebSocket, or where none gets through by server-sent events,
// and comes back by itself after whatever has broken off. What queues keep is then told
// from where it stopped, each message once and in the order of its queue; subjects that
// no queue keeps are live only. If something is not kept any more, `gap` says so.
//
// Options, all of them optional:
//   subject    a pattern, or a list of them, within what the route allows
//   cursor     feed.cursor of an earlier feed: go on from there
//   token      a bearer token, or a function that returns one, or a promise of one; it is
//              asked again for every connection
//   presence   true: tell how many there are
//   buffer     messages that may wait for whoever iterates, 1000; beyond, the connection
//              is given up, and taken up again where it was once they are taken
//   transport  "websocket" or "events": only that
//   signal     an AbortSignal that closes the feed
//   onmessage, ongap, onpresence, onstate, onerror
//              callbacks; with onmessage, nobody needs to iterate
//
// A message has subject, data (what its JSON says, a string of any other text, a
// Uint8Array of anything else), time (a Date), cursor, and of a queue's its sequence.

/** Error says why a feed has ended: code is refused or protocol. */
export class FeedError extends Error {
  constructor(code, text, status = 0) {
    super(text)
    this.name = "FeedError"
    this.code = code
    this.status = status // of HTTP, 0 for none
  }
}

/** connect opens a feed of a route of the door. It throws for a malformed URL. */
export function connect(url, options = {}) {
  return new Feed(url, options)
}

const firstPause = 500 // ms
const longestPause = 30_000
const openTime = 15_000 // for a connection to say hello
const mostTries = 2 // of WebSockets in a row that never open, while events do
const leaving = 1001

/** Feed is a subscription that stays. state is connecting, open, waiting or closed. */
export class Feed {
  #options
  #url
  #queue = []
  #takers = []
  #received = "" // cursor of the last event that has come
  #link = null // the present connection: {close()}
  #failures = 0 // attempts in a row that brought nothing
  #blocked = 0 // WebSockets in a row that did not open where events did
  #timer = 0
  #watch = 0
  #heartbeat = 15_000
  #paused = false
  #wake = () => this.#soon()

  /** state of the connection. */
  state = "connecting"
  /** cursor of the last message that was handed out. */
  cursor = ""
  /** presence is how many there are; undefined while that is not known. */
  presence = undefined
  /** error is why the feed has ended; null while it has not, or was closed. */
  error = null

  constructor(url, options) {
    this.#options = options
    this.#url = new URL(url, globalThis.location?.href)
    for (const subject of [options.subject ?? []].flat()) this.#url.searchParams.append("subject", subject)
    if (options.presence) this.#url.searchParams.set("presence", "1")
    this.#received = this.cursor = options.cursor ?? ""
    options.signal?.addEventListener("abort", () => this.close(), {once: true})
    globalThis.addEventListener?.("online", this.#wake)
    if (options.signal?.aborted) this.close()
    else this.#open()
  }

  /** close ends the feed. Iterations end when they have got what had come. */
  close() {
    this.#end(null)
  }

  /** Iterating takes the messages, each once whoever takes it. It throws a FeedError. */
  async *[Symbol.asyncIterator]() {
    for (;;) {
      const message = await this.#next()
      if (message === undefined) return
      yield message
    }
  }

  #next() {
    if (this.#queue.length > 0) {
      const message = this.#queue.shift()
      this.cursor = message.cursor || this.cursor
      if (this.#paused && this.#queue.length <= this.#limit / 10) {
        this.#paused = false
        this.#open()
      }
      return Promise.resolve(message)
    }
    if (this.error) return Promise.reject(this.error)
    if (this.state === "closed") return Promise.resolve(undefined)
    return new Promise((resolve, reject) => this.#takers.push({resolve, reject}))
  }

  get #limit() {
    return this.#options.buffer ?? 1000
  }

  #set(state) {
    if (this.state === state) return
    this.state = state
    this.#call("onstate", state)
  }

  #call(name, value) {
    try {
      this.#options[name]?.(value)
    } catch (err) {
      // A page's own fault must not end what keeps it informed.
      globalThis.reportError ? globalThis.reportError(err) : console.error(err)
    }
  }

  #end(error) {
    if (this.state === "closed") return
    this.error = error
    clearTimeout(this.#timer)
    clearTimeout(this.#watch)
    globalThis.removeEventListener?.("online", this.#wake)
    this.#drop()
    this.#set("closed")
    if (error) this.#call("onerror", error)
    for (const {resolve, reject} of this.#takers.splice(0)) error ? reject(error) : resolve(undefined)
  }

  #drop() {
    const link = this.#link
    this.#link = null
    link?.close()
  }

  // open makes one attempt: a WebSocket, then events, which also say why not.
  async #open() {
    if (this.state === "closed" || this.#link || this.#paused) return
    clearTimeout(this.#timer)
    this.#set("connecting")
    const link = (this.#link = {close() {}})
    const url = new URL(this.#url)
    if (this.#received) url.searchParams.set("cursor", this.#received)
    const {transport, token} = this.#options
    let bearer
    try {
      bearer = typeof token === "function" ? await token() : token
    } catch {
      return this.#lost(link)
    }
    if (this.#link !== link) return
    this.#look(link, openTime)
    const sockets = transport !== "events" && (this.#blocked < mostTries || transport === "websocket")
    if (sockets) {
      const opened = await this.#socket(link, url, bearer)
      if (opened || this.#link !== link) return
      if (transport === "websocket") return this.#lost(link)
      this.#look(link, openTime)
    }
    await this.#events(link, url, bearer, sockets)
  }

  // socket resolves to whether a WebSocket has opened; what follows is its own affair.
  #socket(link, from, bearer) {
    const url = new URL(from)
    url.protocol = url.protocol.replace("http", "ws")
    return new Promise((resolve) => {
      let socket
      try {
        socket = new WebSocket(url, bearer ? ["fairlead", "bearer." + bearer] : ["fairlead"])
      } catch {
        return resolve(false)
      }
      let opened = false
      link.close = () => {
        socket.onopen = socket.onmessage = socket.onclose = null
        socket.close()
        resolve(opened)
      }
      socket.onopen = () => {
        opened = true
        this.#blocked = 0
        resolve(true)
      }
      socket.onmessage = ({data}) => this.#take(link, data)
      socket.onclose = ({code}) => {
        resolve(opened)
        if (opened) this.#lost(link, code === leaving)
      }
    })
  }

  // events reads server-sent events with fetch, which can carry a token and tells the
  // status, as EventSource cannot.
  async #events(link, url, bearer, afterSocket) {
    const abort = new AbortController()
    link.close = () => abort.abort()
    try {
      const headers = {Accept: "text/event-stream"}
      if (bearer) headers.Authorization = "Bearer " + bearer
      const answer = await fetch(url, {headers, signal: abort.signal, cache: "no-store"})
      if (this.#link !== link) return
      if (!answer.ok) {
        const {status} = answer
        if (status >= 400 && status < 500 && ![401, 408, 425, 429].includes(status)) return this.#end(await refusal(answer))
        // A token may have run out on the way; the next one is asked for.
        if (status === 401 && (typeof this.#options.token !== "function" || this.#failures > 1)) return this.#end(await refusal(answer))
        abort.abort()
        return this.#lost(link)
      }
      if (!answer.body || !answer.headers.get("Content-Type")?.startsWith("text/event-stream")) {
        return this.#end(new FeedError("protocol", "this is no route of a feed", answer.status))
      }
      if (afterSocket) this.#blocked++
      const left = await this.#read(link, answer.body)
      this.#lost(link, left)
    } catch {
      this.#lost(link)
    }
  }

  // read takes events until the stream ends, and returns whether the door said so.
  async #read(link, body) {
    let rest = ""
    let left = false
    const reader = body.pipeThrough(new TextDecoderStream()).getReader()
    for (;;) {
      const {done, value} = await reader.read()
      if (done || this.#link !== link) return left
      const blocks = (rest + value).split("\n\n")
      rest = blocks.pop()
      for (const block of blocks) {
        const event = {event: "message"}
        let data = ""
        for (const line of block.split("\n")) {
          const colon = line.indexOf(": ")
          const name = line.slice(0, colon)
          const text = line.slice(colon + 2)
          if (name === "event") event.event = text
          else if (name === "id") event.cursor = text
          else if (name === "data") data = text
        }
        if (!data) continue
        left ||= event.event === "end"
        this.#take(link, data, event)
        if (this.#link !== link) return left
      }
    }
  }

  // take deals with one event, whose JSON is text.
  #take(link, text, known) {
    if (this.#link !== link) return
    let event
    try {
      event = {...JSON.parse(text), ...known}
    } catch {
      return this.#end(new FeedError("protocol", "the door sent what is no JSON"))
    }
    this.#failures = 0
    if (event.event === "hello") {
      this.#heartbeat = event.heartbeat
      this.#received = event.cursor || this.#received
      this.cursor ||= this.#received
      this.#set("open")
    }
    this.#look(link, 2.5 * this.#heartbeat)
    this.#received = event.cursor || this.#received
    switch (event.event) {
      case "message":
        return this.#pass(message(event))
      case "gap":
        return this.#call("ongap", {cursor: event.cursor})
      case "presence":
        this.presence = event.count
        return this.#call("onpresence", event.count)
    }
  }

  #pass(message) {
    if (this.#options.onmessage) {
      this.cursor = message.cursor || this.cursor
      return this.#call("onmessage", message)
    }
    const taker = this.#takers.shift()
    if (taker) {
      this.cursor = message.cursor || this.cursor
      return taker.resolve(message)
    }
    this.#queue.push(message)
    if (this.#queue.length >= this.#limit) {
      this.#paused = true
      this.#drop()
      clearTimeout(this.#watch)
      this.#set("waiting")
    }
  }

  // look gives up a connection from which nothing comes.
  #look(link, patience) {
    clearTimeout(this.#watch)
    this.#watch = setTimeout(() => this.#lost(link), patience)
  }

  // lost comes back later: soon and scattered if the door asked for it, else after
  // pauses that grow.
  #lost(link, asked = false) {
    if (this.#link !== link || this.state === "closed") return
    clearTimeout(this.#watch)
    this.#drop()
    this.#set("waiting")
    const pause = asked ? 1000 * Math.random() : Math.min(longestPause, firstPause * 2 ** this.#failures) * (0.5 + Math.random() / 2)
    if (!asked) this.#failures++
    this.#timer = setTimeout(() => this.#open(), pause)
  }

  #soon() {
    if (this.state === "waiting" && !this.#paused) this.#open()
  }
}

async function refusal(answer) {
  let text = "the door refuses: " + answer.status
  try {
    text = (await answer.json()).detail ?? text
  } catch {
    // it says no more than its status
  }
  return new FeedError("refused", text, answer.status)
}

function message({subject, sequence, time, cursor, data, text, base64}) {
  if (base64 !== undefined) data = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))
  return {subject, sequence, time: new Date(time), cursor, data: text ?? data}
}
