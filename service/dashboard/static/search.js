// The tab that is shown, the slider over a supernet's snapshots, and buttons that copy. Without it there are a list to
// choose from, and a mouse.
"use strict";

(() => {
  function tell() {
    const shown = [...document.querySelectorAll(".tab")].find((tab) => tab.checkVisibility());
    for (const link of document.querySelectorAll(".parts a")) {
      if (link.hash === `#${shown?.id}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }
  for (const moment of ["load", "hashchange"]) addEventListener(moment, tell);

  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue; // a browser has it on https and on this machine only
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  const section = document.getElementById("snapshots");
  if (!section) return;
  const list = section.querySelector("select");
  const slider = section.querySelector("input[type=range]");
  const words = section.querySelector("output");
  const picture = section.querySelector("img");

  function show() {
    const option = list.options[Number(slider.value)];
    if (!option) return;
    list.value = option.value;
    words.textContent = option.textContent;
    slider.setAttribute("aria-valuetext", option.textContent);
    picture.alt = `The supernet: ${option.textContent}`;
    const url = `${section.dataset.source}/${option.value}.svg`;
    if (picture.getAttribute("src") !== url) picture.src = url;
  }

  // A reader who looks at the newest goes on to the next; one who looks at an earlier one stays there.
  async function read() {
    const newest = list.options[list.options.length - 1]?.value ?? 0;
    let found = [];
    try {
      const answer = await fetch(`${section.dataset.source}?after=${newest}`);
      if (answer.ok) found = await answer.json();
    } catch { /* the hint that comes when the service is back reads what was missed */ }
    const last = list.options[list.options.length - 1]?.value ?? 0;
    const follows = Number(slider.value) >= list.options.length - 1;
    for (const one of found.filter((one) => one.seq > last)) {
      const text = `${one.multiply_adds.toLocaleString("en")} multiply-adds, ${one.live_edges.toLocaleString("en")} edges alive`;
      list.add(new Option(text, one.seq));
    }
    section.hidden = !list.options.length;
    slider.max = Math.max(0, list.options.length - 1);
    slider.hidden = list.options.length < 2;
    if (follows) slider.value = slider.max;
    show();
  }

  slider.max = Math.max(0, list.options.length - 1);
  slider.value = Math.max(0, list.selectedIndex);
  list.hidden = section.querySelector("label").hidden = true;
  words.hidden = false;
  slider.hidden = list.options.length < 2;
  slider.addEventListener("input", show);
  show();
  document.body.addEventListener("htmx:sseMessage", read);
  document.body.addEventListener("htmx:sseClose", read);
})();
