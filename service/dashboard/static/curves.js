// Live curves of one search, drawn from the epochs in its journal, and the same numbers as a table.
"use strict";

(() => {
  const section = document.getElementById("curves");
  const { pretrain, search, retrain, supernet } = Object.fromEntries(
    ["pretrain", "search", "retrain", "supernet"].map((name) => [name, Number(section.dataset[name])]));
  const budgets = section.dataset.budgets.split(" ").map(Number);
  const finals = section.dataset.kind === "finals";
  const MOST_NAMED = 12; // curves that a legend names
  const PHASES = { pretrain: "Pretrain", search: "Search", retrain: "Retrain" };
  const HEIGHT = 210;
  const epochs = new Map(); // by trial, phase, budget and epoch: a run that resumes repeats some, and the later one counts
  let charts = [];
  let after = 0;
  let reading = false;
  let again = false;
  const [smooth, from, to, all] = ["smooth", "from", "to", "all-epochs"].map((id) => document.getElementById(id));

  function short(number) {
    for (const [limit, suffix] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (number >= limit) return Number((number / limit).toPrecision(3)) + suffix;
    }
    return String(number);
  }
  const percent = (share) => (share * 100).toFixed(1) + "\u00a0%";
  const small = (number) => (number === 0 ? "0" : number < 0.0001 ? number.toExponential(1) : String(Number(number.toPrecision(3))));

  // Where an epoch stands among all epochs of the job; the networks of finals are retrained beside each other.
  function place(line) {
    if (finals) return line.epoch;
    if (line.phase === "pretrain") return line.epoch;
    if (line.phase === "search") return pretrain + line.epoch;
    return pretrain + search + budgets.indexOf(line.budget) * retrain + line.epoch;
  }
  const owner = (line) => line.trial != null ? `trial ${line.trial}` : line.budget ?? null;
  const ordered = () => [...epochs.values()].sort((a, b) => (finals ? a.trial - b.trial : 0) || place(a) - place(b));
  // In finals of several seeds these tell networks apart, in a search's own the origins do.
  const rival = (line) => finals ? `${short(line.budget)} ${line.origin === "search" ? "seed" : line.origin} ${line.seed}`
    : short(line.budget) + (line.trial == null ? "" : line.origin === "search" ? ` ${line.label ?? "searched"}` : ` ${line.origin}`);

  // Whose curves there are: the supernet's and each budget's, or one for each network that competes.
  function owners(kind) {
    const competing = new Map(ordered().filter((line) => line.trial != null).map((line) => [line.trial, line]));
    const trials = [...competing.values()].map((line) => ({
      key: owner(line), label: rival(line), colour: budgets.indexOf(line.budget) + (finals ? 0 : 1), dash: line.origin === "search" ? null : [3, 3],
    }));
    if (finals) return trials;
    const networks = trials.length ? (kind.networks ? trials : []) : kind.networks ? budgets.map((budget, index) => ({ key: budget, label: short(budget), colour: index + 1 })) : [];
    return [{ key: null, label: "Supernet", colour: 0 }, ...networks];
  }

  function colours() {
    const probe = section.querySelector("h2");
    const get = (name) => {
      probe.style.color = `var(${name})`;
      return getComputedStyle(probe).color;
    };
    const found = { soft: get("--soft"), line: get("--line"), series: [1, 2, 3, 4, 5, 6].map((n) => get(`--series-${n}`)) };
    probe.style.color = "";
    return found;
  }

  // One line for the supernet and, where networks have the quantity too, one for each budget's.
  const KINDS = {
    multiply_adds: { write: short, lines: budgets, low: 0, high: supernet },
    accuracy: { write: percent, networks: true, high: 1 },
    loss: { write: small, networks: true, log: true },
    live_edges: { write: (number) => number.toLocaleString("en"), low: 0 },
    l1_weight: { write: small, low: 0 },
  };

  function data(name) {
    const kind = KINDS[name];
    const lines = ordered().filter((line) => kind.networks || line.phase !== "retrain");
    const places = [...new Set(lines.map(place))].sort((a, b) => a - b);
    const curves = owners(kind).map(({ key }) => {
      const own = new Map(lines.filter((line) => owner(line) === key).map((line) => [place(line), line[name] ?? null]));
      return places.map((at) => own.get(at) ?? null);
    });
    return [places, ...(kind.networks ? curves.map(smoothed) : curves), ...curves];
  }

  // The exponential moving average of what is noisy, as plot.py has it; the table keeps the numbers as they are.
  const weight = () => Number(smooth.value);
  function smoothed(values) {
    let [mean, total] = [0, 0];
    return values.map((value) => {
      if (value == null) return null;
      mean = weight() * mean + (1 - weight()) * value;
      total = weight() * total + (1 - weight());
      return mean / total;
    });
  }

  function showEpochs(first, last) {
    [from.value, to.value] = [first, last];
    draw();
  }

  // What the reader has chosen is drawn.
  function draw() {
    document.querySelector("output[for=smooth]").value = weight().toFixed(2);
    all.disabled = !from.value && !to.value;
    for (const chart of charts) chart.plot.setData(data(chart.name));
  }

  function options(name, width) {
    const kind = KINDS[name];
    const colour = colours();
    const font = "11px system-ui, sans-serif";
    const axis = { stroke: colour.soft, font, grid: { stroke: colour.line, width: 1 }, ticks: { show: false } };
    const decades = (_, ticks) => ticks.map((tick) => (tick != null && Math.abs(Math.log10(tick) % 1) < 1e-9 ? tick : null));
    const line = ({ label, colour: index, dash }) => ({
      label, dash, stroke: colour.series[index % colour.series.length], width: 1.75, spanGaps: false,
      value: (_, value) => (value == null ? "–" : kind.write(value)),
    });
    const raw = (curve) => ({ ...line(curve), class: "raw", stroke: `color-mix(in srgb, ${line(curve).stroke} 35%, transparent)`, width: 1 });
    const whose = owners(kind);
    const end = finals ? retrain : kind.networks ? pretrain + search + budgets.length * retrain : pretrain + search;
    return {
      width, height: HEIGHT,
      cursor: { y: false, points: { size: 6 }, sync: { key: "epochs" },
        focus: { prox: 16, dist: (_, number, at, value, pointer) => (number > whose.length ? Infinity : value - pointer) },
        drag: { x: true, y: false, setScale: false }, bind: { dblclick: () => () => showEpochs("", "") } },
      focus: { alpha: 0.25 },
      legend: { live: true, show: whose.length <= MOST_NAMED },
      scales: {
        x: { time: false, range: () => epochsOf(Math.max(2, end)) },
        y: kind.log ? { distr: 3 } : { range: (_, low, high) => range(kind, low, high) },
      },
      axes: [
        { ...axis, grid: { show: false }, size: 28 },
        { ...axis, size: 52, ...(kind.log ? { grid: { ...axis.grid, filter: decades } } : {}), values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : name === "accuracy" ? Math.round(tick * 100) + "\u00a0%" : kind.write(tick))) },
      ],
      series: [
        { label: "Epoch", value: (_, value) => value ?? "–" },
        ...whose.map(line),
        ...whose.map(raw),
      ],
      hooks: { draw: [(plot) => marks(plot, kind, colour)], setSelect: [select] },
    };
  }

  function select(plot) {
    const { left, width } = plot.select;
    if (width < 8) return;
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    showEpochs(Math.max(1, Math.floor(plot.posToVal(left, "x"))), Math.ceil(plot.posToVal(left + width, "x")));
  }

  // The first and the last epoch that are shown; all where what is typed is no range.
  function epochsOf(end) {
    const range = [Number(from.value) || 1, Number(to.value) || end];
    return range[0] < range[1] ? range : [1, end];
  }

  function range(kind, low, high) {
    if (low == null) return [0, 1];
    const bottom = kind.low ?? Math.max(0, Math.floor(low * 10 - 0.5) / 10);
    const top = kind.high ?? high * 1.08;
    return [bottom, top > bottom ? top : bottom + 1];
  }

  // Where the search began, and the budgets as dashed lines.
  function marks(plot, kind, colour) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.lineWidth = ratio;
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "bottom";
    const bounds = finals ? [] : [pretrain, ...(kind.networks ? budgets.map((_, index) => pretrain + search + index * retrain) : [])];
    ctx.strokeStyle = colour.line;
    for (const bound of bounds) {
      const x = Math.round(plot.valToPos(bound + 0.5, "x", true));
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.setLineDash([5 * ratio, 4 * ratio]);
    (kind.lines ?? []).forEach((budget, index) => {
      const y = Math.round(plot.valToPos(budget, "y", true));
      ctx.strokeStyle = ctx.fillStyle = colour.series[(index + 1) % colour.series.length];
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.fillText(short(budget), bbox.left + 6 * ratio, y - 2 * ratio);
    });
    ctx.restore();
  }

  function build() {
    for (const chart of charts) chart.plot.destroy();
    charts = [...section.querySelectorAll("[data-chart]")].map((figure) => {
      const name = figure.dataset.chart;
      const box = figure.querySelector(".plot");
      return { name, figure, box, plot: new uPlot(options(name, box.clientWidth || 600), data(name), box) };
    });
    describe();
  }

  // What the canvas shows, in words.
  function describe() {
    for (const { name, figure, plot } of charts) {
      const latest = [...ordered()].reverse().find((line) => line[name] != null);
      const words = latest ? `newest ${KINDS[name].write(latest[name])}, ${PHASES[latest.phase].toLowerCase()} epoch ${latest.epoch}` : "nothing yet";
      plot.root.querySelector(".u-wrap").setAttribute("role", "img");
      plot.root.querySelector(".u-wrap").setAttribute("aria-label", `${figure.querySelector("figcaption").firstChild.textContent.trim()} by epoch: ${words}; the table below has every number`);
    }
  }

  function table() {
    const body = section.querySelector("[data-epochs] tbody");
    if (!section.querySelector("[data-epochs]").open) return;
    body.replaceChildren(...ordered().map((line) => {
      const row = document.createElement("tr");
      const cells = [
        PHASES[line.phase] + (line.budget ? " " + rival(line) : ""), `${line.epoch}/${line.epochs}`, small(line.loss), percent(line.accuracy),
        line.multiply_adds?.toLocaleString("en") ?? "", line.live_edges ?? "", line.l1_weight == null ? "" : small(line.l1_weight), line.seconds.toFixed(1),
      ];
      cells.forEach((text, index) => {
        const cell = document.createElement("td");
        cell.textContent = text;
        if (index) cell.className = "number";
        row.append(cell);
      });
      return row;
    }));
  }

  function show() {
    if (!epochs.size) return;
    const hidden = section.querySelector(".charts").hidden;
    for (const part of [".charts", ".charts-tools", "[data-epochs]"]) section.querySelector(part).hidden = false;
    section.querySelector("[data-no-curves]").hidden = true;
    // Another network of finals is another curve.
    if (hidden || charts.some(({ name, plot }) => plot.series.length !== 2 * owners(KINDS[name]).length + 1)) build();
    else {
      for (const chart of charts) chart.plot.setData(data(chart.name));
      describe();
    }
    table();
  }

  async function read() {
    if (reading) { again = true; return; }
    reading = true;
    try {
      for (;;) {
        again = false;
        const answer = await fetch(`${section.dataset.journal}?kind=epoch&limit=5000&after=${after}`);
        if (!answer.ok) break;
        const lines = await answer.json();
        for (const line of lines) {
          after = line.seq;
          epochs.set(`${line.trial ?? ""} ${line.phase} ${line.budget ?? ""} ${line.epoch}`, line);
        }
        if (lines.length) show();
        if (lines.length < 5000 && !again) break;
      }
    } catch {
      // The service is away; the hint that comes when it is back reads what was missed.
    } finally {
      reading = false;
    }
  }

  new ResizeObserver(() => {
    for (const { box, plot } of charts) {
      if (box.clientWidth && plot.width !== box.clientWidth) plot.setSize({ width: box.clientWidth, height: HEIGHT });
    }
  }).observe(section);
  for (const what of [matchMedia("(prefers-color-scheme: dark)"), document]) {
    what.addEventListener(what === document ? "theme" : "change", () => { if (charts.length) build(); });
  }
  section.querySelector("[data-epochs]").addEventListener("toggle", table);
  for (const input of [smooth, from, to]) input.addEventListener("input", draw);
  all.addEventListener("click", () => { smooth.focus(); showEpochs("", ""); });
  document.body.addEventListener("htmx:sseMessage", read);
  document.body.addEventListener("htmx:sseClose", read);
  draw();
  read();
})();
