// A drag over a chart chooses the epochs that are shown: it fills in the form, which fetches the charts. The form works
// without it.
"use strict";

(() => {
  const form = document.getElementById("view");
  if (!form) return;
  const { smooth, from, to, "all-epochs": all } = form.elements;
  const refusal = document.getElementById("refusal");
  let drag = null; // the chart, what is chosen of it so far, and where the drag began

  function told() {
    form.querySelector("output").value = Number(smooth.value).toFixed(2);
    all.disabled = !from.value && !to.value;
  }

  function zoom(first, last) {
    [from.value, to.value] = [first, last];
    told();
    form.requestSubmit();
  }

  // Where the pointer is in a chart's own coordinates, and the epoch there.
  function place(chart, event) {
    const { first, last, left, right } = Object.fromEntries(Object.entries(chart.dataset).map(([name, text]) => [name, Number(text)]));
    const pointer = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    const x = Math.min(Math.max(pointer.x, left), right);
    return { x, epoch: first + (x - left) / (right - left) * (last - first) };
  }

  document.addEventListener("pointerdown", (event) => {
    const chart = event.target.closest("svg.curves");
    if (!chart || !event.isPrimary || event.button) return;
    const chosen = document.createElementNS(chart.namespaceURI, "rect");
    chosen.setAttribute("class", "chosen");
    chosen.setAttribute("height", chart.viewBox.baseVal.height);
    chart.append(chosen);
    chart.setPointerCapture(event.pointerId);
    drag = { chart, chosen, start: place(chart, event) };
  });
  document.addEventListener("pointermove", (event) => {
    if (!drag || !event.isPrimary) return;
    const { x } = place(drag.chart, event);
    drag.chosen.setAttribute("x", Math.min(x, drag.start.x));
    drag.chosen.setAttribute("width", Math.abs(x - drag.start.x));
  });
  for (const over of ["pointerup", "pointercancel"]) {
    document.addEventListener(over, (event) => {
      if (!drag || !event.isPrimary) return;
      const { chart, chosen, start } = drag;
      const end = place(chart, event);
      drag = null;
      chosen.remove();
      if (over === "pointercancel" || Math.abs(end.x - start.x) < 8) return;
      const [low, high] = [start.epoch, end.epoch].sort((a, b) => a - b);
      zoom(Math.floor(low), Math.ceil(high));
    });
  }
  document.addEventListener("dblclick", (event) => { if (event.target.closest("svg.curves")) zoom("", ""); });
  all.addEventListener("click", () => { smooth.focus(); zoom("", ""); });
  form.addEventListener("input", told);

  // A refresh puts new tables and pictures in the place of those that were scrolled.
  const name = (region) => region.getAttribute("aria-label");
  const regions = () => [...document.querySelectorAll("#compared [role=region]")];
  let places = new Map();
  document.body.addEventListener("htmx:beforeSwap", () => {
    places = new Map(regions().map((region) => [name(region), [region.scrollLeft, region.scrollTop]]));
  });
  document.body.addEventListener("htmx:afterSwap", () => {
    for (const region of regions()) [region.scrollLeft, region.scrollTop] = places.get(name(region)) ?? [0, 0];
  });

  // A refresh does not take away the chart that is dragged over; what the service refuses is told.
  document.body.addEventListener("htmx:beforeSwap", ({ detail }) => {
    if (drag && detail.target.id === "compared") detail.shouldSwap = false;
    refusal.hidden = !detail.isError;
    if (detail.isError) {
      try { refusal.textContent = JSON.parse(detail.xhr.responseText).detail; } catch { refusal.textContent = "The service does not answer."; }
    }
  });
  told();
})();
