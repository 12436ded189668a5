// The live page of the svom system: services, bursts, and the stream of messages.
//
// Everything that is shown comes from messages of others and is put in as text.
import {connect} from "/fairlead.js"

const $ = (id) => document.getElementById(id)
const mostRows = 100 // of the stream
const mostBursts = 40
const silence = 16_000 // ms after which a service that says nothing is silent
const mostServices = 50

// add makes an element with a text and puts it into another.
function add(to, name, text = "", className = "") {
  const e = document.createElement(name)
  e.textContent = text
  if (className) e.className = className
  to.append(e)
  return e
}

// ---- Services

const services = new Map() // by URI

function heard({data}) {
  const {descriptor, activity} = data.ServiceStatus
  const since = services.get(descriptor.uri)?.since ?? Date.now()
  services.delete(descriptor.uri)
  services.set(descriptor.uri, {descriptor, activity, since, at: Date.now()})
  if (services.size > mostServices) services.delete(services.keys().next().value)
  showServices()
}

function showServices() {
  const list = $("services")
  if (services.size === 0) return
  const now = Date.now()
  for (const [uri, s] of services) if (now - s.at > (replaced(s) ? silence : 10 * silence)) services.delete(uri)
  list.replaceChildren()
  for (const [uri, {descriptor, activity, at}] of [...services].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const silent = now - at > silence
    const li = add(list, "li")
    add(li, "b", descriptor.name)
    add(li, "span", silent ? "silent" : activity, silent ? "badge bad" : "badge good")
    add(li, "small", `${uri.replace("svom://", "")}, ${ago(now - at)}`)
  }
}

// replaced tells whether another of the same name came after a service was heard last.
function replaced({descriptor, at}) {
  return [...services.values()].some((other) => other.descriptor.name === descriptor.name && other.since > at)
}

function ago(ms) {
  const s = Math.round(ms / 1000)
  return s < 2 ? "just now" : s < 120 ? `${s} s ago` : `${Math.round(s / 60)} min ago`
}

// ---- Bursts

const kinds = {201: "GRM trigger", 202: "ECLAIRs wake-up", 203: "catalogue", 204: "slewing", 205: "not slewing", 209: "MXT initial", 210: "MXT update", 211: "VT", 219: "retraction"}
const bursts = new Map() // by id

function learn(burst) {
  // Messages may be told again, and later ones hold more notices.
  const known = bursts.get(burst.burst_id)
  if (known && known.notices > burst.notices) return
  bursts.set(burst.burst_id, burst)
  showBursts(known?.notices === burst.notices ? "" : burst.burst_id)
}

function showBursts(fresh = "") {
  const all = [...bursts.values()].sort((a, b) => (a.last < b.last ? 1 : -1))
  for (const old of all.splice(mostBursts)) bursts.delete(old.burst_id)
  const list = $("burst-list")
  if (all.length === 0) return
  list.replaceChildren()
  for (const b of all) {
    const card = add(list, "article", "", "burst" + (b.retracted ? " gone" : "") + (b.burst_id === fresh ? " new" : ""))
    const title = add(card, "h3", b.burst_id)
    add(title, "span", [b.level, b.test && "invented", b.slew, b.retracted && "retracted"].filter(Boolean).join(", "))
    add(card, "p", `${b.first.replace("T", " ").slice(0, 19)} UTC, ${b.notices} notice${b.notices === 1 ? "" : "s"}. ${place(b)}`)
    const chips = add(card, "ul", "", "chips")
    for (const t of b.types.slice(0, 24)) add(chips, "li", kinds[t] ?? `type ${t}`)
  }
  showSky(all)
}

function place({position: p, by}) {
  if (!p) return "No position yet."
  return `RA ${p.ra.toFixed(3)}°, Dec ${p.dec.toFixed(3)}°${p.error ? ` within ${+p.error.toPrecision(3)}°` : ""}, by ${by}.`
}

// project is Hammer's equal-area projection, in units of the drawing.
function project(ra, dec) {
  const rad = Math.PI / 180
  const lambda = (((540 - ra) % 360) - 180) * rad
  const phi = dec * rad
  const d = Math.sqrt(1 + Math.cos(phi) * Math.cos(lambda / 2))
  return [(98 * Math.cos(phi) * Math.sin(lambda / 2)) / d, (-49 * Math.sin(phi)) / d]
}

function shape(name, attributes, text = "") {
  const e = document.createElementNS("http://www.w3.org/2000/svg", name)
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v)
  e.textContent = text
  return e
}

function line(points, className) {
  return shape("path", {class: className, d: "M" + points.map((p) => p.map((x) => x.toFixed(2)).join(" ")).join("L")})
}

