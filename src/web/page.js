// The page of a dsn node. What other nodes say is only ever put in as text.
"use strict";

const STATUSES = ["alive", "suspect", "lost", "left"];
const SIGNS = { alive: "●", suspect: "◐", lost: "✕", left: "○" };
const COLUMNS = [
  ["node", "Node"], ["status", "Status"], ["address", "Address"],
  ["heard", "Heard", "num"], ["trip", "Round trip", "num"], ["keys", "Keys", "num"],
];
const POLL_MS = 1000, POLL_HIDDEN_MS = 10000, WAIT_MAX_MS = 30000, ANSWER_MS = 10000, LARGE_MS = 30000;
// How much is shown, and kept, of one value, one node and one key.
const VALUE_CHARS = 240, KEYS_SHOWN = 100, POINTS_MAX = 120, HAY_CHARS = 2000;
// Control characters, and such as are not seen or turn a line around.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0]+/gu;
const NUMBER = /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i;

const $ = (id) => document.getElementById(id);
const table = document.querySelector("#all > table");
const nodes = new Map();
let own = "", about = null, cursor = "", tag = "", token = "";
let view = { open: new Set(), filter: "", status: "", sort: "node", down: false };
let timer = 0, busy = false, fails = 0, why = "", heardAt = 0, tryAt = 0, serial = 0, isNewOrder = true, isLoading = false;

try { token = sessionStorage.getItem("dsn-token") || ""; } catch { /* Then it is asked for each time. */ }

// --- small things

function make(name, classes, ...children) {
  const element = document.createElement(name);
  if (classes) element.className = classes;
  element.append(...children);
  return element;
}

// Sets a text where it is another one: the page does not move while nothing does.
function put(element, text) {
  if (element.shown !== text) { element.shown = text; element.textContent = text; }
}

const escaped = (text) => Array.from(text, (char) =>
  ({ "\n": "\\n", "\r": "\\r", "\t": "\\t" })[char] || `\\u{${char.codePointAt(0).toString(16)}}`).join("");

// Shows a text of somebody else: what is not seen by its escape, in a place of its own.
function fill(element, text) {
  if (element.shown === text) return;
  element.shown = text;
  const parts = [];
  let at = 0;
  for (const { 0: unseen, index } of text.matchAll(UNSEEN)) {
    parts.push(text.slice(at, index), make("span", "esc", escaped(unseen)));
    if (unseen.includes("\n")) parts.push("\n");
    at = index + unseen.length;
  }
  element.replaceChildren(...parts, text.slice(at));
}

