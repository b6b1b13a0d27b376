// The theme, and keyboard shortcuts. It stands in the head and does not wait, so that no page flashes in another theme.
"use strict";

(() => {
  const THEMES = ["auto", "light", "dark"];
  const root = document.documentElement;
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* a browser that keeps nothing */ }
  if (THEMES.includes(kept)) root.dataset.theme = kept;

  function choose(button) {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "auto") + 1) % THEMES.length];
    root.dataset.theme = next;
    try { localStorage.setItem("theme", next); } catch { /* it holds until the page is left */ }
    button.textContent = `Theme: ${next}`;
    document.dispatchEvent(new Event("theme"));
  }

  const section = (name) => document.querySelector(`.top nav [data-section="${name}"]`)?.click();
  const KEYS = {
    "?": () => document.getElementById("keys").showModal(),
    "/": () => document.querySelector("input[type=search]")?.focus(),
    n: () => document.querySelector(".heading a[data-new]")?.click(),
    "g s": () => section("searches"),
    "g w": () => section("sweeps"),
    "g c": () => section("cluster"),
  };
  for (const number of [1, 2, 3, 4, 5]) KEYS[number] = () => document.querySelectorAll(".parts a")[number - 1]?.click();

  let before = "";
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog[open]")) return;
    const pressed = KEYS[`${before} ${event.key}`] ?? KEYS[event.key];
    before = event.key;
    if (!pressed) return;
    event.preventDefault();
    pressed();
  });

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.hidden = false;
    button.textContent = `Theme: ${root.dataset.theme ?? "auto"}`;
    button.addEventListener("click", () => choose(button));
  });
})();
