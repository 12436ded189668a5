// The start page of the commerce system. Tokens are kept in memory only: whoever
// reloads the page logs in again.
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

function say(text) {
  $("status").hidden = !text;
  $("status").textContent = text;
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
  refreshing ??= send("/api/auth/refresh", post({ refresh_token: session.refresh }), false)
    .then((r) => r.json())
    .then(begin)
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
    } catch {
      end();
      throw new Problem(401, "Please log in again.");
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

// busy runs an action with its button off, and says what went wrong.
async function busy(button, action) {
  button.disabled = true;
  say("");
  try {
    await action();
  } catch (e) {
    say(e instanceof Problem ? e.message : "The system cannot be reached.");
  } finally {
    button.disabled = false;
  }
}

function begin(tokens) {
  session.access = tokens.access_token;
  session.refresh = tokens.refresh_token;
  session.roles = tokens.roles;
  $("who-name").textContent = tokens.username;
  show(true);
}

function end() {
  session.access = session.refresh = "";
  session.roles = [];
  show(false);
}

function show(loggedIn) {
  $("who").hidden = $("sums").hidden = $("find").hidden = !loggedIn;
  $("welcome").hidden = loggedIn;
  $("import").hidden = !session.roles.includes("analyst");
}

// money shows an exact decimal string with groups of three digits.
function money(value) {
  if (value === undefined) return "–";
  const [whole, fraction] = value.split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, "\u202f").replace("-", "−");
  return `${grouped}.${(fraction ?? "").padEnd(3, "0")}`;
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

async function sums(all = false) {
  const summary = await get(`/api/flows/summary?by=${by}`);
  const title = by[0].toUpperCase() + by.slice(1);
  $("sums-key").textContent = title;
  $("sums-caption").textContent = `US dollars by ${by}`;
  const rows = all ? summary.rows : summary.rows.slice(0, FIRST_ROWS);
  $("sums-rows").replaceChildren(...rows.map((r) => row([
    cell("th", by === "chapter" ? `${r.key} ${r.name ?? ""}` : r.name ?? r.key),
    cell("td", money(r.imports), "n"), cell("td", money(r.exports), "n"), cell("td", money(r.balance), "n"),
  ])));
  const t = summary.totals;
  $("sums-total").replaceChildren(row([
    cell("th", "All"), cell("td", money(t.imports), "n"), cell("td", money(t.exports), "n"), cell("td", money(t.balance), "n"),
  ]));
  $("sums-all").hidden = rows.length === summary.rows.length;
  $("sums-all").textContent = `Show all ${summary.rows.length}`;
}

function query() {
  const q = new URLSearchParams();
  for (const [name, value] of new FormData($("search"))) {
    if (value.trim()) q.set(name, value.trim().split(" ")[0]);
  }
  return q;
}

let next = null;

async function find(after) {
  const q = after ? new URLSearchParams(after.query) : query();
  if (after) q.set("after", after.mark);
  q.set("limit", "20");
  const page = await get(`/api/flows?${q}`);
  const rows = page.items.map((f) => row([
    cell("th", f.reporter.name), cell("td", String(f.period)), cell("td", FLOWS[f.flow] ?? f.flow), cell("td", f.partner.name),
    cell("td", f.cmd), cell("td", money(f.value), "n"),
  ]));
  if (after) $("find-rows").append(...rows);
  else $("find-rows").replaceChildren(...rows);
  $("find-caption").textContent = page.total === 1 ? "1 flow" : `${page.total} flows`;
  q.delete("after");
  next = page.next ? { query: q.toString(), mark: page.next } : null;
  $("more").hidden = !next;
}

$("login").addEventListener("submit", (e) => {
  e.preventDefault();
  busy(e.submitter ?? $("login").querySelector("button"), async () => {
    const body = { username: $("username").value, password: $("password").value };
    begin(await (await send("/api/auth/login", post(body), false)).json());
    $("password").value = "";
    await Promise.all([sums(), find()]);
    $("sums-title").scrollIntoView({ block: "nearest" });
  });
});

$("register").addEventListener("click", (e) => {
  if (!$("login").reportValidity()) return;
  busy(e.target, async () => {
    const body = { username: $("username").value, password: $("password").value };
    const made = await (await send("/api/auth/register", post(body), false)).json();
    say(`${made.username} is registered and can log in.`);
  });
});

$("logout").addEventListener("click", (e) => busy(e.target, async () => {
  const token = session.refresh;
  end();
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
  busy(e.submitter ?? $("search").querySelector("button"), () => find());
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
  busy(e.submitter ?? $("upload").querySelector("button"), async () => {
    const file = $("file").files[0];
    const r = await (await send("/api/flows/import", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } })).json();
    const reasons = Object.entries(r.reasons).map(([reason, n]) => `${reason.replaceAll("_", " ")}: ${n}`).join(", ");
    $("report").hidden = false;
    $("report").textContent = `${r.received} received, ${r.inserted} inserted, ${r.updated} updated, ${r.unchanged} unchanged, ${r.rejected} rejected` +
      (reasons ? ` (${reasons})` : "") + ".";
    await Promise.all([sums(), find()]);
  });
});

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
