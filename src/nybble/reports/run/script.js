// Draws the figures of a report: curves, the heat map, histograms. No library, no request; text from
// a run is only ever set as text. The inverse of looks.py's packing is `decode`.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);
  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

  function el(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  function svg(name, attributes, ...children) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  function text(x, y, words, attributes) {
    return svg("text", { x, y, ...attributes }, words);
  }
  function short(value) {
    if (value === null || value === undefined) return "-";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e7) return String(value);
    if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
    return String(Number(value.toPrecision(3)));
  }
  // What all names begin and end with (whole parts between dots) tells nothing apart.
  function shared(names) {
    const parts = names.map((name) => name.split("."));
    const fewest = Math.min(...parts.map((p) => p.length));
    const alike = (i, at) => parts.every((p) => p[at(p, i)] === parts[0][at(parts[0], i)]);
    let front = 0, back = 0;
    while (front < fewest - 1 && alike(front, (p, i) => i)) front++;
    while (back < fewest - 1 - front && alike(back, (p, i) => p.length - 1 - i)) back++;
    return [front, back];
  }
  function fitted(name, room, [front, back]) {
    if (name.length <= room) return name;
    const parts = name.split("."), middle = parts.slice(front, parts.length - back).join(".");
    const words = `${front ? "…" : ""}${middle}${back ? "…" : ""}`;
    return words.length <= room ? words : `…${words.slice(words.length - room + 1)}`;
  }
  const percent = (share) => (share > 0 && share < 0.0005 ? "< 0.05 %" : `${short(Number((100 * share).toFixed(2)))} %`);
  const nameOf = (layer) => layer || "(the model)";

  // ---- tooltips -------------------------------------------------------------------------------
  const tip = el("div", { class: "tip", role: "status", hidden: "" });
  document.body.append(tip);
  function showTip(words, x, y) {
    tip.textContent = words;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${clamp(x + 14, 4, innerWidth - box.width - 4)}px`;
    const above = y - box.height - 12;
    tip.style.top = `${above > 4 ? above : y + 18}px`;
  }
  function hideTip() { tip.hidden = true; }
  addEventListener("scroll", hideTip, { passive: true });

  // ---- axes -----------------------------------------------------------------------------------
  function ticks(low, high, count) {
    const raw = (high - low) / Math.max(1, count);
    if (!(raw > 0)) return [low];
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  }
  function logTicks(low, high) {
    const found = [];
    const decades = Math.log10(high / low);
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
      for (const m of decades > 3 ? [1] : decades > 1.2 ? [1, 3] : [1, 2, 3, 5, 7]) {
        const value = m * 10 ** e;
        if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
      }
    }
    if (found.length < 3) return ticks(low, high, 4).filter((v) => v > 0);
    const every = Math.ceil(found.length / 7);
    return found.filter((_, i) => i % every === 0);
  }
  function widthOf(figure) {
    return clamp(Math.round(figure.clientWidth || 640), 280, 1100);
  }
  function start(figure, caption, width, height, label) {
    figure.querySelectorAll("svg, .legend").forEach((old) => old.remove());
    figure.querySelector("figcaption").textContent = caption;
    const frame = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: "0",
      "aria-label": label });
    figure.append(frame);
    return frame;
  }

  // ---- line charts ----------------------------------------------------------------------------
  // series: {name, x, y, colour, dash, thin, key}; equal names share one entry of the legend.
  function lines(figure, spec) {
    const width = Math.min(760, widthOf(figure));
    const height = Math.round(clamp(width * 0.52, 210, 330));
    const drawn = spec.series.map((s) => {
      const keep = s.x.map((x, i) => [x, s.y[i]]).filter(([x, y]) => x !== null && y !== null
        && (!spec.log || y > 0));
      return { ...s, x: keep.map((p) => p[0]), y: keep.map((p) => p[1]) };
    }).filter((s) => s.x.length);
    const frame = start(figure, spec.caption, width, height, spec.caption);
    if (!drawn.length) {
      frame.append(text(width / 2, height / 2, "nothing was recorded", { class: "dim", "text-anchor": "middle" }));
      return;
    }
    const left = 58, right = width - 10, top = 8, bottom = height - 40;
    const allX = drawn.flatMap((s) => s.x), allY = drawn.flatMap((s) => s.y);
    const reduce = (list, pick) => list.reduce((a, b) => pick(a, b));
    let x0 = reduce(allX, Math.min), x1 = reduce(allX, Math.max);
    let y0 = reduce(allY, Math.min), y1 = reduce(allY, Math.max);
    if (spec.fromX !== undefined) x0 = Math.min(x0, spec.fromX);
    if (x1 === x0) { x0 -= 0.5; x1 += 0.5; }
    if (spec.log) {
      const room = Math.max(1.02, (y1 / y0) ** 0.05);
      y0 /= room; y1 *= room;
    } else {
      const room = 0.06 * ((y1 - y0) || Math.abs(y1) || 1);
      const zero = y0 >= 0 && y0 - room < 0;
      y0 = zero ? 0 : y0 - room; y1 += room;
    }
    const xOf = (x) => left + (right - left) * (x - x0) / (x1 - x0);
    const yOf = spec.log
      ? (y) => bottom - (bottom - top) * Math.log(y / y0) / Math.log(y1 / y0)
      : (y) => bottom - (bottom - top) * (y - y0) / (y1 - y0);
    for (const value of spec.log ? logTicks(y0, y1) : ticks(y0, y1, 5)) {
      frame.append(svg("line", { class: "grid", x1: left, x2: right, y1: yOf(value), y2: yOf(value) }));
      frame.append(text(left - 8, yOf(value) + 4, (spec.tick || short)(value), { class: "dim", "text-anchor": "end" }));
    }
    for (const value of ticks(x0, x1, width < 420 ? 4 : 7)) {
      if (spec.whole && Math.abs(value - Math.round(value)) > 1e-6) continue;
      frame.append(text(xOf(value), bottom + 17, short(value), { class: "dim", "text-anchor": "middle" }));
    }
    frame.append(svg("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` }));
    frame.append(text((left + right) / 2, height - 5, spec.xLabel, { class: "dim", "text-anchor": "middle" }));
    for (const s of drawn) {
      const path = s.x.map((x, i) => `${i ? "L" : "M"}${xOf(x).toFixed(1)} ${yOf(s.y[i]).toFixed(1)}`);
      frame.append(svg("path", { d: path.join(""), fill: "none", "stroke-linejoin": "round",
        style: `stroke:${s.colour};stroke-width:${s.thin ? 1.2 : 2.2};opacity:${s.thin ? 0.55 : 1}`
          + (s.dash ? `;stroke-dasharray:${s.dash}` : "") }));
      if (s.x.length <= 12) {
        s.x.forEach((x, i) => frame.append(svg("circle", { cx: xOf(x), cy: yOf(s.y[i]),
          r: s.thin ? 2 : 3, style: `fill:${s.colour};opacity:${s.thin ? 0.55 : 1}` })));
      }
    }
    const legend = el("div", { class: "legend" });
    const told = new Set();
    for (const s of drawn) {
      if (told.has(s.key || s.name)) continue;
      told.add(s.key || s.name);
      const line = svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" }, svg("line", { x1: 1, x2: 25, y1: 5, y2: 5,
        style: `stroke:${s.colour};stroke-width:2.2${s.dash ? `;stroke-dasharray:${s.dash}` : ""}` }));
      legend.append(el("span", {}, line, s.key || s.name));
    }
    if (told.size > 1 || spec.legend) figure.append(legend);

    const cross = svg("line", { class: "cross", y1: top, y2: bottom, visibility: "hidden" });
    frame.append(cross);
    const stops = [...new Set(allX)].sort((a, b) => a - b);
    let at = stops.length - 1;
    function tell(index, x, y) {
      at = clamp(index, 0, stops.length - 1);
      const value = stops[at];
      cross.setAttribute("x1", xOf(value)); cross.setAttribute("x2", xOf(value));
      cross.setAttribute("visibility", "visible");
      const rows = drawn.map((s) => [s, s.x.indexOf(value)]).filter(([, i]) => i >= 0)
        .map(([s, i]) => `${s.name}: ${spec.format ? spec.format(s.y[i]) : short(s.y[i])}`);
      const more = rows.length > 9 ? [...rows.slice(0, 9), `and ${rows.length - 9} more`] : rows;
      const box = frame.getBoundingClientRect(), k = box.width / width;
      showTip([`${spec.xLabel} ${spec.whole ? value : short(value)}`, ...more].join("\n"),
        x === undefined ? box.left + xOf(value) * k : x, y === undefined ? box.top + 20 : y);
    }
    frame.addEventListener("pointermove", (event) => {
      const box = frame.getBoundingClientRect();
      const x = x0 + (x1 - x0) * ((event.clientX - box.left) * width / box.width - left) / (right - left);
      let best = 0;
      stops.forEach((stop, i) => { if (Math.abs(stop - x) < Math.abs(stops[best] - x)) best = i; });
      tell(best, event.clientX, event.clientY);
    });
    const leave = () => { hideTip(); cross.setAttribute("visibility", "hidden"); };
    frame.addEventListener("pointerleave", leave);
    frame.addEventListener("blur", leave);
    frame.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Home") tell(0);
      else if (event.key === "End") tell(stops.length - 1);
      else if (move) tell(cross.getAttribute("visibility") === "hidden" ? at : at + move);
      else { if (event.key === "Escape") leave(); return; }
      event.preventDefault();
    });
  }

  const many = data.runs.length > 1;
  // The mean over the runs of a group, where all of them have an epoch.
  function means(yKey, xKey) {
    const found = [];
    for (const group of new Set(data.runs.map((r) => r.group))) {
      const runs = data.runs.filter((r) => r.group === group && r.curve.epoch.length);
      const longest = Math.max(0, ...runs.map((r) => r.curve.epoch.length));
      const whole = runs.filter((r) => r.curve.epoch.length === longest);
      const mean = (key, i) => {
        const values = whole.map((r) => r.curve[key][i]);
        return values.some((v) => v === null) ? null : values.reduce((a, b) => a + b, 0) / values.length;
      };
      if (!longest) continue;
      found.push({ name: whole.length > 1 ? `${group} (mean)` : group, key: group, colour: whole[0].colour, alone: runs.length === 1,
        x: whole[0].curve[xKey].map((_, i) => mean(xKey, i)), y: whole[0].curve[yKey].map((_, i) => mean(yKey, i)) });
    }
    return found;
  }
  function seedsAndMeans(yKey, xKey) {
    const drawn = means(yKey, xKey);
    const alone = new Set(drawn.filter((s) => s.alone).map((s) => s.key));
    const thin = data.runs.filter((r) => r.curve[yKey] && r.curve.epoch.length && !alone.has(r.group)).map((r) => ({
      name: r.label, key: r.group, colour: r.colour, thin: true, x: r.curve[xKey], y: r.curve[yKey] }));
    return [...drawn, ...thin];
  }
  const metricName = data.metric.name + (data.metric.unit ? ` (${data.metric.unit})` : "");
  const figures = {
    loss(figure) {
      let series = [];
      if (many) series = seedsAndMeans("test_loss", "epoch");
      else {
        const run = data.runs[0];
        series.push({ name: "training loss", colour: "var(--c0)", x: run.curve.epoch, y: run.curve.train_loss });
        series.push({ name: "test loss", colour: "var(--c1)", dash: "6 3", x: run.curve.epoch, y: run.curve.test_loss });
      }
      for (const run of data.runs) {
        if (!run.curve.log.length) continue;
        series.push({ name: `${many ? `${run.label}: ` : ""}training loss so far, from the log`, dash: "2 3",
          colour: many ? run.colour : "var(--c0)", x: run.curve.log.map((p) => p[0]), y: run.curve.log.map((p) => p[1]) });
      }
      const log = series.every((s) => s.y.every((y) => y === null || y > 0));
      lines(figure, { caption: many ? "Loss on test data" : "Loss", xLabel: "epoch", series, log,
        whole: !data.runs.some((r) => r.curve.log.length), legend: true });
    },
    metric(figure) {
      let series = [];
      if (many) series = seedsAndMeans("test_metric", "epoch");
      else {
        const curve = data.runs[0].curve;
        series.push({ name: "training data", colour: "var(--c0)", x: curve.epoch, y: curve.train_metric });
        series.push({ name: "test data", colour: "var(--c1)", dash: "6 3", x: curve.epoch, y: curve.test_metric });
      }
      lines(figure, { caption: `${metricName}: ${data.metric.up ? "higher" : "lower"} is better`, xLabel: "epoch", series,
        whole: true, legend: true });
    },
    lr(figure) {
      const curve = data.runs[0].curve;
      lines(figure, { caption: "Learning rate at the end of each epoch", xLabel: "epoch", whole: true,
        series: [{ name: "learning rate", colour: "var(--c2)", x: curve.epoch, y: curve.lr }] });
    },
    time(figure) {
      lines(figure, { caption: `${metricName} over the time of the training steps`, xLabel: "seconds", fromX: 0,
        series: seedsAndMeans("test_metric", "seconds"), legend: true });
    },
  };

  // ---- the looks at the layers ----------------------------------------------------------------
  const MISSING = 65535, TOP = 65534, LOG = [-15 * Math.log(10), 9 * Math.log(10)];
  const measures = new Map(data.measures.map((m) => [m.key, m]));
  function decode(coding, code) {
    if (code === MISSING || code === undefined) return null;
    if (coding === "count") return code;
    if (coding === "log") return code === 0 ? 0 : Math.exp(LOG[0] + (LOG[1] - LOG[0]) * (code - 1) / (TOP - 1));
    const [low, high] = { share: [0, 1], cosine: [-1, 1], db: [-100, 200] }[coding];
    return low + (high - low) * code / TOP;
  }
  function bytes(packed) {
    const raw = atob(packed);
    const found = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
    return found;
  }
  const opened = new Map();
  function unpacked(run, kind, operand, measure) {
    const key = `${run}/${kind}/${operand}/${measure}`;
    if (!opened.has(key)) {
      const looks = data.runs[run].looks;
      const packed = kind === "bars" ? looks.bars[operand] : (looks.values[operand] || {})[measure];
      const found = packed === undefined ? null : bytes(packed);
      opened.set(key, found && kind !== "bars" ? new DataView(found.buffer) : found);
    }
    return opened.get(key);
  }
  function valueAt(run, operand, measure, row, column) {
    const table = unpacked(run, "values", operand, measure);
    if (!table) return null;
    const code = table.getUint16(2 * (row * data.runs[run].looks.steps.length + column), true);
    return decode(measures.get(measure).coding, code);
  }
  function said(measure, value) {
    if (value === null) return "not measured";
    const { coding } = measures.get(measure);
    if (coding === "share") return percent(value);
    if (coding === "db") return `${value.toFixed(1)} dB`;
    if (coding === "cosine") return value.toFixed(4);
    return short(value);
  }
  function stepsOf(looks, column) {
    const [first, last] = looks.steps[column];
    return first === last ? `step ${first}` : `steps ${first} to ${last}`;
  }
  function formatAt(run, operand, row, column) {
    const looks = data.runs[run].looks;
    const rows = (looks.formats[operand] || [])[row] || [];
    let found = rows.length ? rows[0][1] : -1;
    for (const [from, index] of rows) if (from <= column) found = index;
    return found < 0 ? null : looks.grids[found];
  }

  const watched = data.runs.map((r, i) => i).filter((i) => data.runs[i].looks);
  const state = { run: watched[0], measure: "underflow", operand: "grad_weight", row: 0, column: 0, tall: false };
  const looksNow = () => data.runs[state.run].looks;
  const formatHere = () => valueAt(state.run, state.operand, state.measure, state.row, state.column) !== null;
  function begin() {
    const looks = looksNow();
    state.column = looks.steps.length - 1;
    // The first layer of 4 bits: what the page is about.
    const four = looks.layers.findIndex((_, i) => looks.bars[state.operand] && (formatAt(state.run, state.operand, i, state.column) || {}).bits === 4);
    state.row = Math.max(0, four);
    while (state.column > 0 && !formatHere()) state.column--;
  }

  // From pale to strong; on dark pages the other way round: what stands out is what is bad.
  const RAMP = ["#fdf3d0", "#fed799", "#fdae6f", "#f5735f", "#d8456c", "#a5307f", "#6f1f81", "#401269", "#150b35"];
  const DARK_RAMP = ["#2a1c4e", "#451a6b", "#6f1f81", "#a5307f", "#d8456c", "#f5735f", "#fdae6f", "#fed799", "#fdf3d0"];
  let printing = false;
  const dark = () => !printing && matchMedia("screen and (prefers-color-scheme: dark)").matches;
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  function colour(t) {
    const ramp = dark() ? DARK_RAMP : RAMP;
    const place = clamp(t, 0, 1) * (ramp.length - 1);
    const i = Math.min(ramp.length - 2, Math.floor(place));
    const a = rgb(ramp[i]), b = rgb(ramp[i + 1]);
    return a.map((c, k) => Math.round(c + (b[k] - c) * (place - i)));
  }
  // {t(value): 0 good to 1 bad, good, bad: what stands at the ends of the legend}
  function shade(measure, values) {
    const m = measures.get(measure);
    const seen = values.filter((v) => v !== null && (m.coding !== "log" || v > 0));
    const low = seen.reduce((a, b) => Math.min(a, b), Infinity);
    const high = seen.reduce((a, b) => Math.max(a, b), -Infinity);
    const ln = (v) => Math.log(Math.max(v, 1e-20));
    if (m.worse === "none") {
      if (!seen.length || high === low) return { t: () => 0.3, good: said(measure, seen.length ? low : null), bad: "" };
      return { t: (v) => 0.85 * (ln(v) - ln(low)) / (ln(high) - ln(low)), good: said(measure, low), bad: said(measure, high), neutral: true };
    }
    if (m.worse === "apart") {
      const far = Math.max(m.ends[1], high, low > 0 ? 1 / low : 1);
      const most = Math.min(far, 100);
      return { t: (v) => Math.abs(ln(v)) / ln(most), good: "1", bad: `${short(1 / most)} or ${short(most)}` };
    }
    let [good, bad] = m.ends;
    if (seen.length) bad = m.worse === "high" ? Math.max(bad, high) : Math.min(bad, low);
    if (m.coding === "log") {
      bad = Math.max(bad, 0.05);
      return { t: (v) => (ln(v) - ln(good)) / (ln(bad) - ln(good)), good: `${said(measure, good)} or more`, bad: said(measure, bad) };
    }
    const more = m.worse === "low" && m.coding === "db" ? " or more" : "";
    return { t: (v) => (v - good) / (bad - good), good: said(measure, good) + more, bad: said(measure, bad) };
  }

  function heat(figure) {
    const { run, measure, operand } = state;
    const looks = looksNow(), rows = looks.layers.length, columns = looks.steps.length;
    const width = widthOf(figure);
    const longest = looks.layers.reduce((n, name) => Math.max(n, nameOf(name).length), 0);
    const left = Math.round(clamp(longest * 6.6 + 14, 60, width * 0.34));
    const fits = Math.floor((left - 12) / 6.6);
    const rowHeight = clamp(560 / rows, 3, 24);
    const top = 6, right = width - 12, bottom = top + rows * rowHeight, height = bottom + 104;
    const m = measures.get(measure);
    const frame = start(figure, `${m.label}, ${data.operands[operand].split(":")[0]}${many ? `, ${data.runs[run].label}` : ""}`,
      width, height, `Heat map: ${m.label} of ${data.operands[operand]}, ${rows} layers, ${columns} moments`);
    const values = [];
    for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) values.push(valueAt(run, operand, measure, r, c));
    const ramp = shade(measure, values);
    const canvas = el("canvas", { width: columns, height: rows });
    const painter = canvas.getContext("2d");
    const pixels = painter.createImageData(columns, rows);
    values.forEach((value, i) => {
      if (value === null) return;
      pixels.data.set([...colour(ramp.t(value)), 255], 4 * i);
    });
    painter.putImageData(pixels, 0, 0);
    frame.append(svg("rect", { x: left, y: top, width: right - left, height: bottom - top, style: "fill:var(--gap)" }));
    frame.append(svg("image", { x: left, y: top, width: right - left, height: bottom - top, href: canvas.toDataURL(), preserveAspectRatio: "none" }));
    const every = Math.ceil(13 / rowHeight);
    const common = shared(looks.layers);
    looks.layers.forEach((name, r) => {
      if (r % every) return;
      const words = fitted(nameOf(name), fits, common);
      frame.append(text(left - 8, top + (r + 0.5) * rowHeight + 4, words, { "text-anchor": "end", class: "dim" }));
    });
    const cell = (right - left) / columns;
    const last = looks.steps[columns - 1][1];
    for (const step of ticks(1, last, width < 480 ? 3 : 8)) {
      const c = looks.steps.findIndex(([a, b]) => a <= step && step <= b);
      if (c >= 0 && step >= 1) frame.append(text(left + (c + 0.5) * cell, bottom + 16, short(step), { class: "dim", "text-anchor": "middle" }));
    }
    frame.append(text((left + right) / 2, bottom + 32, "training step", { class: "dim", "text-anchor": "middle" }));
    for (const [layer, of, step, kind] of data.runs[run].alarms) {
      const r = looks.layers.indexOf(layer), c = looks.steps.findIndex(([a, b]) => a <= step && step <= b);
      if (r < 0 || c < 0 || of !== operand) continue;
      const x = left + (c + 0.5) * cell, y = top + (r + 0.5) * rowHeight;
      frame.append(svg("circle", { cx: x, cy: y, r: 5, style: "fill:var(--bad);stroke:var(--paper);stroke-width:1.5" },
        svg("title", {}, `alarm: ${kind}`)));
    }
    // The legend.
    const fill = svg("linearGradient", { id: "ramp" });
    for (let i = 0; i <= 8; i++) fill.append(svg("stop", { offset: i / 8, "stop-color": `rgb(${colour((ramp.neutral ? 0.85 : 1) * i / 8)})` }));
    const bar = Math.min(280, right - left - 20);
    frame.append(svg("defs", {}, fill), svg("rect", { x: left, y: bottom + 46, width: bar, height: 10, fill: "url(#ramp)" }));
    const good = ramp.neutral || !ramp.bad ? ramp.good : `good: ${ramp.good}`;
    frame.append(text(left, bottom + 72, good, { class: "dim" }));
    frame.append(text(left + bar, bottom + 72, ramp.neutral || !ramp.bad ? ramp.bad : `worse: ${ramp.bad}`, { class: "dim", "text-anchor": "end" }));
    frame.append(svg("rect", { x: left, y: bottom + 85, width: 14, height: 10, style: "fill:var(--gap)" }),
      text(left + 20, bottom + 94, "no number: not looked at, or all zero", { class: "dim" }));
    // What is chosen.
    const box = () => ({ x: left + state.column * cell, y: top + state.row * rowHeight, width: Math.max(cell, 4), height: Math.max(rowHeight, 4) });
    frame.append(svg("rect", { class: "halo", ...box() }), svg("rect", { class: "mark", ...box() }));
    const place = (event) => {
      const at = frame.getBoundingClientRect(), k = width / at.width;
      const c = Math.floor(((event.clientX - at.left) * k - left) / cell), r = Math.floor(((event.clientY - at.top) * k - top) / rowHeight);
      return c < 0 || r < 0 || c >= columns || r >= rows ? null : [r, c];
    };
    const words = (r, c) => `${nameOf(looks.layers[r])}\n${stepsOf(looks, c)}\n${m.label}: ${said(measure, valueAt(run, operand, measure, r, c))}`;
    frame.addEventListener("pointermove", (event) => {
      const at = place(event);
      if (at) showTip(words(...at), event.clientX, event.clientY); else hideTip();
    });
    frame.addEventListener("pointerleave", hideTip);
    frame.addEventListener("blur", hideTip);
    frame.addEventListener("click", (event) => {
      const at = place(event);
      if (at) { [state.row, state.column] = at; chosen(); }
    });
    frame.addEventListener("keydown", (event) => {
      const [dr, dc] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] || [0, 0];
      if (!dr && !dc) return;
      event.preventDefault();
      state.row = clamp(state.row + dr, 0, rows - 1);
      state.column = clamp(state.column + dc, 0, columns - 1);
      chosen();
      const again = figure.querySelector("svg");
      again.focus();
      const at = again.getBoundingClientRect(), k = at.width / width;
      showTip(words(state.row, state.column), at.left + (left + (state.column + 1) * cell) * k, at.top + (top + state.row * rowHeight) * k);
    });
  }

  // ---- histograms on the format's own grid ----------------------------------------------------
  // Codes of one value (+0 and -0) are one bar. Powers of one base stand at equal distances.
  function grid(format, shares) {
    const sums = new Map();
    format.values.forEach((value, code) => {
      const key = value === 0 ? 0 : value;
      const old = sums.get(key) || { value: key, share: 0, codes: [] };
      old.share += shares[code] || 0;
      old.codes.push(code);
      sums.set(key, old);
    });
    const found = [...sums.values()].sort((a, b) => a.value - b.value);
    const positive = found.map((b) => b.value).filter((v) => v > 0);
    const ratios = positive.slice(1).map((v, i) => v / positive[i]);
    const powers = ratios.length >= 2 && ratios.every((q) => q > 1.3 && Math.abs(q - ratios[0]) < 1e-3 * q);
    return { bars: found, powers };
  }
  function sharesAt(run, operand, row, column) {
    const looks = data.runs[run].looks, table = unpacked(run, "bars", operand);
    if (!table) return null;
    const slots = Math.ceil(looks.steps.length / looks.barsEvery);
    const from = 16 * (row * slots + Math.floor(column / looks.barsEvery));
    const shares = [...table.slice(from, from + 16)].map((b) => (b / 255) ** 2);
    const sum = shares.reduce((a, b) => a + b, 0);
    return sum ? shares.map((s) => s / sum) : null;
  }
  function histogram(figure, operand) {
    const { run, row, column } = state, looks = looksNow();
    const width = Math.min(560, widthOf(figure)), height = 190;
    const format = formatAt(run, operand, row, column);
    const name = data.operands[operand].split(":")[0];
    const caption = format ? `${name}: ${format.name}` : name;
    const frame = start(figure, caption, width, height, `Histogram of ${caption}, layer ${nameOf(looks.layers[row])}, ${stepsOf(looks, column)}`);
    const shares = format && format.values.length ? sharesAt(run, operand, row, column) : null;
    const empty = (...words) => words.forEach((w, i) => frame.append(text(width / 2, 70 + 18 * i, w, { class: "dim", "text-anchor": "middle" })));
    if (!format) return empty("not looked at: the operand is in float32,", "or this multiplication is not needed");
    if (format.bits > 4) {
      const snr = valueAt(run, operand, "snr_db", row, column);
      return empty(`${format.bits} bits have too many values for bars`, `signal to noise ${said("snr_db", snr)}`);
    }
    if (!shares) return empty("no look at this moment");
    let scale = null;
    const first = column - column % looks.barsEvery;
    for (let c = Math.min(looks.steps.length, first + looks.barsEvery) - 1; c >= first && scale === null; c--) scale = valueAt(run, operand, "scale", row, c);
    const times = scale || 1;
    const { bars, powers } = grid(format, shares);
    const left = 44, right = width - 8, top = 16, bottom = height - 46;
    const low = bars[0].value, high = bars[bars.length - 1].value;
    const gap = powers ? 1 : bars.slice(1).reduce((n, b, i) => Math.min(n, b.value - bars[i].value), Infinity);
    const span = powers ? bars.length : high - low + gap;
    const unit = (right - left) / span;
    const xOf = (b, i) => left + unit * (powers ? i + 0.5 : b.value - low + gap / 2);
    const most = bars.reduce((n, b) => Math.max(n, b.share), 0);
    const heightOf = (share) => (share <= 0 ? 0 : state.tall
      ? Math.max(2, (1 + Math.log10(Math.max(share, 1e-5) / most) / 5) * (bottom - top)) : Math.max(1, share / most * (bottom - top)));
    for (const value of state.tall ? [most, most / 10, most / 100, most / 1000] : ticks(0, most, 3)) {
      const y = bottom - (value > 0 ? heightOf(value) : 0);
      frame.append(svg("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }));
      frame.append(text(left - 6, y + 4, percent(value).replace(" %", "%"), { class: "dim", "text-anchor": "end" }));
    }
    const barWidth = Math.max(2, unit * gap * 0.78);
    bars.forEach((b, i) => {
      const x = xOf(b, i), tall = heightOf(b.share);
      frame.append(svg("line", { class: "level", x1: x, x2: x, y1: bottom, y2: bottom + 5 }));
      const codes = `code${b.codes.length > 1 ? "s" : ""} ${b.codes.join(" and ")}`;
      const words = `value ${short(b.value)} × scale ${short(times)} = ${short(b.value * times)}\n${codes}: ${percent(b.share)} of the numbers`;
      const bar = svg("rect", { x: x - barWidth / 2, y: bottom - tall, width: barWidth, height: tall, style: "fill:var(--c0)" });
      const target = svg("rect", { x: x - Math.max(barWidth, unit * gap) / 2, y: top, width: Math.max(barWidth, unit * gap), height: bottom - top + 8, fill: "transparent" });
      target.addEventListener("pointermove", (event) => showTip(words, event.clientX, event.clientY));
      target.addEventListener("pointerleave", hideTip);
      frame.append(bar, target);
    });
    frame.append(svg("path", { class: "axis", d: `M${left} ${bottom}H${right}` }));
    // Labels where there is room for them; zero and the ends first.
    const taken = [];
    const zero = bars.findIndex((b) => b.value === 0);
    const order = [zero, 0, bars.length - 1, ...bars.keys()].filter((i) => i >= 0);
    for (const i of order) {
      const words = short(bars[i].value * times), half = words.length * 3.4 + 4;
      const x = clamp(xOf(bars[i], i), left + half - 8, right - half + 8);
      if (taken.some(([a, b]) => x - half < b && x + half > a)) continue;
      taken.push([x - half, x + half]);
      frame.append(text(x, bottom + 19, words, { class: "dim", "text-anchor": "middle" }));
    }
    const kind = powers ? `; powers of ${short(powersOf(bars))}, log axis` : "";
    frame.append(text((left + right) / 2, height - 6, `value${kind}; scale ${short(times)}`, { class: "dim", "text-anchor": "middle" }));
  }
  function powersOf(bars) {
    const positive = bars.map((b) => b.value).filter((v) => v > 0);
    return positive[1] / positive[0];
  }

  function numbers() {
    const { run, row, column } = state;
    const operands = Object.keys(data.operands).filter((o) => looksNow().values[o]);
    const shown = data.measures.filter((m) => operands.some((o) => valueAt(run, o, m.key, row, column) !== null));
    const headRow = el("tr", {}, el("th", { scope: "col" }, "measure"), ...operands.map((o) => el("th", { scope: "col" }, o)));
    const body = shown.map((m) => el("tr", {}, el("th", { scope: "row" }, m.label), ...operands.map((o) => {
      const value = valueAt(run, o, m.key, row, column);
      return el("td", {}, value === null ? "-" : said(m.key, value));
    })));
    const rows = shown.length ? body : [el("tr", {}, el("th", { scope: "row" }, "no look at this moment"))];
    byId("numbers").replaceChildren(el("table", {}, el("thead", {}, headRow), el("tbody", {}, ...rows)));
  }
  function overTime(figure) {
    const { run, row, measure } = state, looks = looksNow(), m = measures.get(measure);
    const series = Object.keys(data.operands).filter((o) => looks.values[o]).map((o, i) => ({
      name: o, colour: `var(--c${i})`, dash: ["", "7 3", "2 3", "8 3 2 3"][i],
      x: looks.steps.map((s) => s[1]), y: looks.steps.map((_, c) => valueAt(run, o, measure, row, c)) }));
    lines(figure, { caption: `${nameOf(looks.layers[row])}: ${m.label}`, xLabel: "step", series, whole: true, legend: true,
      log: m.coding === "log" && series.some((s) => s.y.some((y) => y > 0)), format: (v) => said(measure, v),
      tick: m.coding === "share" ? percent : short });
  }

  // ---- putting it on the page -----------------------------------------------------------------
  function draw(figure, how) {
    try {
      how(figure);
      figure.dataset.drawn = "true";
    } catch (error) {
      figure.querySelector("figcaption").textContent = "This figure could not be drawn.";
      console.error(error);
    }
  }
  const find = (name) => document.querySelector(`figure[data-figure="${name}"]`);
  function drawLayer() {
    for (const operand of Object.keys(data.operands)) draw(find(`bars-${operand}`), (f) => histogram(f, operand));
    numbers();
    draw(find("over-time"), overTime);
    byId("choose-layer").value = state.row;
    byId("choose-step").value = state.column;
    byId("step-says").textContent = stepsOf(looksNow(), state.column);
  }
  function chosen() { draw(find("heat"), heat); drawLayer(); }
  function fillChoices() {
    const looks = looksNow();
    byId("choose-layer").replaceChildren(...looks.layers.map((name, i) => el("option", { value: i }, nameOf(name))));
    byId("choose-step").max = looks.steps.length - 1;
  }
  function saysMeasure() { byId("measure-says").textContent = measures.get(state.measure).says; }
  function drawAll() {
    for (const [name, how] of Object.entries(figures)) if (find(name)) draw(find(name), how);
    if (watched.length) chosen();
  }
  root.classList.add("drawn");
  if (watched.length) {
    begin();
    fillChoices();
    byId("choose-measure").value = state.measure;
    byId("choose-operand").value = state.operand;
    saysMeasure();
    const wait = (id, event, then) => { if (byId(id)) byId(id).addEventListener(event, then); };
    wait("choose-run", "change", (e) => {
      const name = looksNow().layers[state.row];
      state.run = Number(e.target.value);
      fillChoices();
      const looks = looksNow(), same = looks.layers.indexOf(name);
      state.row = same < 0 ? 0 : same;
      state.column = Math.min(state.column, looks.steps.length - 1);
      chosen();
    });
    wait("choose-measure", "change", (e) => { state.measure = e.target.value; saysMeasure(); chosen(); });
    wait("choose-operand", "change", (e) => { state.operand = e.target.value; chosen(); });
    wait("choose-layer", "change", (e) => { state.row = Number(e.target.value); chosen(); });
    wait("choose-step", "input", (e) => { state.column = Number(e.target.value); chosen(); });
    wait("tall", "change", (e) => { state.tall = e.target.checked; drawLayer(); });
    for (const button of document.querySelectorAll("button.go")) {
      button.addEventListener("click", () => {
        const { run, layer, operand, step } = button.dataset;
        state.run = Number(run);
        fillChoices();
        const looks = looksNow();
        state.row = Math.max(0, looks.layers.indexOf(layer));
        state.operand = operand;
        const column = looks.steps.findIndex(([a, b]) => a <= Number(step) && Number(step) <= b);
        state.column = column < 0 ? looks.steps.length - 1 : column;
        if (byId("choose-run")) byId("choose-run").value = run;
        byId("choose-operand").value = operand;
        chosen();
        byId("layers").scrollIntoView();
      });
    }
  }
  drawAll();
  let waiting = 0;
  let drawnAt = innerWidth;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { if (innerWidth !== drawnAt) { drawnAt = innerWidth; drawAll(); } }, 120);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { printing = true; if (watched.length) draw(find("heat"), heat); });
  addEventListener("afterprint", () => { printing = false; if (watched.length) draw(find("heat"), heat); });
})();
