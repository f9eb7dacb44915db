// Scores of many parts as bars, with two lines to drag. Heights are square roots, so that single rejects are seen too.

import { s, score, whole } from "./dom.js";
import { t } from "./strings.js";

const WIDTH = 1000;
const HEIGHT = 300;
const FLOOR = 262; // where the bars stand
const TOP = 46;
const MOST_BINS = 60;
const HEAD = 100; // width of a handle
const APART = 108; // least distance between the middles of two

export class Histogram {
  constructor(holder) {
    this.onstart = () => {}; // a handle is taken: by pointer, or by keyboard focus
    this.onmove = () => {};
    this.most = 1;
    this.bars = s("g", { class: "bars" });
    this.axis = s("g", { class: "axis" });
    this.ghosts = s("g", { class: "ghosts" });
    this.lines = { review: this.line("review"), reject: this.line("reject") };
    this.svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "histogram-svg", preserveAspectRatio: "xMidYMid meet", role: "group", "aria-label": t("Scores of the last parts with thresholds") },
      this.bars, this.axis, this.ghosts, this.lines.review, this.lines.reject);
    holder.replaceChildren(this.svg);
    new ResizeObserver(() => this.fit()).observe(holder);
  }

  // Text keeps its size on every screen: a narrow drawing gets fewer units, not smaller ones.
  fit() {
    const area = this.svg.getBoundingClientRect();
    if (!area.height) return;
    const units = (HEIGHT * area.width) / area.height;
    if (Math.abs(units - (this.units ?? 0)) < 2) return;
    this.units = units;
    this.svg.setAttribute("viewBox", `0 0 ${units} ${HEIGHT}`);
    if (this.last) this.show(...this.last);
  }

  line(name) {
    const group = s("g", { class: `line line-${name}`, role: "slider", tabindex: 0, "aria-label": name === "review" ? t("review threshold") : t("reject threshold") },
      s("rect", { class: "line-grip", x: -18, y: 0, width: 36, height: FLOOR }),
      s("line", { y1: TOP - 12, y2: FLOOR }), s("rect", { class: "line-head", x: -HEAD / 2, y: 2, width: HEAD, height: 32, rx: 8 }),
      s("text", { y: 24, "text-anchor": "middle" }, t(name)));
    group.addEventListener("pointerdown", (event) => {
      group.setPointerCapture(event.pointerId);
      group.focus();
      event.preventDefault();
      this.onstart(name);
    });
    group.addEventListener("focus", () => this.onstart(name));
    group.addEventListener("pointermove", (event) => group.hasPointerCapture(event.pointerId) && this.onmove(name, this.value(event.clientX)));
    group.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.onmove(name, Math.max(0, this.limits[name] + (step * this.most) / 500));
    });
    return group;
  }

  value(clientX) {
    const area = this.svg.getBoundingClientRect();
    const share = (clientX - area.left) / area.width;
    return Math.max(0, Math.min(1, share)) * this.most;
  }

  x(value) {
    return (value / this.most) * (this.units ?? WIDTH);
  }

  show(rows, limits, present) {
    this.last = [rows, limits, present];
    this.limits = limits;
    const scores = rows.map((row) => row.score).sort((a, b) => a - b);
    const high = scores.length ? scores[Math.floor(0.995 * (scores.length - 1))] : 0;
    if (!this.svg.querySelector(":active")) this.most = Math.max(1.35 * present.reject, 1.1 * high, 1.1 * limits.reject, 1.1 * limits.review) || 1;
    const bins = Math.round(Math.min(MOST_BINS, Math.max(24, (this.units ?? WIDTH) / 20)));
    const counts = Array.from({ length: bins }, () => ({ pass: 0, review: 0, reject: 0 }));
    for (const value of scores) {
      const kind = value > limits.reject ? "reject" : value > limits.review ? "review" : "pass";
      counts[Math.min(bins - 1, Math.max(0, Math.floor((value / this.most) * bins)))][kind] += 1;
    }
    const totals = counts.map((kinds) => kinds.pass + kinds.review + kinds.reject);
    const tallest = Math.max(1, ...totals);
    const wide = (this.units ?? WIDTH) / bins;
    // A bar is as tall as its parts are many; its colours are what becomes of them.
    this.bars.replaceChildren(...counts.flatMap((kinds, bin) => {
      const tall = Math.max(3, (FLOOR - TOP) * Math.sqrt(totals[bin] / tallest));
      const words = t("{count} with a score around {score}", { count: totals[bin], score: score(((bin + 0.5) / bins) * this.most) });
      let floor = FLOOR;
      return Object.entries(kinds).filter(([, count]) => count).map(([kind, count]) => {
        const height = (tall * count) / totals[bin];
        floor -= height;
        return s("rect", { class: `bar-${kind}`, x: bin * wide + 0.12 * wide, width: 0.76 * wide, y: floor, height, rx: 2 }, s("title", {}, words));
      });
    }));
    this.scale(tallest);
    this.ghosts.replaceChildren(...Object.values(present).map((value) => s("line", { x1: this.x(value), x2: this.x(value), y1: TOP - 8, y2: FLOOR })));
    this.place(limits);
  }

  place(limits) {
    for (const [name, group] of Object.entries(this.lines)) {
      group.setAttribute("transform", `translate(${this.x(limits[name]).toFixed(1)} 0)`);
      group.setAttribute("aria-valuenow", String(limits[name]));
      group.setAttribute("aria-valuetext", score(limits[name]));
      group.setAttribute("aria-valuemin", "0");
      group.setAttribute("aria-valuemax", String(this.most));
    }
    // The two heads stand side by side where their lines are close, and inside the drawing.
    const [left, right] = this.x(limits.review) <= this.x(limits.reject) ? ["review", "reject"] : ["reject", "review"];
    const units = this.units ?? WIDTH;
    const aside = Math.max(0, (APART - (this.x(limits[right]) - this.x(limits[left]))) / 2);
    const first = clamp(this.x(limits[left]) - aside, HEAD / 2, units - HEAD / 2 - APART);
    const second = clamp(this.x(limits[right]) + aside, first + APART, units - HEAD / 2);
    for (const [name, middle] of [[left, first], [right, second]]) {
      const from = middle - this.x(limits[name]);
      this.lines[name].querySelector(".line-head").setAttribute("x", String(from - HEAD / 2));
      this.lines[name].querySelector("text").setAttribute("x", String(from));
    }
  }

  scale(tallest) {
    const units = this.units ?? WIDTH;
    const steps = Math.max(4, Math.round(units / 160));
    const rough = this.most / steps;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
    const marks = [];
    for (let value = 0; value <= this.most; value += step) marks.push(value);
    this.axis.replaceChildren(
      s("line", { x1: 0, x2: units, y1: FLOOR, y2: FLOOR }),
      ...heights(tallest).flatMap((count) => {
        const y = FLOOR - (FLOOR - TOP) * Math.sqrt(count / tallest);
        return [s("line", { class: "level", x1: 0, x2: units, y1: y, y2: y }), s("text", { x: units - 4, y: y + 18, "text-anchor": "end" }, count === 1 ? t("1 part") : t("{n} parts", { n: whole(count) }))];
      }),
      ...marks.map((value) => s("text", { x: Math.min(units - 4, Math.max(4, this.x(value))), y: FLOOR + 26, "text-anchor": value === 0 ? "start" : "middle" }, String(Number(value.toPrecision(3))))));
  }
}

// Up to three counts that the bars are read by; on a scale of square roots a quarter of them is half as high.
function heights(tallest) {
  return [...new Set([1, Math.round(tallest / 4), tallest])].filter((count) => count === tallest || (count > 0 && count < 0.4 * tallest && (count !== 1 || tallest < 30)));
}

const clamp = (value, least, most) => Math.max(least, Math.min(most, value));
