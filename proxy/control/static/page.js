// Makes the pages live. Everything works without it: forms are sent, links lead on, a page is looked at again.
// It holds no state and no template: what is shown is always what the server renders, swapped in by id.
"use strict";

const body = document.body;

/** Tell times of day by the clock of who reads, who thinks in UTC rarely. For what has come from the server just now. */
function localise(root) {
  for (const one of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(one.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    one.title = moment.toLocaleString();
    if (!/^\d\d:\d\d:\d\d( UTC)?$/.test(one.textContent)) continue;
    one.textContent = moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  }
  const zone = root.querySelector("#zone");
  if (zone) zone.textContent = "Times are those of this computer.";
}

/** Make what has come from the server just now what it is where there are scripts. */
function furnish(root) {
  for (const one of root.querySelectorAll(".scripted")) one.hidden = false;
  localise(root);
}

/**
 * Make one node what a newer one is, and touch nothing that is the same: a screen reader tells of what has changed in a
 * live region that stays, a ticked box stays ticked, and a form gets the nonce that is good now.
 */
function renew(node, newer) {
  if (node.isEqualNode(newer)) return;
  if (node.nodeName !== newer.nodeName) {
    node.replaceWith(newer);
    return;
  }
  if (node.nodeType !== Node.ELEMENT_NODE) {
    node.data = newer.data;
    return;
  }
  for (const name of node.getAttributeNames()) if (!newer.hasAttribute(name)) node.removeAttribute(name);
  for (const { name, value } of newer.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  const [children, others] = [[...node.childNodes], [...newer.childNodes]];
  if (children.length === others.length) children.forEach((child, at) => renew(child, others[at]));
  else node.replaceChildren(...others);
}

/** Make element its newer self; keep the focus where it was. */
function swap(element, newer) {
  if (!newer) return;
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const place = focused ? [...element.querySelectorAll("a, button, input")].indexOf(focused) : -1;
  renew(element, newer);
  if (place >= 0 && !focused.isConnected) (element.querySelectorAll("a, button, input")[place] || element).focus();
}

function swapAll(text, selector) {
  const page = new DOMParser().parseFromString(text, "text/html");
  furnish(page);
  for (const element of document.querySelectorAll(selector)) swap(element, page.getElementById(element.id));
  body.dataset.every = page.body.dataset.every || "";
  document.title = page.title;
}

let isLooking = false;

async function lookAgain() {
  if (isLooking || document.hidden) return;
  isLooking = true;
  try {
    const answer = await fetch(location.href);
    if (answer.ok) swapAll(await answer.text(), "[data-live]");
  } catch {
    // The proxy has stopped; the stream comes back when it does.
  } finally {
    isLooking = false;
  }
}

// A stream is open only while somebody looks: browsers allow six connections to one host, all tabs together.
let stream = null;

function listen() {
  if (stream) stream.close();
  stream = null;
  const address = body.dataset.stream || body.dataset.rows;
  if (document.hidden || isPaused || !address) return;
  stream = new EventSource(address);
  stream.addEventListener("news", lookAgain);
  stream.addEventListener("rows", addRows);
  stream.addEventListener("open", () => say("Live", "live"));
  stream.addEventListener("error", () => say("Not connected; trying again", "lost"));
}

document.addEventListener("visibilitychange", listen);
addEventListener("pagehide", () => stream && stream.close());

let ticks = 0;
setInterval(() => {
  ticks += 1;
  const every = Number(body.dataset.every || 0);
  if (every && ticks % every === 0) lookAgain();
}, 1000);

// The journal

let isPaused = false;
const pause = document.getElementById("pause");

function say(text, kind) {
  const state = document.getElementById("live-state");
  if (!state || state.textContent === text) return;
  state.textContent = text;
  state.dataset.is = kind;
}

function addRows(event) {
  const rows = document.getElementById("rows");
  const made = new DOMParser().parseFromString(`<table><tbody>${event.data}</tbody></table>`, "text/html");
  furnish(made);
  const fresh = [...made.querySelectorAll("tr")].filter((row) => !document.getElementById(row.id));
  rows.prepend(...fresh);
  while (rows.rows.length > 500) rows.lastElementChild.remove();
  document.getElementById("nothing")?.remove();
  const last = new URL(body.dataset.rows, location.href);
  last.searchParams.set("after", event.lastEventId);
  body.dataset.rows = last.pathname + last.search;
}

if (pause) {
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    pause.textContent = isPaused ? "Go on" : "Pause";
    listen();
    if (isPaused) say("Paused", "paused");
  });
}

// Forms whose answer is shown in place

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.dataset.tries !== undefined) {
    event.preventDefault();
    await tryOut(form);
    return;
  }
  if (!form.dataset.swaps) return;
  event.preventDefault();
  const said = new URLSearchParams(new FormData(form));
  const asked = form.method === "post" ? [form.action, { method: "POST", body: said }] : [`/-/?${said}`, {}];
  try {
    const answer = await fetch(...asked);
    if (answer.ok) swapAll(await answer.text(), `#${form.dataset.swaps}`);
    else location.reload(); // the form was too old: a page that is new has a new one
  } catch {
    form.submit();
  }
});

async function tryOut(form) {
  const shown = document.getElementById("tried");
  const path = form.querySelector("input").value;
  const target = form.dataset.tries + (path.startsWith("/") ? path : `/${path}`);
  const line = document.createElement("p");
  const text = document.createElement("pre");
  const begun = performance.now();
  shown.replaceChildren(line);
  line.textContent = "Asking…";
  try {
    const answer = await fetch(target, { headers: { Accept: "*/*" }, redirect: "manual" });
    const seconds = ((performance.now() - begun) / 1000).toFixed(2);
    if (answer.type === "opaqueredirect") {
      line.textContent = `A redirect, after ${seconds} s. Open it in a new tab to follow it.`;
      return;
    }
    const reader = answer.body?.getReader();
    const type = answer.headers.get("content-type") || "no content type";
    const kind = document.createElement("span");
    kind.className = `status status-${Math.floor(answer.status / 100)}xx`;
    kind.textContent = `${answer.status} ${answer.statusText}`.trim();
    const by = answer.headers.has("proxy-status") ? ", said by bearerproxy" : "";
    line.replaceChildren(kind, ` after ${seconds} s, ${type}${by}`);
    text.textContent = reader ? await beginning(reader) : "";
    text.tabIndex = 0;
    if (text.textContent) shown.append(text);
  } catch {
    line.textContent = "The proxy does not answer any more.";
  }
}

/** The first 2000 characters of a body; the rest is not asked for. */
async function beginning(reader) {
  const decoder = new TextDecoder();
  let text = "";
  while (text.length < 2000) {
    const { done, value } = await reader.read();
    if (done) break;
    text += decoder.decode(value, { stream: true });
  }
  await reader.cancel();
  return text.length > 2000 ? `${text.slice(0, 2000)}…` : text;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copies]");
  if (!button) return;
  const code = document.getElementById(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(code.textContent);
    const word = button.firstChild;
    const usual = button.dataset.word ||= word.textContent;
    word.textContent = "Copied";
    setTimeout(() => { word.textContent = usual; }, 2000);
  } catch {
    getSelection().selectAllChildren(code);
  }
});

furnish(document);
listen();
