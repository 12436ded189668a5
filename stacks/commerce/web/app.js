// The start page of the commerce system.
//
// The access token is kept in memory. The refresh token is in the tab's session
// storage too, so that a reload does not log out; it goes when the tab is closed.
// Only scripts of this page can read it there: the content security policy allows
// no others, and nothing that comes from outside is put in as HTML. It is good
// once, and one that is stolen and used ends the whole login. A cookie out of the
// reach of scripts would be sent with every request, also with forged ones.
"use strict";

const $ = (id) => document.getElementById(id);
const session = { access: "", refresh: "", roles: [] };
const FLOWS = { M: "Imports", X: "Exports", RM: "Re-imports", RX: "Re-exports" };
const FIRST_ROWS = 15;

class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const STORED = "commerce.refresh_token";

// keep stores the refresh token, "" for none.
function keep(token) {
  session.refresh = token;
  try {
    if (token) sessionStorage.setItem(STORED, token);
    else sessionStorage.removeItem(STORED);
  } catch {
    // Where storage is not allowed, the login lasts as long as the page.
  }
}

function kept() {
  try {
    return sessionStorage.getItem(STORED) ?? "";
  } catch {
    return "";
  }
}

// A tab that is duplicated has the same refresh token, which is good once: whoever
// changes it tells the others.
const tabs = new BroadcastChannel("commerce.session");
tabs.onmessage = ({ data }) => {
  if (!session.refresh || data.from !== session.refresh) return;
  if (data.to) keep(data.to);
  else end("You have logged out in another tab.");
};

