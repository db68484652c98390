
// Draws what the model believed before the decision that the slider is at.
"use strict";
document.documentElement.classList.add("js");
const SPACE = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [360, 230, 46, 8, 26, 34];

function element(parent, tag, attributes, text) {
  const made = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function ticks(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

const short = (x) => String(Number(x.toPrecision(4))).replace("-", "−");

function reach(step) {
  // The ends of the axis of gains, the same for all panels of a decision.
  const all = [];
  step.mean.forEach((mean, axis) => mean.forEach((m, i) => {
    all.push(m - step.half[axis][i], m + step.half[axis][i]);
  }));
  for (const trial of step.trials) if (trial.gain !== null) all.push(trial.gain);
  const low = Math.min(...all), high = Math.max(...all);
  const room = (high - low || Math.abs(high) || 1) * 0.05;
  return [low - room, high + room];
}

function beyond(data, step) {
  const [low, high] = reach(step);
  const count = data.observed.slice(0, step.seen)
    .filter((o) => o.gain !== null && (o.gain < low || o.gain > high)).length;
  return count ? ` Gains of ${count} earlier trials are beyond the scale.` : "";
}

function draw(panel, data, axis, step, index) {
  const observed = data.observed.slice(0, step.seen);
  const [low, high] = reach(step);
  const x = (u) => LEFT + u * (WIDTH - RIGHT - LEFT);
  const y = (g) => HEIGHT - BOTTOM - ((g - low) / (high - low)) * (HEIGHT - BOTTOM - TOP);
  const at = (u, g) => `${x(u).toFixed(1)} ${y(g).toFixed(1)}`;
  const name = data.axes[axis].name;
  const svg = element(panel, "svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    "aria-label": `Expected gain over ${name}, ${step.title}. ${step.text}`,
  });
  const bottom = HEIGHT - BOTTOM;
  for (const tick of ticks(low, high)) {
    element(svg, "path", { class: "grid", d: `M${LEFT} ${y(tick)}H${WIDTH - RIGHT}` });
    element(svg, "text", { class: "end", x: LEFT - 6, y: y(tick) + 3.5 }, short(tick));
  }
  for (const [u, label] of data.axes[axis].ticks) {
    element(svg, "path", { class: "tick", d: `M${x(u)} ${bottom}v4` });
    element(svg, "text", { class: "mid", x: x(u), y: bottom + 15 }, label);
  }
  element(svg, "path", { class: "axis", d: `M${LEFT} ${bottom}H${WIDTH - RIGHT}` });
  element(svg, "text", { class: "name", x: 0, y: 12 }, `gain (${data.unit})`);
  element(svg, "text", { class: "name end", x: WIDTH - RIGHT, y: HEIGHT - 4 }, name);

  const mean = step.mean[axis], half = step.half[axis], last = mean.length - 1;
  const upper = mean.map((m, i) => at(i / last, m + half[i]));
  const lower = mean.map((m, i) => at(i / last, m - half[i])).reverse();
  element(svg, "path", { class: "band c0", d: `M${upper.concat(lower).join("L")}Z` });
  element(svg, "path", {
    class: "line c0", d: `M${mean.map((m, i) => at(i / last, m)).join("L")}`,
    "data-mean": JSON.stringify(mean),
  });
  for (const o of observed) {
    if (o.gain === null || o.gain < low || o.gain > high) continue;
    const faint = Math.max(0.15, 1 / (1 + 0.5 * (step.epoch - o.epoch)));
    element(svg, "circle", {
      class: "dot ink", r: 2.6, cx: x(o.at[axis]), cy: y(o.gain), opacity: faint,
    });
  }
  step.trials.forEach((trial, i) => {
    const look = trial.role === "incumbent" ? "c2" : "c1";
    const u = trial.at[axis];
    element(svg, "path", { class: `line thin dashed ${look}`, d: `M${x(u)} ${TOP}V${bottom}` });
    if (trial.gain === null) return;
    element(svg, "circle", {
      class: `ring ${look}`, r: trial.taken ? 5.5 : 4, cx: x(u), cy: y(trial.gain),
      "data-gain": trial.gain,
    });
  });
  svg.dataset.step = index;
}

for (const figure of document.querySelectorAll(".dialled")) {
  const data = JSON.parse(document.getElementById(figure.dataset.source).textContent);
  for (const step of data.steps) {
    for (const name of ["mean", "half"]) {
      step[name] = step[name].map((axis) => axis.map((x) => x * step.grain));
    }
  }
  const dial = figure.querySelector("input"), shown = figure.querySelector("output");
  const told = figure.querySelector(".told"), panels = figure.querySelector(".panels");
  const show = () => {
    const index = Number(dial.value), step = data.steps[index];
    shown.textContent = step.title;
    dial.setAttribute("aria-valuetext", step.title);
    told.textContent = step.text + beyond(data, step);
    panels.replaceChildren();
    data.axes.forEach((_, axis) => draw(panels, data, axis, step, index));
  };
  figure.hidden = false;
  dial.addEventListener("input", show);
  show();
}