function showSky(all) {
  const sky = $("sky")
  sky.replaceChildren()
  const steps = (from, to, by) => Array.from({length: Math.round((to - from) / by) + 1}, (_, i) => from + i * by)
  for (const dec of [-60, -30, 0, 30, 60]) sky.append(line(steps(0.001, 359.999, 359.998 / 90).map((ra) => project((ra + 180) % 360, dec)).sort((a, b) => a[0] - b[0]), "grid"))
  for (const ra of steps(30, 330, 30)) sky.append(line(steps(-90, 90, 4).map((dec) => project(ra, dec)), "grid"))
  sky.append(shape("ellipse", {class: "edge", rx: 98, ry: 49}))
  for (const b of [...all].reverse()) {
    if (!b.position) continue
    const [cx, cy] = project(b.position.ra, b.position.dec)
    const point = shape("circle", {class: "point" + (b.test ? " test" : "") + (b.retracted ? " gone" : ""), cx: cx.toFixed(2), cy: cy.toFixed(2), r: b === all[0] ? 2.6 : 1.6})
    point.append(shape("title", {}, b.burst_id))
    sky.append(point)
    if (b === all[0]) sky.append(shape("text", {x: (cx > 60 ? cx - 4 : cx + 4).toFixed(2), y: (cy + 1.2).toFixed(2), "text-anchor": cx > 60 ? "end" : "start"}, b.burst_id))
  }
}

// ---- Stream

let shown = "" // domain, "" for all
let paused = false
const rows = [] // newest first

function tell(message) {
  rows.unshift(message)
  rows.length = Math.min(rows.length, mostRows)
  if (!paused) showStream(message)
}

function showStream(fresh) {
  const list = $("stream")
  const some = rows.filter((m) => m.subject.startsWith(shown))
  if (some.length === 0) return list.replaceChildren(Object.assign(document.createElement("li"), {className: "empty", textContent: "Nothing of this yet."}))
  list.replaceChildren()
  for (const m of some.slice(0, 30)) {
    const li = add(list, "li", "", m.subject.split(".")[0] + (m === fresh ? " new" : ""))
    const time = add(li, "time", m.time.toISOString().slice(11, 19))
    time.dateTime = m.time.toISOString()
    add(li, "code", m.subject)
    add(li, "span", say(m.data))
  }
}

// say tells a message in a line.
function say(data) {
  if (data?.ServiceStatus) return `${data.ServiceStatus.descriptor.name} is ${data.ServiceStatus.activity.toLowerCase()}`
  const d = data?.DataNotification
  if (!d) return "a message of no known form"
  const inner = JSON.parse(d.message)
  switch (d.data_type) {
    case "NOTICE":
      return `${kinds[inner.packet_type] ?? "notice"} of ${inner.burst_id}, by ${inner.instrument}`
    case "BURST":
      return `${inner.burst_id} has ${inner.notices} notice${inner.notices === 1 ? "" : "s"}`
    case "ECLALERTL1":
      return `packet ${inner.CcsdsTmHeadr.CcsdsCounter} of APID ${inner.CcsdsTmHeadr.CcsdsApid}, ${d.source}`
  }
  return `${d.data_type} of ${d.source}: ${d.resource_locator}`
}

// ---- What comes

const states = {}
function state(domain, s) {
  states[domain] = s
  const all = Object.values(states)
  const is = all.includes("closed") ? "closed" : all.length === 3 && all.every((s) => s === "open") ? "live" : all.includes("waiting") ? "reconnecting" : "connecting"
  $("state").textContent = is
  $("state").className = "badge" + (is === "live" ? " good" : is === "closed" ? " bad" : "")
}

function problem(text) {
  $("notice").textContent = text
  $("notice").hidden = !text
}

function listen(domain, take) {
  connect(`/live/${domain}`, {
    presence: domain === "data",
    onmessage(m) {
      take(m)
      tell(m)
    },
    onstate: (s) => state(domain, s),
    ongap: () => problem(`Some messages of ${domain} are not kept any more and are missing here.`),
    onpresence: (n) => ($("watching").textContent = n === 1 ? "you are the only one here" : `${n} are watching`),
    onerror: (err) => problem(`The page is not live any more: ${err.message}. Reload it to try again.`),
  })
}

listen("activity", heard)
listen("data", () => {})
listen("science", ({data: {DataNotification: d}}) => {
  if (d.data_type === "BURST") learn(JSON.parse(d.message))
})

for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => {
    shown = button.dataset.show
    for (const b of document.querySelectorAll("[data-show]")) b.setAttribute("aria-pressed", b === button)
    showStream()
  })
}
$("pause").addEventListener("click", () => {
  paused = !paused
  $("pause").setAttribute("aria-pressed", paused)
  if (!paused) showStream()
})
setInterval(showServices, 1000)
showSky([])

try {
  const answer = await fetch(`/api/bursts?limit=${mostBursts}`)
  if (!answer.ok) throw new Error((await answer.json()).detail ?? answer.status)
  for (const b of (await answer.json()).bursts) learn(b)
} catch (err) {
  problem(`The bursts of before could not be had: ${err.message}`)
}
