// Building the page without markup from strings: whatever a camera or a part is called stays text.

import { t } from "./strings.js";

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

export function text(element, value) {
  if (element.textContent !== value) element.textContent = value; // screen readers hear changes alone
}

// A shape for each verdict and state, so that none rests on colour.
const PATHS = {
  PASS: ["circle", "M30 52 L45 67 L72 36"],
  REVIEW: ["triangle", "M50 38 V60 M50 72 V72.5"],
  REJECT: ["octagon", "M34 34 L66 66 M66 34 L34 66"],
  ok: ["circle", "M30 52 L45 67 L72 36"],
  warning: ["triangle", "M50 38 V60 M50 72 V72.5"],
  fault: ["octagon", "M50 28 V56 M50 71 V71.5"],
  none: ["square", "M32 50 H68"],
};
const OUTLINES = {
  circle: "M50 4 A46 46 0 1 1 49.99 4 Z",
  triangle: "M50 8 L96 90 H4 Z",
  octagon: "M31 4 H69 L96 31 V69 L69 96 H31 L4 69 V31 Z",
  square: "M16 8 H84 Q92 8 92 16 V84 Q92 92 84 92 H16 Q8 92 8 84 V16 Q8 8 16 8 Z",
};

export function shape(kind) {
  const [outline, sign] = PATHS[kind] ?? PATHS.none;
  return s("svg", { viewBox: "0 0 100 100", class: `shape shape-${kind}`, "aria-hidden": "true", focusable: "false" },
    s("path", { class: "shape-body", d: OUTLINES[outline] }),
    s("path", { class: "shape-sign", d: sign }));
}

export const WORD = { ok: t("OK"), warning: t("Warning"), fault: t("Fault") };

export function pill(kind, word) {
  return h("span", { class: `pill pill-${kind}` }, shape(kind), h("span", {}, word));
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DATE = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

export function clock(seconds) {
  return CLOCK.format(new Date(seconds * 1000));
}

export function moment(seconds) {
  const then = new Date(seconds * 1000);
  const today = new Date().toDateString() === then.toDateString();
  return today ? CLOCK.format(then) : `${DAY.format(then)}, ${CLOCK.format(then)}`;
}

export function dated(seconds) {
  const then = new Date(seconds * 1000);
  return `${DATE.format(then)}, ${CLOCK.format(then)}`;
}

// How this browser's clock differs from UTC, and another one's: UTC+01:00.
export function zone(seconds = -60 * new Date().getTimezoneOffset()) {
  const minutes = Math.round(Math.abs(seconds) / 60);
  return `UTC${seconds < 0 ? "−" : "+"}${String(Math.floor(minutes / 60)).padStart(2, "0")}:${String(minutes % 60).padStart(2, "0")}`;
}

export function ago(seconds) {
  return seconds < 1 ? t("just now") : t("{time} ago", { time: lasting(seconds) });
}

export function lasting(seconds) {
  if (seconds < 100) return t("{n} s", { n: Math.floor(seconds) });
  if (seconds < 5400) return t("{n} min", { n: Math.round(seconds / 60) });
  if (seconds < 129600) return t("{n} h", { n: Math.round(seconds / 3600) });
  return t("{n} days", { n: Math.round(seconds / 86400) });
}

export function score(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 1 : size >= 1 ? 2 : 4);
}

// A score as a multiple of the threshold over which a part is rejected: 1.31× says more than 12.06.
export function times(value, threshold) {
  return value === null || value === undefined || !(threshold > 0) ? score(value) : `${(value / threshold).toFixed(2)}×`;
}

export const whole = (value) => Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