// sentence makes a sentence of a text of the API. Where this begins with the name
// of a field of the form, the field is marked, and called as it is on the page.
function sentence(text, form) {
  const name = /^[a-z_]+/.exec(text)?.[0];
  const input = name && form.elements?.namedItem(name);
  if (input?.labels?.length) {
    input.setAttribute("aria-invalid", "true");
    text = input.labels[0].textContent + text.slice(name.length);
  }
  text = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

// say shows a message in the place of what was used, and leads there.
function say(place, text, good = false) {
  const notice = place.querySelector(".notice");
  notice.setAttribute("role", good ? "status" : "alert");
  notice.classList.toggle("good", good);
  notice.hidden = false;
  notice.textContent = sentence(text, place);
  notice.focus({ preventScroll: true });
  notice.scrollIntoView({ block: "nearest" });
}

// hush takes away the messages of a part of the page.
function hush(part) {
  for (const notice of part.querySelectorAll(".notice")) {
    notice.hidden = true;
    notice.textContent = "";
  }
  for (const input of part.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

async function problemOf(response) {
  const text = await response.text();
  try {
    const p = JSON.parse(text);
    return new Problem(response.status, p.detail || p.title || response.statusText);
  } catch {
    return new Problem(response.status, response.statusText || `Status ${response.status}`);
  }
}

// One refresh at a time: a refresh token is good once.
let refreshing = null;

function refresh() {
  const from = session.refresh;
  refreshing ??= send("/api/auth/refresh", post({ refresh_token: from }), false)
    .then((r) => r.json())
    .then((tokens) => {
      begin(tokens);
      tabs.postMessage({ from, to: session.refresh });
    })
    .finally(() => { refreshing = null; });
  return refreshing;
}

function post(body) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}

// send does a request, with a new access token when the old one has expired.
async function send(path, options = {}, authorized = true) {
  const headers = new Headers(options.headers);
  headers.set("Accept", "application/json");
  if (authorized && session.access) headers.set("Authorization", `Bearer ${session.access}`);
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401 && authorized && session.refresh) {
    try {
      await refresh();
    } catch (e) {
      if (e.status !== 401) throw e;
      end();
      throw new Problem(401, "Your login has ended: please log in again.");
    }
    headers.set("Authorization", `Bearer ${session.access}`);
    const again = await fetch(path, { ...options, headers });
    if (!again.ok) throw await problemOf(again);
    return again;
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

const get = (path) => send(path).then((r) => r.json());

// busy runs an action with its button off, and says what went wrong in the place
// of the button, or beside the login when it is needed again.
async function busy(button, action) {
  const focused = document.activeElement === button;
  button.disabled = true;
  hush(button.closest("section") ?? document);
  try {
    await action();
  } catch (e) {
    const place = button.closest("[data-place]");
    say(place && !place.closest("[hidden]") ? place : $("login"), e instanceof Problem ? e.message : "The system cannot be reached.");
  } finally {
    button.disabled = false;
    if (focused && document.activeElement === document.body) button.focus({ preventScroll: true });
  }
}

function begin(tokens) {
  session.access = tokens.access_token;
  session.roles = tokens.roles;
  keep(tokens.refresh_token);
  $("who-name").textContent = tokens.username;
  show(true);
}

function end(why = "") {
  session.access = "";
  session.roles = [];
  keep("");
  show(false);
  // Whoever logs in next sees nothing of the one before.
  noSums();
  noFlows("Nothing searched yet");
  $("search").reset();
  $("upload").reset();
  hush(document);
  if (why) say($("login"), why);
}

function show(loggedIn) {
  $("who").hidden = $("sums").hidden = $("find").hidden = !loggedIn;
  $("welcome").hidden = loggedIn;
  $("import").hidden = !session.roles.includes("analyst");
}

// decimals returns how many decimals amounts need beside each other: none, or two.
const decimals = (values) => values.some((v) => /\.\d*[1-9]/.test(v ?? "")) ? 2 : 0;

// money shows a decimal string with groups of three digits, rounded from its
// exact thousandths.
function money(value, places) {
  if (value === undefined) return "–";
  const [whole, fraction = ""] = value.replace("-", "").split(".");
  const unit = 10n ** BigInt(3 - places);
  const rounded = (BigInt(whole + fraction.padEnd(3, "0")) + unit / 2n) / unit;
  const digits = rounded.toString().padStart(places + 1, "0");
  const cut = digits.length - places;
  const text = digits.slice(0, cut).replace(/\B(?=(\d{3})+$)/g, ",") + (places ? `.${digits.slice(cut)}` : "");
  return value.startsWith("-") && rounded ? `−${text}` : text;
}

// amount is a cell with money; the exact value is its title.
function amount(value, places) {
  const td = cell("td", money(value, places), "n");
  if (value !== undefined) td.title = value;
  return td;
}

function cell(tag, text, kind) {
  const e = document.createElement(tag);
  e.textContent = text;
  if (kind === "n") e.className = "n";
  if (tag === "th") e.scope = "row";
  return e;
}

function row(cells) {
  const tr = document.createElement("tr");
  tr.append(...cells);
  return tr;
}

let by = "partner";
let asked = 0; // sums that were asked for; the answer to the last one counts

function noSums() {
  $("sums-rows").replaceChildren();
  $("sums-total").replaceChildren();
  $("sums-all").hidden = true;
}

async function sums(all = false) {
  const turn = ++asked;
  const wanted = by;
  $("sums-table").setAttribute("aria-busy", "true");
  try {
    const summary = await get(`/api/flows/summary?by=${wanted}`);
    if (turn === asked) showSums(summary, wanted, all);
  } catch (e) {
    if (turn !== asked) return;
    // What is there belongs to something else.
    noSums();
    $("sums-caption").textContent = `No sums by ${wanted}`;
    throw e;
  } finally {
    if (turn === asked) $("sums-table").removeAttribute("aria-busy");
  }
}

function showSums(summary, wanted, all) {
  $("sums-key").textContent = wanted[0].toUpperCase() + wanted.slice(1);
  $("sums-caption").textContent = `US dollars by ${wanted}`;
  const rows = all ? summary.rows : summary.rows.slice(0, FIRST_ROWS);
  const places = decimals([...rows, summary.totals].flatMap((r) => [r.imports, r.exports, r.balance]));
  const amounts = (r) => [amount(r.imports, places), amount(r.exports, places), amount(r.balance, places)];
  $("sums-rows").replaceChildren(...rows.map((r) => row([
    cell("th", wanted === "chapter" ? `${r.key} ${r.name ?? ""}` : r.name ?? r.key), ...amounts(r),
  ])));
  $("sums-total").replaceChildren(row([cell("th", "All"), ...amounts(summary.totals)]));
  $("sums-all").hidden = rows.length === summary.rows.length;
  $("sums-all").textContent = `Show all ${summary.rows.length}`;
}

function query() {
  const q = new URLSearchParams();
  for (const [name, value] of new FormData($("search"))) {
    if (value.trim()) q.set(name, value.trim());
  }
  return q;
}

let next = null;

function noFlows(caption) {
  next = null;
  $("find-rows").replaceChildren();
  $("find-caption").textContent = caption;
  $("more").hidden = true;
}

async function find(after) {
  const q = after ? new URLSearchParams(after.query) : query();
  if (after) q.set("after", after.mark);
  q.set("limit", "20");
  $("find-table").setAttribute("aria-busy", "true");
  try {
    showFlows(await get(`/api/flows?${q}`), q, after);
  } catch (e) {
    if (!after) noFlows("No flows: the search did not work");
    throw e;
  } finally {
    $("find-table").removeAttribute("aria-busy");
  }
}

function showFlows(page, q, after) {
  const places = Math.max(after?.places ?? 0, decimals(page.items.map((f) => f.value)));
  const rows = page.items.map((f) => row([
    cell("th", f.reporter.name), cell("td", String(f.period)), cell("td", FLOWS[f.flow] ?? f.flow), cell("td", f.partner.name),
    cell("td", f.cmd), amount(f.value, places),
  ]));
  if (after) $("find-rows").append(...rows);
  else $("find-rows").replaceChildren(...rows);
  const total = page.total.toLocaleString("en");
  $("find-caption").textContent = page.total === 0 ? "No flows match" : page.total === 1 ? "1 flow" : `${total} flows`;
  q.delete("after");
  next = page.next ? { query: q.toString(), mark: page.next, places } : null;
  $("more").hidden = !next;
}

const submitOf = (form) => form.querySelector("button:not([type=button])");

// load fills the page; each part says itself what went wrong with it.
const load = () => Promise.all([
  busy(document.querySelector("[data-by][aria-pressed=true]"), () => sums()),
  busy(submitOf($("search")), () => find()),
]);

$("login").addEventListener("submit", (e) => {
  e.preventDefault();
  busy(submitOf($("login")), async () => {
    const body = { username: $("username").value, password: $("password").value };
    begin(await (await send("/api/auth/login", post(body), false)).json());
    $("password").value = "";
    $("sums-title").focus();
    await load();
  });
});

$("register").addEventListener("click", (e) => {
  if (!$("login").reportValidity()) return;
  busy(e.target, async () => {
    const body = { username: $("username").value, password: $("password").value };
    const made = await (await send("/api/auth/register", post(body), false)).json();
    say($("login"), `The user ${made.username} is registered and can log in.`, true);
  });
});

$("logout").addEventListener("click", (e) => busy(e.target, async () => {
  const token = session.refresh;
  tabs.postMessage({ from: token, to: "" });
  end();
  $("username").focus();
  await send("/api/auth/logout", post({ refresh_token: token }), false);
}));

for (const tab of document.querySelectorAll("[data-by]")) {
  tab.addEventListener("click", () => busy(tab, async () => {
    by = tab.dataset.by;
    for (const t of document.querySelectorAll("[data-by]")) t.setAttribute("aria-pressed", String(t === tab));
    await sums();
  }));
}

$("sums-all").addEventListener("click", (e) => busy(e.target, () => sums(true)));
$("search").addEventListener("submit", (e) => {
  e.preventDefault();
  busy(submitOf($("search")), () => find());
});
$("more").addEventListener("click", (e) => busy(e.target, () => find(next)));

$("export").addEventListener("click", (e) => busy(e.target, async () => {
  const blob = await (await send(`/api/flows/export.csv?${query()}`)).blob();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "flows.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}));

$("upload").addEventListener("submit", (e) => {
  e.preventDefault();
  busy(submitOf($("upload")), async () => {
    const file = $("file").files[0];
    const r = await (await send("/api/flows/import", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } })).json();
    const reasons = Object.entries(r.reasons).map(([reason, n]) => `${reason.replaceAll("_", " ")}: ${n}`).join(", ");
    await load();
    say($("upload"), `${r.received} received, ${r.inserted} inserted, ${r.updated} updated, ${r.unchanged} unchanged, ${r.rejected} rejected` +
      (reasons ? ` (${reasons})` : "") + ".", true);
  });
});

for (const form of document.forms) {
  form.addEventListener("input", (e) => e.target.removeAttribute("aria-invalid"));
}

// A table that is wider than its place says so.
const watch = new ResizeObserver(() => {
  for (const box of document.querySelectorAll(".scroll")) box.previousElementSibling.hidden = box.scrollWidth <= box.clientWidth;
});
for (const box of document.querySelectorAll(".scroll")) {
  watch.observe(box);
  watch.observe(box.firstElementChild);
}

// Commodities are public: the list of suggestions needs no login.
let typing = 0;
$("hs").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(async () => {
    const text = $("hs").value.trim();
    if (!text) return;
    try {
      const page = await (await send(`/api/model/commodities?limit=12&q=${encodeURIComponent(text)}`, {}, false)).json();
      $("commodities").replaceChildren(...page.items.map((c) => {
        const option = document.createElement("option");
        option.value = c.code;
        option.label = `${c.code} ${c.text}`;
        return option;
      }));
    } catch {
      // Suggestions are a convenience; the search itself says what is wrong.
    }
  }, 200);
});

// After a reload the login goes on.
async function resume() {
  session.refresh = kept();
  if (!session.refresh) return;
  $("welcome").hidden = true;
  try {
    await refresh();
  } catch (e) {
    if (e.status === 401) {
      end("Your login has ended: please log in again.");
    } else {
      // The token stays: a reload tries again.
      show(false);
      say($("login"), "The system cannot be reached. Reload the page to go on, or log in.");
    }
    return;
  }
  await load();
}

resume();