function age(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 100) return `${s} s`;
  if (s < 6000) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} days`;
}

const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
const trip = (ms) => ms == null ? "–" : `${ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : Math.round(ms)} ms`;

// That of a node that does not answer was once.
const tripOf = ({ peer, status }) => trip(status === "alive" ? peer?.round_trip_ms : null);

// --- what is known

function nodeOf(id) {
  let node = nodes.get(id);
  if (!node) {
    node = { id, number: ++serial, peer: null, state: null, keys: new Map(), count: 0, status: "alive", hay: null, tag: "", loadFails: 0, loadAt: 0 };
    nodes.set(id, node);
    build(node);
    isNewOrder = true;
  }
  return node;
}

function drop(id) {
  nodes.get(id)?.body.remove();
  nodes.delete(id);
}

// Fewer where there is little room.
const narrow = matchMedia("(max-width: 52rem)");
const columnsShown = () => narrow.matches ? COLUMNS.length - 2 : COLUMNS.length;
narrow.addEventListener("change", () => { for (const node of nodes.values()) node.panel.colSpan = columnsShown(); });

// A value as text; of other bytes which they are.
function textOf(value) {
  if (typeof value === "string") return { text: value, isText: true };
  const bytes = atob(value.base64);
  const hex = Array.from(bytes.slice(0, 32), (byte) => byte.charCodeAt(0).toString(16).padStart(2, "0"));
  return { text: `${plural(bytes.length, "byte")}: ${hex.join(" ")}${bytes.length > 32 ? " …" : ""}`, isText: false };
}

function takePeer(peer, news, isFirst) {
  const node = nodeOf(peer.node_id), before = node.peer;
  if (!before && !isFirst) news.push(`${peer.node_id} is new, and ${peer.status}`);
  if (before && before.status !== peer.status) news.push(`${peer.node_id} is ${peer.status}`);
  if (!before || before.status !== peer.status || view.sort !== "node") isNewOrder = true;
  node.peer = peer;
  node.status = peer.status;
  node.count = peer.keys;
  node.heardAt = peer.heard_ms_ago == null ? null : Date.now() - peer.heard_ms_ago;
  node.hay = null;
  drawRow(node);
}

function takeState(state) {
  const node = nodeOf(state.node_id), now = Date.now(), isFirst = !node.state;
  const heldSince = state.held_ms == null ? null : now - state.held_ms;
  const expires = state.expires_ms || {};
  for (const key of node.keys.keys()) if (!Object.hasOwn(state.entries, key)) node.keys.delete(key);
  for (const [key, value] of Object.entries(state.entries)) {
    const { text, isText } = textOf(value);
    let entry = node.keys.get(key);
    const goesAt = Object.hasOwn(expires, key) ? now + expires[key] : null;
    if (entry) entry.goesAt = goesAt;
    if (entry && entry.text === text && entry.isText === isText) continue;
    // What was there when we came may be older than the version that it came with.
    if (!entry) node.keys.set(key, entry = { points: [] });
    Object.assign(entry, { text, isText, goesAt, at: heldSince, isExact: !isFirst, changedAt: isFirst ? 0 : now });
    if (isText && text.length < 40 && NUMBER.test(text)) {
      entry.points.push([now, Number(text)]);
      if (entry.points.length > POINTS_MAX) entry.points.shift();
    } else entry.points = [];
  }
  node.state = { timestamp: state.timestamp, hasLeases: Object.keys(expires).length > 0 };
  node.hay = null;
  drawKeys(node);
}

function take(data) {
  const news = [];
  if (data.status) {
    const id = data.status.node_id;
    if (own && own !== id) drop(own);
    if (own !== id) isNewOrder = true;
    own = id;
    about = { ...data.status, at: Date.now() };
    Object.assign(nodeOf(own), { count: about.keys, status: "alive", hay: null });
    drawRow(nodeOf(own));
    drawAbout();
  }
  if (data.whole) {
    const there = new Set([own, ...data.peers.map((peer) => peer.node_id)]);
    for (const id of nodes.keys()) if (!there.has(id)) drop(id);
  }
  for (const id of data.gone) {
    drop(id);
    news.push(`${id} is gone`);
  }
  for (const peer of data.peers) takePeer(peer, news, data.whole);
  for (const state of data.states) {
    nodeOf(state.node_id).tag = "";
    takeState(state);
  }
  cursor = data.cursor;
  if (news.length) put($("news"), news.length > 4 ? `${news.length} nodes changed` : news.join(". "));
  arrange();
}

// --- asking

function headers(known) {
  const all = known ? { "If-None-Match": known } : {};
  if (token) all.Authorization = `Bearer ${token}`;
  return all;
}

const ask = (path, known, timeout = ANSWER_MS) =>
  fetch(path, { headers: headers(known), cache: "no-store", signal: AbortSignal.timeout(timeout) });

const waitAfter = (fails) => Math.min(WAIT_MAX_MS, 1000 * 2 ** Math.min(fails - 1, 5)) * (0.8 + Math.random() * 0.4);

async function poll() {
  clearTimeout(timer);
  if (busy) return;
  busy = true;
  let wait = document.hidden ? POLL_HIDDEN_MS : POLL_MS;
  try {
    const answer = await ask(cursor ? `api/changes?since=${cursor}` : "api/changes", tag);
    if (answer.status === 401) return askForToken(token !== "");
    if (answer.status === 200) {
      const data = await answer.json();
      take(data);
      tag = answer.headers.get("ETag") || "";
      if (data.more) wait = 0;
    } else if (answer.status !== 304) throw new Error(await whyOf(answer));
    fails = 0;
    heardAt = Date.now();
    drawLink();
    if (wait) askForLarge();
  } catch (fault) {
    fails += 1;
    wait = waitAfter(fails);
    tryAt = Date.now() + wait;
    // What a browser says of a node that is not there is in its own words.
    why = fault.name === "Error" ? fault.message : "";
    drawLink();
  } finally {
    busy = false;
  }
  timer = setTimeout(poll, wait);
}

async function whyOf(answer) {
  try { return (await answer.json()).error; } catch { return `HTTP status ${answer.status}`; }
}

// States that are too long to come by themselves, of nodes that are open: one after the other, beside
// the polls, which go on where a line is slow.
async function askForLarge() {
  if (isLoading) return;
  isLoading = true;
  for (const id of [...view.open]) {
    const node = nodes.get(id);
    if (!node || !node.count || Date.now() < node.loadAt) continue;
    const timestamp = id === own ? about.timestamp : node.peer?.timestamp;
    // When a key goes can change without a new version.
    const mayGoLater = node.tag && node.state?.hasLeases;
    if (node.state?.timestamp !== timestamp || mayGoLater) await load(node);
  }
  isLoading = false;
}

async function load(node) {
  try {
    const answer = await ask(`api/state?node=${encodeURIComponent(node.id)}`, node.tag, LARGE_MS);
    if (answer.status === 200) {
      const state = await answer.json();
      // A newer one may have come by itself, or the node be gone.
      if (nodes.get(node.id) === node && !(node.state?.timestamp > state.timestamp)) {
        takeState(state);
        node.tag = answer.headers.get("ETag") || "";
      }
    } else if (answer.status !== 304) throw new Error(await whyOf(answer));
    node.loadFails = 0;
  } catch {
    node.loadFails += 1;
    node.loadAt = Date.now() + waitAfter(node.loadFails);
  }
}

function askForToken(isWrong) {
  // It answers, if not with what we want.
  token = why = "";
  fails = 0;
  document.body.classList.remove("stale");
  $("link").classList.remove("off");
  try { sessionStorage.removeItem("dsn-token"); } catch { /* It was not kept. */ }
  $("all").hidden = true;
  $("ask").hidden = false;
  $("link").hidden = true;
  $("ask").classList.toggle("wrong", isWrong);
  if (isWrong) put($("ask-why"), "That is not the token of this node.");
  $("token").focus();
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  try { sessionStorage.setItem("dsn-token", token); } catch { /* This page has it. */ }
  $("token").value = "";
  $("ask").hidden = true;
  poll();
});

// --- showing

function drawLink() {
  const link = $("link"), isOff = fails > 0;
  link.hidden = false;
  // Said aloud once: what is shown counts seconds.
  if (isOff !== link.classList.contains("off")) {
    put($("news"), `${own || "The node"} ${isOff ? "does not answer" : "answers again"}`);
  }
  link.classList.toggle("off", isOff);
  document.body.classList.toggle("stale", isOff);
  if (!isOff) return put($("link-text"), "live");
  const since = heardAt ? `has not answered for ${age(Date.now() - heardAt)}` : "does not answer";
  const next = Math.max(0, Math.ceil((tryAt - Date.now()) / 1000));
  fill($("link-text"), `${own || "the node"} ${since}${why ? ` (${why})` : ""}; trying again in ${next} s`);
}

function faultBox(fault) {
  const box = make("div");
  const code = make("strong"), text = make("span"), hint = make("p");
  fill(code, fault.node ? `${fault.code} (${fault.node})` : fault.code);
  fill(text, fault.text);
  fill(hint, fault.hint || "");
  box.append(make("p", "", code, text), hint);
  return box;
}

function drawAbout() {
  fill($("own"), own);
  $("all").hidden = false;
  $("ask").hidden = true;
  const faults = $("faults");
  const said = JSON.stringify(about.degraded);
  if (faults.said !== said) {
    faults.said = said;
    faults.hidden = !about.degraded.length;
    faults.replaceChildren(...about.degraded.map(faultBox));
  }
  const notices = $("notices");
  notices.hidden = !about.notices.length;
  put(notices.firstElementChild, `${plural(about.notices.length, "notice")} of the last day`);
  notices.lastElementChild.replaceChildren(...about.notices.map((notice) => {
    const when = make("span"), text = make("span");
    fill(text, `${notice.code}: ${notice.text} ${notice.hint}`);
    return make("p", "", when, text);
  }));
  drawNoticeAges();
  fill($("foot"), `dsn ${about.version} · listening on ${about.listen} · fingerprint ${about.fingerprint} · network key ${about.network_key}${discovery(about.discovery)}`);
}

function discovery(it) {
  if (!it) return "";
  const links = it.interfaces.map((link) => `${link.name} (${link.address})`);
  return ` · discovery on ${links.join(", ") || "no interface"}, new nodes called: ${it.met}`;
}

function drawNoticeAges() {
  about.notices.forEach((notice, index) => {
    const when = $("notices").lastElementChild.children[index].firstChild;
    // What counts on has no moment.
    put(when, notice.code === "log-dropped" ? "" : `${age(notice.ago_ms + Date.now() - about.at)} ago, `);
  });
}

// The rows of a node: one that is always there, one for what is in it.
function build(node) {
  const cell = (name, kind = "") => make("td", `c-${name} ${kind}`);
  const name = make("bdi");
  fill(name, node.id);
  node.button = make("button", "", make("span", "arrow"), name);
  node.button.type = "button";
  node.button.setAttribute("aria-expanded", "false");
  node.button.setAttribute("aria-controls", `more-${node.number}`);
  const head = make("th", "c-node", node.button);
  head.scope = "row";
  node.cells = { status: make("span"), address: make("bdi", "address"), heard: cell("heard", "num"), trip: cell("trip", "num"), keys: cell("keys", "num") };
  const row = make("tr", "row", head, cell("status"), cell("address"), node.cells.heard, node.cells.trip, node.cells.keys);
  row.children[1].append(node.cells.status);
  node.cells.reason = make("div", "reason");
  row.children[2].append(node.cells.address, node.cells.reason);
  row.addEventListener("click", () => { if (!String(getSelection())) toggle(node); });
  node.panel = make("td");
  node.panel.colSpan = columnsShown();
  node.more = make("tr", "more", node.panel);
  node.more.id = `more-${node.number}`;
  node.more.hidden = true;
  node.body = make("tbody", "", row, node.more);
}

function drawRow(node) {
  const { cells, peer } = node, isOwn = node.id === own;
  if (isOwn && !node.me) node.button.append(node.me = make("span", "me", "this node"));
  if (cells.status.className !== `status ${node.status}`) {
    cells.status.className = `status ${node.status}`;
    const sign = make("i", "", SIGNS[node.status] || "?");
    sign.setAttribute("aria-hidden", "true");
    cells.status.replaceChildren(sign, node.status);
  }
  fill(cells.address, (isOwn ? about?.advertise || about?.listen : peer?.address) || "–");
  fill(cells.reason, peer?.reason || "");
  put(cells.trip, isOwn ? "" : tripOf(node));
  put(cells.keys, node.count.toLocaleString("en"));
  drawAge(node);
  drawFacts(node);
}

function drawAge(node) {
  put(node.cells.heard, node.id === own ? "" : node.heardAt == null ? "never" : `${age(Date.now() - node.heardAt)} ago`);
}

function drawFacts(node) {
  if (!view.open.has(node.id)) return;
  if (!node.facts) {
    node.why = make("p", "why");
    node.facts = make("dl", "facts");
    node.list = make("div");
    node.panel.replaceChildren(node.why, node.facts, node.list);
  }
  const isOwn = node.id === own, peer = node.peer;
  fill(node.why, peer?.reason || "");
  node.why.hidden = !peer?.reason;
  const facts = [
    ["address", (isOwn ? about.advertise || about.listen : peer?.address) || "not known", "narrow"],
    ["round trip", isOwn ? "" : tripOf(node), "narrow"],
    ["fingerprint", isOwn ? about.fingerprint : peer?.fingerprint || ""],
    ["network key", isOwn ? about.network_key : peer?.network_key || ""],
  ];
  const said = JSON.stringify(facts);
  if (node.facts.said === said) return;
  node.facts.said = said;
  node.facts.replaceChildren(...facts.filter((fact) => fact[1] && fact[1] !== "–").map(([name, text, kind]) => {
    const value = make("dd", "mono");
    fill(value, text);
    return make("div", kind || "", make("dt", "", name), value);
  }));
}

function spark(points) {
  if (points.length < 2) return "";
  const now = Date.now(), values = points.map((point) => point[1]);
  const low = Math.min(...values), span = Math.max(...values) - low || 1;
  const x = (at) => (2 + 112 * (at - points[0][0]) / Math.max(1, now - points[0][0])).toFixed(1);
  const y = (value) => (19 - 16 * (value - low) / span).toFixed(1);
  const last = y(values.at(-1));
  const path = points.map(([at, value], index) => (index ? `H${x(at)}V` : `M${x(at)} `) + y(value)).join("");
  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const high = Math.max(...values);
  const picture = svg("svg", { class: "spark", viewBox: "0 0 116 22", role: "img",
    "aria-label": `${points.length} values since this page was opened, from ${low} to ${high}` });
  picture.append(svg("path", { d: `${path}H114` }), svg("circle", { cx: 114, cy: last, r: 2 }));
  return picture;
}

function keyRow(node, key) {
  const role = (element, name) => { element.setAttribute("role", name); return element; };
  const name = role(make("th", "k-key"), "rowheader"), text = make("bdi");
  const since = make("div"), goes = make("div", "goes");
  const row = { since, goes, value: role(make("td", "value"), "cell"), text, trend: role(make("td", "k-trend"), "cell"), age: role(make("td", "k-age num", since, goes), "cell"), key };
  name.scope = "row";
  const label = make("bdi");
  fill(label, key);
  name.append(label);
  row.value.append(text);
  row.line = role(make("tr", "", name, row.value, row.trend, row.age), "row");
  return row;
}

// The keys of a node that is open, row by row: what did not change stays as it is.
function drawKeys(node) {
  if (!view.open.has(node.id)) return;
  if (!node.facts) drawFacts(node);
  const keys = [...node.keys.keys()].sort();
  if (!node.rows) {
    node.rows = new Map();
    const heads = ["k-key:Key", "k-value:Value", "k-trend:Since opened", "k-age num:Age"].map((it) => {
      const [classes, text] = it.split(":");
      const head = make("th", classes, text);
      head.scope = "col";
      return head;
    });
    node.keyBody = make("tbody");
    node.keyTable = make("table", "keys", make("thead", "", make("tr", "", ...heads)), node.keyBody);
    node.keyTable.setAttribute("role", "table");
    node.quiet = make("p", "quiet");
    node.moreKeys = make("button", "more-keys");
    node.moreKeys.type = "button";
    node.moreKeys.addEventListener("click", () => { node.isWhole = true; drawKeys(node); });
    node.list.append(node.keyTable, node.quiet, node.moreKeys);
  }
  const shown = node.isWhole ? keys : keys.slice(0, KEYS_SHOWN);
  const wanted = new Set(shown);
  for (const [key, row] of node.rows) if (!wanted.has(key)) { row.line.remove(); node.rows.delete(key); }
  let at = node.keyBody.firstChild;
  for (const key of shown) {
    let row = node.rows.get(key);
    if (!row) node.rows.set(key, row = keyRow(node, key));
    if (row.line === at) at = at.nextSibling; else node.keyBody.insertBefore(row.line, at);
    drawValue(node, row, node.keys.get(key));
  }
  node.keyTable.hidden = !keys.length;
  node.moreKeys.hidden = shown.length === keys.length;
  put(node.moreKeys, `Show all ${plural(keys.length, "key")}`);
  node.quiet.hidden = keys.length > 0;
  put(node.quiet, node.count && !node.state ? "Its keys are being fetched." : "It has no keys.");
}

function drawValue(node, row, entry) {
  const { text, isText } = entry, isLong = text.length > VALUE_CHARS && !entry.isWhole;
  if (row.text.className !== (isText ? "" : "esc")) row.text.className = isText ? "" : "esc";
  fill(row.text, isLong ? text.slice(0, VALUE_CHARS) : text);
  if (isLong && !row.all) {
    row.all = make("button");
    row.all.type = "button";
    row.all.addEventListener("click", () => { node.keys.get(row.key).isWhole = true; drawKeys(node); });
    row.value.append(row.all);
  }
  if (row.all) {
    row.all.hidden = !isLong;
    put(row.all, `all ${plural(text.length, "character")}`);
  }
  if (row.changedAt !== entry.changedAt) {
    row.changedAt = entry.changedAt;
    row.line.classList.remove("new");
    if (entry.changedAt) { void row.line.offsetWidth; row.line.classList.add("new"); }
    row.trend.replaceChildren(spark(entry.points));
  }
  const at = entry.at;
  put(row.goes, entry.goesAt == null ? "" : `goes in ${age(entry.goesAt - Date.now())}`);
  put(row.since, at == null ? "–" : `${entry.isExact ? "" : "≥ "}${age(Date.now() - at)}`);
  row.age.title = entry.isExact ? "" : "It is at least that old: it was there when this page was opened.";
}

function toggle(node) {
  const isOpen = !view.open.has(node.id);
  if (isOpen) view.open.add(node.id); else view.open.delete(node.id);
  show(node);
  remember();
}

function show(node) {
  const isOpen = view.open.has(node.id);
  node.button.setAttribute("aria-expanded", String(isOpen));
  node.body.classList.toggle("open", isOpen);
  node.more.hidden = !isOpen;
  if (isOpen) {
    drawFacts(node);
    drawKeys(node);
    if (!node.state && node.count) poll();
  } else {
    node.panel.replaceChildren();
    node.facts = node.rows = null;
  }
}

// --- which nodes, in which order

function hayOf(node) {
  const parts = [node.id, node.status, node.peer?.address || "", node.peer?.reason || ""];
  for (const [key, entry] of node.keys) parts.push(`${key}=${entry.text.slice(0, HAY_CHARS)}`);
  return parts.join("\n").toLowerCase();
}

const RANKS = { lost: 0, suspect: 1, left: 2, alive: 3 };
const SORTS = {
  node: () => 0,
  status: (node) => RANKS[node.status],
  address: (node) => node.peer?.address || "",
  heard: (node) => -(node.heardAt ?? 0),
  trip: (node) => (node.status === "alive" ? node.peer?.round_trip_ms : null) ?? Infinity,
  keys: (node) => -node.count,
};

function arrange() {
  const wanted = view.filter.trim().toLowerCase();
  const counts = { alive: 0, suspect: 0, lost: 0, left: 0 };
  let shown = 0;
  for (const node of nodes.values()) {
    counts[node.status] += 1;
    let is = !view.status || node.status === view.status;
    if (is && wanted) is = (node.hay ??= hayOf(node)).includes(wanted);
    if (node.body.hidden === is) node.body.hidden = !is;
    if (is) shown += 1;
    if (view.open.has(node.id) && node.more.hidden) show(node);
  }
  if (isNewOrder) {
    isNewOrder = false;
    const by = SORTS[view.sort], sign = view.down ? -1 : 1;
    const order = [...nodes.values()].map((node) => [node, by(node)]);
    order.sort(([one, a], [other, b]) => (other.id === own) - (one.id === own) ||
      (a < b ? -sign : a > b ? sign : 0) || (one.id < other.id ? -1 : 1) * (view.sort === "node" ? sign : 1));
    let at = table.tHead.nextSibling;
    for (const [{ body }] of order) {
      if (body === at) at = at.nextSibling; else table.insertBefore(body, at);
    }
  }
  drawCounts(counts);
  const none = $("none");
  none.hidden = shown > 0;
  table.hidden = shown === 0;
  put(none, `No node of ${nodes.size} fits this filter.`);
  document.title = `${counts.lost ? `(${counts.lost} lost) ` : ""}${own.replace(UNSEEN, "")} · dsn`;
  drawClock();
}

function drawCounts(counts) {
  const place = $("counts");
  if (!place.firstChild) {
    for (const status of ["", ...STATUSES]) {
      const button = make("button");
      button.type = "button";
      button.dataset.status = status;
      button.addEventListener("click", () => { view.status = view.status === status ? "" : status; remember(); arrange(); });
      place.append(button);
    }
  }
  for (const button of place.children) {
    const { status } = button.dataset;
    const count = status ? counts[status] : nodes.size;
    put(button, status ? `${SIGNS[status]} ${count.toLocaleString("en")} ${status}` : `${count.toLocaleString("en")} all`);
    button.setAttribute("aria-label", `${count} ${status || "in all"}`);
    button.hidden = status !== "" && status !== "alive" && !count && view.status !== status;
    const pressed = String(view.status === status);
    if (button.getAttribute("aria-pressed") !== pressed) button.setAttribute("aria-pressed", pressed);
  }
}

function drawHeads() {
  $("heads").replaceChildren(...COLUMNS.map(([name, text, kind]) => {
    const isBy = view.sort === name;
    const sign = make("span", "", isBy ? (view.down ? "▾" : "▴") : "");
    sign.setAttribute("aria-hidden", "true");
    const button = make("button", "", ...(kind ? [sign, text] : [text, sign]));
    button.type = "button";
    button.addEventListener("click", () => {
      view.down = view.sort === name && !view.down;
      view.sort = name;
      isNewOrder = true;
      remember();
      drawHeads();
      arrange();
      $("heads").querySelector("[aria-sort] button").focus();
    });
    const head = make("th", `c-${name} ${kind || ""}`, button);
    head.scope = "col";
    if (isBy) head.setAttribute("aria-sort", view.down ? "descending" : "ascending");
    return head;
  }));
}

// What changes as time passes.
function drawClock() {
  for (const node of nodes.values()) {
    if (node.body.hidden) continue;
    drawAge(node);
    if (!node.rows) continue;
    for (const [key, row] of node.rows) drawValue(node, row, node.keys.get(key));
  }
  if (about) {
    drawNoticeAges();
    put($("about"), `${plural(nodes.size, "node")} · up ${age(about.uptime_s * 1000 + Date.now() - about.at)}`);
  }
}

// --- links that can be kept

function remember() {
  const link = new URLSearchParams();
  for (const id of view.open) link.append("node", id);
  if (view.filter) link.set("filter", view.filter);
  if (view.status) link.set("status", view.status);
  if (view.sort !== "node" || view.down) link.set("sort", (view.down ? "-" : "") + view.sort);
  const text = String(link);
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

function recall() {
  const link = new URLSearchParams(location.hash.slice(1)), sort = link.get("sort") || "node";
  const before = view.open;
  view = {
    open: new Set(link.getAll("node")), filter: link.get("filter") || "",
    status: STATUSES.includes(link.get("status")) ? link.get("status") : "",
    sort: Object.hasOwn(SORTS, sort.replace("-", "")) ? sort.replace("-", "") : "node", down: sort.startsWith("-"),
  };
  $("filter").value = view.filter;
  isNewOrder = true;
  for (const id of before) if (nodes.has(id)) show(nodes.get(id));
  drawHeads();
  arrange();
}

$("filter").addEventListener("input", (event) => { view.filter = event.target.value; remember(); arrange(); });
addEventListener("hashchange", recall);
document.addEventListener("visibilitychange", () => { if (!document.hidden && $("ask").hidden) poll(); });
addEventListener("online", () => { if ($("ask").hidden) poll(); });
setInterval(() => {
  if (document.hidden) return;
  drawClock();
  if (fails) drawLink();
}, 1000);

recall();
poll();
