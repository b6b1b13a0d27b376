// Times in the reader's own zone, clocks that run, and what a screen reader is told. The pages work without it.
"use strict";

function duration(seconds) {
  const parts = [];
  let rest = Math.max(0, Math.round(seconds));
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
    const number = Math.floor(rest / size);
    rest -= number * size;
    if (number || parts.length) parts.push(number ? `${number}\u00a0${unit}` : "");
    if (parts.length === 2) break;
  }
  return parts.filter(Boolean).join(" ") || "0\u00a0s";
}

const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

function localise(root) {
  for (const time of root.querySelectorAll("time:not([title])")) {
    const moment = new Date(time.dateTime);
    time.title = moment.toLocaleString();
    time.textContent = ("clock" in time.dataset ? clock : day).format(moment);
  }
}

function tick() {
  for (const span of document.querySelectorAll("[data-since]")) {
    span.textContent = duration(Date.now() / 1000 - Number(span.dataset.since));
  }
}

let told = null;
function announce() {
  const summary = document.getElementById("summary");
  const place = document.getElementById("announcement");
  if (!summary || !place) return;
  if (summary.dataset.title) document.title = `${summary.dataset.title} · Yoso`;
  const words = [summary.dataset.status, summary.dataset.phase].filter(Boolean).join(", ");
  if (told !== null && told !== words) place.textContent = words;
  told = words;
}

function connected(yes) {
  const sign = document.getElementById("connection");
  if (sign) sign.hidden = yes;
}

// What comes is worked into what is there. What the reader has opened or ticked stays so, and what is written above: a
// moment in the reader's zone, a clock that runs, a picture that was fetched.
const written = (node) => node.dateTime ?? node.dataset?.since ?? node.dataset?.picture;
Object.assign(Idiomorph.defaults.callbacks, {
  beforeAttributeUpdated: (name) => name !== "open" && name !== "checked",
  beforeNodeMorphed: (node, anew) => written(node) === undefined || written(node) !== written(anew),
});

// A click is lost where its link moves away between press and release: what comes meanwhile is asked for again after.
let pressed = false;
const late = new Set();
document.addEventListener("pointerdown", () => { pressed = true; });
for (const over of ["pointerup", "pointercancel"]) {
  document.addEventListener(over, () => {
    pressed = false;
    setTimeout(() => {
      for (const asked of late) htmx.trigger(asked, "sse:change");
      late.clear();
    });
  });
}
document.body.addEventListener("htmx:beforeSwap", (event) => {
  const asked = event.detail.requestConfig.elt;
  if (!pressed || !asked.matches('[hx-trigger*="sse:change"]')) return;
  event.detail.shouldSwap = false;
  late.add(asked);
});

// Searches and sweeps are steered through the API, whose answer says nothing to the page; what it refuses is told.
document.body.addEventListener("htmx:afterRequest", (event) => {
  const refusal = document.getElementById("refusal");
  if (!refusal || !event.detail.elt.closest("#actions, .steer")) return;
  refusal.hidden = event.detail.successful;
  if (!event.detail.successful) {
    let told = "The service does not answer.";
    try { told = JSON.parse(event.detail.xhr.responseText).detail || told; } catch { /* no problem document */ }
    refusal.textContent = told;
  } else if (document.querySelector("main[sse-connect]")) htmx.trigger(document.body, "steered");
  else location.reload(); // it had ended, and goes on: the page must be a live one again
});

localise(document);
announce();
setInterval(tick, 1000);
document.body.addEventListener("htmx:afterRequest", () => { localise(document); announce(); });
document.body.addEventListener("htmx:sseOpen", () => connected(true));
document.body.addEventListener("htmx:sseError", () => connected(false));
document.body.addEventListener("htmx:sseClose", () => {
  connected(true);
  document.getElementById("main").removeAttribute("sse-connect");
});
