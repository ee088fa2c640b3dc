// Every way in which a page can make a browser send a request, by name. `attack(bases)` tries them all at BASE/NAME and
// returns what the page learned of each: `read TEXT`, or whatever it noticed; of some it learns nothing.
const PATIENCE_MS = 8000;
const read = (url, options) => fetch(url, options).then((answer) => answer.text()).then((text) => "read " + text);
const element = (tag, set) => new Promise((done) => {
  const one = document.createElementNS("http://www.w3.org/1999/xhtml", tag);
  one.onload = () => done("loaded");
  one.onerror = () => done("failed");
  set(one);
  document.documentElement.append(one);
  if (document.body === null) setTimeout(() => done("unnoticed"), 1000); // a drawing does not load all of them
});
let frames = 0;
const form = (url, method) => new Promise((done) => {
  const sent = document.createElementNS("http://www.w3.org/1999/xhtml", "form");
  Object.assign(sent, { action: url, method, target: `frame-${frames += 1}` });
  document.documentElement.append(sent);
  element("iframe", (frame) => {
    frame.name = sent.target;
    frame.onload = () => { frame.onload = () => done("loaded"); sent.submit(); };
  });
});
const inWorker = (code) => new Promise((done) => {
  const worker = new Worker(URL.createObjectURL(new Blob([code])));
  worker.onmessage = (message) => done(message.data);
  worker.onerror = () => done("failed");
});
const ways = {
  "fetch": (url) => read(url),
  "fetch-credentials": (url) => read(url, { credentials: "include" }),
  "fetch-no-cors": (url) => read(url, { mode: "no-cors" }),
  "fetch-keepalive": (url) => read(url, { mode: "no-cors", keepalive: true }),
  "fetch-post": (url) => read(url, { method: "POST", body: "x" }),
  "fetch-no-cors-post": (url) => read(url, { mode: "no-cors", method: "POST", body: "x" }),
  "fetch-put": (url) => read(url, { method: "PUT", body: "x" }),
  "fetch-delete": (url) => read(url, { method: "DELETE" }),
  "fetch-json": (url) => read(url, { method: "POST", body: "{}", headers: { "Content-Type": "application/json" } }),
  "fetch-field": (url) => read(url, { headers: { "X-Bearerproxy-Key": "guess", "Authorization": "Basic eDp5" } }),
  "xhr": (url) => new Promise((done) => {
    const request = new XMLHttpRequest();
    request.open("GET", url);
    request.onload = () => done("read " + request.responseText);
    request.onerror = () => done("failed");
    request.send();
  }),
  "worker": (url) => inWorker(`fetch("${url}").then(a => a.text()).then(t => postMessage("read " + t), () => postMessage("failed"))`),
  "worker-script": (url) => inWorker(`try { importScripts("${url}"); postMessage("loaded") } catch { postMessage("failed") }`),
  "image": (url) => element("img", (one) => { one.src = url; }),
  "script": (url) => element("script", (one) => { one.src = url; }),
  "module": (url) => element("script", (one) => { one.type = "module"; one.src = url; }),
  "style": (url) => element("link", (one) => { one.rel = "stylesheet"; one.href = url; }),
  "prefetch": (url) => element("link", (one) => { one.rel = "prefetch"; one.href = url; one.onload(); }),
  "preload": (url) => element("link", (one) => { one.rel = "preload"; one.as = "image"; one.href = url; }),
  "video": (url) => element("video", (one) => { one.src = url; one.onloadeddata = one.onload; one.load(); }),
  "font": (url) => new FontFace("x", `url("${url}")`).load().then(() => "loaded"),
  "frame": (url) => element("iframe", (one) => { one.src = url; }),
  "object": (url) => element("object", (one) => { one.data = url; }),
  "embed": (url) => element("embed", (one) => { one.src = url; }),
  "form-get": (url) => form(url, "get"),
  "form-post": (url) => form(url, "post"),
  "beacon": async (url) => { navigator.sendBeacon(url, "x"); return "sent"; },
  "ping": (url) => element("a", (one) => { one.href = "#ping"; one.ping = url; setTimeout(() => { one.click(); one.onload(); }); }),
  "events": (url) => new Promise((done) => {
    const source = new EventSource(url);
    source.onmessage = (message) => { source.close(); done("read " + message.data); };
    source.onerror = () => { source.close(); done("failed"); };
  }),
  "socket": (url) => new Promise((done) => {
    const socket = new WebSocket(url.replace(/^http/, "ws"));
    socket.onopen = () => done("open");
    socket.onerror = () => done("failed");
  }),
};
const patient = (promise) => Promise.race([promise, new Promise((done) => setTimeout(done, PATIENCE_MS, "silent"))]);
const attack = async (bases) => {
  const tries = bases.flatMap((base) => Object.entries(ways).map(([name, way]) => [`${base}/${name}`, way]));
  return Object.fromEntries(await Promise.all(tries.map(async ([url, way]) => {
    try {
      return [url, await patient(way(url))];
    } catch (error) {
      return [url, String(error)];
    }
  })));
};
