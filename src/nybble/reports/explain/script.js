/* Draws the figures of `nybble explain` and moves them with their sliders.
 *
 * Nothing is computed here that the library computes: rounding, codes, errors and their texts come
 * from the tables in #data.  The script maps them on pixels.  Every figure sets data-drawn (how
 * often it was drawn) and data-state (what it shows), which the tests read.
 */
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NS = "http://www.w3.org/2000/svg";
  const redraw = [];

  // ---- small tools ------------------------------------------------------------------------------

  const byId = (id) => document.getElementById(id);

  function make(tag, attributes, parent, text) {
    const node = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  }

  /* A drawing of the width that its figure has, in pixels, so that its texts keep their size. */
  function canvas(name, height) {
    const box = document.querySelector(`#fig-${name} .draw`);
    const width = Math.max(260, box.clientWidth);
    box.replaceChildren();
    const title = box.dataset.label;
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" }, box);
    if (title) svg.setAttribute("aria-label", title);
    return { svg, width, height };
  }

  function say(id, text) {
    const node = byId(id);
    if (node && node.textContent !== text) node.textContent = text;
  }

  function drawn(name, state) {
    const figure = byId(`fig-${name}`);
    figure.dataset.drawn = String(Number(figure.dataset.drawn || 0) + 1);
    figure.dataset.state = String(state);
  }

  /* Registers a figure: `draw` runs now, when an input of the figure moves, and on a new width. */
  function figure(name, draw) {
    const node = byId(`fig-${name}`);
    if (!node) return;
    node.querySelectorAll("input").forEach((input) => input.addEventListener("input", draw));
    redraw.push(draw);
    draw();
  }

  const at = (id) => Number(byId(id).value);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  /* value in [low, high] -> pixel in [a, b] */
  const scale = (low, high, a, b) => (v) => a + ((v - low) / (high - low || 1)) * (b - a);

  function paint(element, greys, width, height, table) {
    element.width = width;
    element.height = height;
    const context = element.getContext("2d");
    const image = context.createImageData(width, height);
    for (let i = 0; i < greys.length; i += 1) {
      const grey = table ? table[greys[i]] : greys[i];
      image.data.set([grey, grey, grey, 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
  }

  function tick(svg, x, top, bottom, kind) {
    make("line", { x1: x, x2: x, y1: top, y2: bottom, class: kind }, svg);
  }

  function words(svg, x, y, text, kind, anchor) {
    make("text", { x, y, class: kind || "small", "text-anchor": anchor || "middle" }, svg, text);
  }

  function marker(svg, x, y, kind) {
    make("circle", { cx: x, cy: y, r: 6, class: kind }, svg);
  }

  // ---- bits and codes ---------------------------------------------------------------------------

  figure("bits", () => {
    const code = at("s-bits");
    const row = data.bits.table[code];
    const boxes = byId("bit-boxes");
    boxes.replaceChildren();
    for (const bit of row.bits) {
      const box = document.createElement("span");
      box.className = bit === "1" ? "bit on" : "bit";
      box.textContent = bit;
      boxes.appendChild(box);
    }
    for (const name of ["unsigned", "signed", "log"]) say(`bits-${name}`, row[name]);
    const { svg, width } = canvas("bits", 150);
    const names = { unsigned: "without a sign", signed: "with a sign", log: "logarithmic" };
    Object.entries(names).forEach(([name, label], i) => {
      const y = 34 + 46 * i;
      const x = scale(-1, 1, 12, width - 12);
      words(svg, 12, y - 14, label, "small", "start");
      make("line", { x1: 12, x2: width - 12, y1: y, y2: y, class: "axis" }, svg);
      data.bits.places[name].forEach((v) => tick(svg, x(v), y - 5, y + 5, "tick"));
      marker(svg, x(data.bits.places[name][code]), y, "now");
    });
    say("o-bits", row.bits);
    drawn("bits", code);
  });

  // ---- the picture ------------------------------------------------------------------------------

  const greys = bytes(data.picture.pixels);
  const tables = data.picture.rows.map((row) => bytes(row.shown));
  if (byId("fig-picture")) {
    paint(byId("picture-full"), greys, data.picture.width, data.picture.height);
  }
  figure("picture", () => {
    const row = data.picture.rows[at("s-picture")];
    const { width, height } = data.picture;
    paint(byId("picture-few"), greys, width, height, tables[at("s-picture")]);
    say("o-picture", row.bits);
    say("picture-caption", `${row.bits} bits: ${row.levels} greys, ${row.bytes}`);
    say("picture-off", `A dot is off by ${row.off} grey levels on average, by ${row.most} at most.`);
    drawn("picture", row.bits);
  });

  figure("pixel", () => {
    const p = data.pixel;
    const i = at("s-pixel");
    const { svg, width } = canvas("pixel", 118);
    const x = scale(p.low - 0.5, p.high + 0.5, 14, width - 14);
    const y = 66;
    make("line", { x1: x(p.low), x2: x(p.high), y1: y, y2: y, class: "axis" }, svg);
    for (let v = p.low; v <= p.high; v += 1) {
      tick(svg, x(v), y - 6, y + 6, "tick");
      if (width > 520 || (v - p.low) % 2 === 0) {
        words(svg, x(v), y + 22, String(v).replace("-", "−"), "small");
      }
    }
    tick(svg, x(p.place[i]), y - 36, y, "from");
    words(svg, x(p.place[i]), y - 42, p.scaled[i], "strong");
    marker(svg, x(p.level_place[i]), y, "now");
    words(svg, x(p.level_place[i]), y + 44, `code ${p.bits[i]}`, "small");
    byId("swatch-from").style.background = `rgb(${p.grey[i]} ${p.grey[i]} ${p.grey[i]})`;
    byId("swatch-to").style.background = `rgb(${Array(3).fill(p.back_grey[i]).join(" ")})`;
    say("pixel-x", p.x[i]);
    say("pixel-scaled", p.scaled[i]);
    say("pixel-level", p.level[i]);
    say("pixel-bits", p.bits[i]);
    say("pixel-back", p.back[i]);
    say("o-pixel", p.x[i]);
    drawn("pixel", `${p.x[i]} ${p.scaled[i]} ${p.level[i]}`);
  });

  // ---- a new ruler every round ------------------------------------------------------------------

  figure("rulers", () => {
    const kind = document.querySelector("input[name=rulers-row]:checked").value;
    const row = data.rulers.rows[kind];
    const i = at("s-rulers");
    const now = row.at[i];
    const old = byId("rulers-old").checked;
    const ruler = old ? now.first : now.own;
    const { svg, width } = canvas("rulers", 250);
    const x = scale(row.low, row.high, 12, width - 12);
    const floor = 168;
    const wide = (width - 24) / now.bars.length;
    now.bars.forEach((bar, k) => {
      const tall = 140 * bar;
      make("rect", { x: 12 + k * wide, y: floor - tall, width: Math.max(1, wide - 1), height: tall, class: "bar" }, svg);
    });
    make("line", { x1: 12, x2: width - 12, y1: floor, y2: floor, class: "axis" }, svg);
    ruler.ticks.forEach((v) => {
      if (v >= row.low && v <= row.high) tick(svg, x(v), floor + 4, floor + 26, old ? "tick old" : "tick new");
    });
    const end = ruler.ticks[ruler.ticks.length - 1];
    const last = Math.min(x(end), width - 12);
    words(svg, last, floor + 44, end > row.high ? `ends at ${ruler.end} →` : `ends at ${ruler.end}`, "small", "end");
    words(svg, 12, floor + 70, `the ${row.levels} values that a code can mean`, "small", "start");
    say("o-rulers", data.rulers.steps[i]);
    say("rulers-says", `Round ${data.rulers.steps[i]}: the largest is ${now.top}. ` +
      `Beyond the ruler's end: ${ruler.beyond}. Error: ${ruler.error} of the size of the numbers.`);
    drawn("rulers", `${kind} ${i} ${old}`);
  });

  // ---- a number on several rulers ---------------------------------------------------------------

  figure("line", () => {
    const l = data.line;
    const i = at("s-line");
    const { svg, width } = canvas("line", 40 + 62 * l.rulers.length);
    const x = scale(l.low, l.high, 14, width - 14);
    const here = x(l.places[i]);
    tick(svg, here, 22, 30 + 62 * l.rulers.length, "from");
    const anchor = here < 60 ? "start" : here > width - 60 ? "end" : "middle";
    words(svg, here, 14, l.positions[i], "strong", anchor);
    l.rulers.forEach((ruler, k) => {
      const y = 70 + 62 * k;
      words(svg, 14, y - 20, ruler.name, "small", "start");
      const lost = ruler.places[i] === null;
      words(svg, width - 14, y - 20, `becomes ${ruler.values[i]}${lost ? ": lost" : ""}`, lost ? "bad" : "strong", "end");
      make("line", { x1: 14, x2: width - 14, y1: y, y2: y, class: "axis" }, svg);
      ruler.ticks.forEach((v) => tick(svg, x(v), y - 7, y + 7, "tick new"));
      if (!lost) marker(svg, x(ruler.places[i]), y, "now");
    });
    say("o-line", l.positions[i]);
    drawn("line", l.positions[i]);
  });

  // ---- real gradients ---------------------------------------------------------------------------

  figure("gradients", () => {
    const g = data.gradients;
    const i = at("s-gradients");
    const ruler = g.rulers[i];
    const { svg, width } = canvas("gradients", 250);
    const x = scale(g.low, g.high, 12, width - 12);
    const top = Math.max(...g.bars);
    const floor = 168;
    const wide = (width - 24) / g.bars.length;
    g.bars.forEach((count, k) => {
      const tall = (140 * count) / top;
      const lost = (140 * ruler.lost_bars[k]) / top;
      const left = 12 + k * wide;
      const thick = Math.max(1, wide - 1);
      make("rect", { x: left, y: floor - tall, width: thick, height: tall - lost, class: "bar" }, svg);
      make("rect", { x: left, y: floor - lost, width: thick, height: lost, class: "bar lost" }, svg);
    });
    make("line", { x1: 12, x2: width - 12, y1: floor, y2: floor, class: "axis" }, svg);
    ruler.ticks.filter((v) => v >= g.low).forEach((v) => tick(svg, x(v), floor + 4, floor + 26, "tick new"));
    g.axis.forEach(([v, text], k) => {
      const anchor = k === 0 ? "start" : k === g.axis.length - 1 ? "end" : "middle";
      if (k % 2 === (g.axis.length - 1) % 2) words(svg, x(v), floor + 44, text, "small", anchor);
    });
    words(svg, 12, floor + 70, "size of a gradient →", "small", "start");
    say("o-gradients", ruler.name);
    say("gradients-says", `${ruler.name}: ${ruler.lost} of the gradients become zero; ` +
      `those that are kept are off by ${ruler.off} on average.`);
    drawn("gradients", ruler.name);
  });

  // ---- two phases -------------------------------------------------------------------------------

  figure("phases", () => {
    const p = data.phases;
    const i = at("s-phases");
    const { svg, width } = canvas("phases", 270);
    const count = p.places.length;
    const x = scale(p.places[0], p.places[count - 1], 54, width - 12);
    const all = [...p.errors.even, ...p.errors.odd];
    const y = scale(Math.max(...all), Math.min(...all), 20, 226);
    let from = null;
    for (let k = 0; k <= count; k += 1) {
      if (k < count && p.down[k]) {
        if (from === null) from = k;
      } else if (from !== null) {
        make("rect", { x: x(p.places[from]), y: 12, width: x(p.places[k - 1]) - x(p.places[from]), height: 222, class: "shade" }, svg);
        from = null;
      }
    }
    make("line", { x1: 54, x2: width - 12, y1: y(0), y2: y(0), class: "axis" }, svg);
    p.scale.forEach(([v, text]) => {
      if (v >= Math.min(...all) && v <= Math.max(...all)) words(svg, 48, y(v) + 4, text, "small", "end");
    });
    p.periods.forEach((text, k) => words(svg, Math.min(x(k), width - 16), 252, text, "small"));
    for (const name of ["even", "odd", "mean"]) {
      const path = p.errors[name].map((v, k) => `${k ? "L" : "M"}${x(p.places[k]).toFixed(1)} ${y(v).toFixed(1)}`);
      make("path", { d: path.join(""), class: `curve ${name}` }, svg);
    }
    tick(svg, x(p.places[i]), 12, 234, "from");
    for (const name of ["even", "odd", "mean"]) marker(svg, x(p.places[i]), y(p.errors[name][i]), `dot ${name}`);
    for (const name of ["even", "odd", "mean"]) {
      say(`phases-${name}`, `${p.results[name][i]} (${p.errors_text[name][i]})`);
    }
    say("phases-says", p.down[i] ? "Both are too small here." : "They err in opposite directions here, or not at all.");
    say("o-phases", p.positions[i]);
    drawn("phases", p.positions[i]);
  });

  // ---- one step ---------------------------------------------------------------------------------

  figure("step", () => {
    const stages = document.querySelectorAll("#fig-step .stage");
    const i = at("s-step");
    stages.forEach((stage, k) => {
      stage.hidden = k !== i;
    });
    say("o-step", stages[i].dataset.name);
    byId("step-back").disabled = i === 0;
    byId("step-next").disabled = i === stages.length - 1;
    drawn("step", i);
  });
  for (const [id, by] of [["step-back", -1], ["step-next", 1]]) {
    byId(id)?.addEventListener("click", () => {
      const slider = byId("s-step");
      slider.value = String(Number(slider.value) + by);
      slider.dispatchEvent(new Event("input"));
    });
  }

  // ---- the race ---------------------------------------------------------------------------------

  const race = data.race;
  if (race && byId("fig-race")) {
    const pixels = bytes(race.digits.pixels);
    const size = race.digits.side * race.digits.side;
    const grid = byId("race-digits");
    const head = grid.querySelector("thead tr");
    race.digits.labels.forEach((label, k) => {
      const cell = document.createElement("th");
      cell.scope = "col";
      const picture = document.createElement("canvas");
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", `a handwritten ${label}`);
      paint(picture, pixels.slice(k * size, (k + 1) * size), race.digits.side, race.digits.side);
      cell.appendChild(picture);
      head.appendChild(cell);
    });
    const cells = race.racers.map((racer) => {
      const row = grid.querySelector(`tr[data-key="${racer.key}"]`);
      return race.digits.labels.map(() => row.appendChild(document.createElement("td")));
    });

    figure("race", () => {
      const i = at("s-race");
      const { svg, width } = canvas("race", 240);
      const x = scale(0, race.steps, 54, width - 12);
      const y = scale(0, 1, 206, 12);
      race.scale.forEach(([v, text]) => {
        make("line", { x1: 54, x2: width - 12, y1: y(v), y2: y(v), class: "grid" }, svg);
        words(svg, 48, y(v) + 4, text, "small", "end");
      });
      make("line", { x1: 54, x2: width - 12, y1: y(race.chance), y2: y(race.chance), class: "chance" }, svg);
      words(svg, width - 12, y(race.chance) - 4, "guessing", "small", "end");
      words(svg, width - 12, 230, `${race.steps} steps`, "small", "end");
      race.racers.forEach((racer, r) => {
        const path = (to) => racer.accuracies.slice(0, to)
          .map((v, k) => `${k ? "L" : "M"}${x(race.at[k]).toFixed(1)} ${y(v).toFixed(1)}`).join("");
        make("path", { d: path(racer.accuracies.length), class: `curve faint ${racer.key}` }, svg);
        make("path", { d: path(i + 1), class: `curve ${racer.key}` }, svg);
        marker(svg, x(race.at[i]), y(racer.accuracies[i]), `dot ${racer.key}`);
        say(`race-${racer.key}`, racer.accuracies_text[i]);
        say(`race-loss-${racer.key}`, racer.losses_text[i]);
        racer.guesses[i].forEach((guess, k) => {
          cells[r][k].textContent = String(guess);
          cells[r][k].className = guess === race.digits.labels[k] ? "right" : "wrong";
        });
      });
      say("o-race", race.at[i]);
      drawn("race", race.at[i]);
    });

    let timer = null;
    const button = byId("race-play");
    const stop = () => {
      clearInterval(timer);
      timer = null;
      button.textContent = "Play";
      button.setAttribute("aria-pressed", "false");
    };
    button.addEventListener("click", () => {
      if (timer !== null) {
        stop();
        return;
      }
      const slider = byId("s-race");
      if (slider.value === slider.max) slider.value = slider.min;
      button.textContent = "Stop";
      button.setAttribute("aria-pressed", "true");
      timer = setInterval(() => {
        slider.value = String(Number(slider.value) + 1);
        slider.dispatchEvent(new Event("input"));
        if (slider.value === slider.max) stop();
      }, 250);
      slider.dispatchEvent(new Event("input"));
    });
  }

  // ---- a new width, a new drawing ---------------------------------------------------------------

  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return; // a telephone's address bar changes the height only
    width = window.innerWidth;
    redraw.forEach((draw) => draw());
  });
  document.body.dataset.ready = "yes";
})();
