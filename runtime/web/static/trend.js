// How it goes: parts by verdict over time, where on the part rejects lie, and whether scores drift.

import { get } from "./api.js";
import { byId, clock, h, moment, s, score, text, whole } from "./dom.js";
import { placeName } from "./drawing.js";
import { t } from "./strings.js";

const SPANS = { 8: t("last 8 hours"), 24: t("last 24 hours"), 168: t("last 7 days"), 672: t("last 4 weeks") };
const STEP = { 8: 1, 24: 1, 168: 6, 672: 24 }; // hours of a bar
const KINDS = ["REJECT", "REVIEW"];
const [WIDTH, HEIGHT, LEFT, FLOOR, TOP] = [1000, 260, 64, 222, 14];

export function startTrend(page) {
  const view = byId("view-trend");
  const now = { hours: 8, asked: -1e6, camera: null };
  const span = h("select", { id: "trend-span", onchange: () => ((now.hours = Number(span.value)), load()) },
    ...Object.entries(SPANS).map(([value, name]) => h("option", { value }, name)));
  const camera = h("select", { id: "trend-camera", onchange: () => page.choose(camera.value) });
  const parts = Object.fromEntries(["bars", "places", "scores", "quality"].map((name) => [name, h("div", { class: "plot", id: `trend-${name}` })]));
  const told = Object.fromEntries(["bars", "places", "scores", "quality"].map((name) => [name, h("p", { class: "hint", id: `trend-${name}-told` })]));
  view.replaceChildren(
    h("div", { class: "card trend-card" },
      h("div", { class: "filters" }, h("h2", {}, t("Rejects and reviews over time")), h("label", { class: "field-inline" }, t("Camera"), " ", camera), span),
      told.bars, parts.bars),
    h("div", { class: "trend-pair" },
      h("div", { class: "card trend-card" }, h("div", { class: "filters" }, h("h2", {}, t("Where rejects lie"))), told.places, parts.places),
      h("div", { class: "card trend-card" }, h("div", { class: "filters" }, h("h2", {}, t("Scores of passes"))), told.scores, parts.scores)),
    h("div", { class: "card trend-card" }, h("div", { class: "filters" }, h("h2", {}, t("Pictures"))), told.quality, parts.quality));

  async function load() {
    const name = page.chosen()?.name;
    if (!name) return;
    Object.assign(now, { asked: performance.now(), camera: name });
    try {
      const found = await get(`api/cameras/${encodeURIComponent(name)}/trend?hours=${now.hours}`);
      if (now.camera !== name) return;
      bars(parts.bars, told.bars, found, STEP[now.hours]);
      places(parts.places, told.places, found);
      scores(parts.scores, told.scores, found);
      quality(parts.quality, told.quality, found);
    } catch (error) {
      text(told.bars, error.message);
    }
  }

  return {
    open() {
      if (page.state) load();
    },
    render() {
      if (!page.state || page.lost) return;
      const names = page.state.cameras.map((one) => one.name);
      if (camera.children.length !== names.length) camera.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
      if (document.activeElement !== camera) camera.value = page.chosen()?.name;
      if (page.chosen()?.name !== now.camera || performance.now() - now.asked > 10000) load();
    },
  };
}

// Quarters of an hour summed to bars of `hours`, by local time.
export function grouped({ quarters, since, until }, hours) {
  const found = new Map();
  const first = startOf(since, hours);
  for (let at = first; at < until; at += 3600 * hours) found.set(startOf(at + 1800, hours), {});
  for (const [start, outcome, number] of quarters) {
    const bar = found.get(startOf(start, hours)) ?? {};
    bar[outcome] = (bar[outcome] ?? 0) + number;
    found.set(startOf(start, hours), bar);
  }
  return [...found].sort(([one], [other]) => one - other).map(([start, counts]) => ({ start, counts }));
}

function startOf(seconds, hours) {
  const then = new Date(seconds * 1000);
  then.setHours(then.getHours() - (then.getHours() % hours), 0, 0, 0);
  return then / 1000;
}

function bars(holder, told, found, hours) {
  const rows = grouped(found, hours);
  const number = (row, kind) => row.counts[kind] ?? 0;
  const all = (row) => KINDS.concat("PASS").reduce((sum, kind) => sum + number(row, kind), 0);
  const total = rows.reduce((sum, row) => sum + all(row), 0);
  const rejected = rows.reduce((sum, row) => sum + number(row, "REJECT"), 0);
  text(told, total
    ? t("{parts} parts, {rejects} rejected ({share} %). A bar holds {hours} h.", { parts: whole(total), rejects: whole(rejected), share: ((100 * rejected) / total).toFixed(1), hours })
    : t("No part was inspected in this time."));
  const most = Math.max(1, ...rows.map((row) => number(row, "REJECT") + number(row, "REVIEW")));
  const wide = (WIDTH - LEFT) / rows.length;
  const tall = (count) => ((FLOOR - TOP) * count) / most;
  const drawn = rows.flatMap((row, place) => {
    let floor = FLOOR;
    return KINDS.map((kind) => {
      const height = tall(number(row, kind));
      floor -= height;
      const words = { time: moment(row.start), rejects: number(row, "REJECT"), reviews: number(row, "REVIEW"), parts: all(row) };
      return s("rect", { class: `bar-${kind.toLowerCase()}`, "data-kind": kind, "data-count": number(row, kind), x: LEFT + wide * (place + 0.12), width: 0.76 * wide, y: floor, height },
        s("title", {}, t("{time}: {rejects} rejected, {reviews} to review, of {parts}", words)));
    });
  });
  const every = Math.ceil(rows.length / 8);
  const names = rows.map((row, place) => place % every ? null : s("text", { x: LEFT + wide * (place + 0.5), y: FLOOR + 24, "text-anchor": "middle" },
    hours >= 24 ? day(row.start) : clock(row.start).slice(0, 5)));
  holder.replaceChildren(plot(t("Rejects and reviews over time"), ...levels(most, (count) => FLOOR - tall(count), String), ...drawn, ...names.filter(Boolean)));
}

const day = (seconds) => new Date(seconds * 1000).toLocaleDateString(undefined, { day: "numeric", month: "short" });

function places(holder, told, { places: cells, rejects }) {
  text(told, cells.length ? t("Of the last {n} rejects, by their worst region, most frequent first.", { n: rejects }) : t("No reject with a clear place in this time."));
  const total = cells.reduce((sum, [, , count]) => sum + count, 0);
  let sum = 0;
  holder.replaceChildren(h("ol", { class: "pareto" }, ...cells.map(([row, column, count]) => {
    sum += count;
    const map = s("svg", { viewBox: "0 0 34 34", class: "place", "aria-hidden": "true" }, ...[0, 1, 2].flatMap((y) => [0, 1, 2].map((x) =>
      s("rect", { class: y === row && x === column ? "hit" : "cell", x: 1 + 11 * x, y: 1 + 11 * y, width: 10, height: 10 }))));
    const share = s("svg", { viewBox: "0 0 100 10", class: "share", preserveAspectRatio: "none", "aria-hidden": "true" },
      s("rect", { class: "bar-reject", width: (100 * count) / cells[0][2], height: 10 }));
    return h("li", {}, map, h("span", { class: "place-name" }, placeName(row, column)), share, h("strong", {}, whole(count)), h("span", { class: "sum" }, `${Math.round((100 * sum) / total)} %`));
  })));
}

function scores(holder, told, { scores: points, review, reject, band, reference, since, until }) {
  if (!points.length) {
    text(told, t("No pass by the present bundle in this time."));
    return holder.replaceChildren();
  }
  text(told, band
    ? t("Line: median of passes, as a multiple of the reject threshold. Grey: the middle 90 % of the {reference}.", { reference: t(reference) })
    : t("Line: median of passes, as a multiple of the reject threshold. What they are compared with is not known yet."));
  const unit = reject > 0 ? reject : 1;
  const most = Math.max(1.1 * reject, ...points.map(([, value]) => 1.1 * value), band ? 1.1 * band[1] : 0) / unit;
  const y = (value) => FLOOR - ((FLOOR - TOP) * Math.max(0, value / unit)) / most;
  const x = (moment) => LEFT + ((WIDTH - LEFT - 12) * (moment - since)) / (until - since);
  const line = points.map(([moment, value]) => `${x(moment).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const limits = [["review", review], ["reject", reject]].map(([name, value]) => s("line", { class: `limit limit-${name}`, x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) }, s("title", {}, `${t(name)} ${score(value)}`)));
  holder.replaceChildren(plot(t("Scores of passes"),
    band ? s("rect", { class: "band", x: LEFT, width: WIDTH - LEFT, y: y(band[1]), height: y(band[0]) - y(band[1]) }) : null,
    ...levels(most, (value) => y(value * unit), (value) => `${value}×`), ...limits,
    s("polyline", { class: "median", points: line }),
    ...points.map(([at, value, count]) => s("circle", { class: "median-point", cx: x(at), cy: y(value), r: 4 },
      s("title", {}, t("{time}: median {score} of {n} passes", { time: moment(at), score: score(value), n: count })))),
    s("text", { x: LEFT, y: FLOOR + 24 }, moment(since)), s("text", { x: WIDTH - 12, y: FLOOR + 24, "text-anchor": "end" }, t("now"))));
}

const QUALITIES = [t("Brightness"), t("Contrast"), t("Sharpness")];

// Of one picture a minute: a lamp that ages and a lens that gathers dust are seen here before parts are judged wrongly.
function quality(holder, told, { quality: rows, since, until }) {
  text(told, rows.length
    ? t("Of one picture a minute since the station started: median grey level, grey levels between dark and bright, and sharpness as health.blur in the station file has it.")
    : t("No picture was inspected in this time."));
  holder.replaceChildren(...(rows.length ? QUALITIES : []).map((name, place) => {
    const values = rows.map((row) => row[place + 1]);
    const most = 1.15 * Math.max(...values, 1);
    const [wide, tall] = [320, 96];
    const x = (at) => (wide * (at - since)) / (until - since);
    const y = (value) => tall - (tall * value) / most;
    const line = rows.map((row, at) => `${x(row[0]).toFixed(1)},${y(values[at]).toFixed(1)}`).join(" ");
    return h("figure", { class: "quality" },
      h("figcaption", {}, name, " ", h("strong", {}, score(values.at(-1))), " ", h("span", {}, t("from {least} to {most}", { least: score(Math.min(...values)), most: score(Math.max(...values)) }))),
      s("svg", { viewBox: `0 -4 ${wide} ${tall + 8}`, role: "img", "aria-label": name },
        s("line", { class: "level", x1: 0, x2: wide, y1: tall, y2: tall }), s("polyline", { class: "median", points: line }),
        s("circle", { class: "median-point", cx: x(rows.at(-1)[0]), cy: y(values.at(-1)), r: 4 })));
  }));
}

// Lines across with their values, three or four of them.
function levels(most, y, name) {
  const rough = most / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max([1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough), name === String ? 1 : 0);
  const values = [];
  for (let value = 0; value <= most * 1.001; value += step) values.push(Number(value.toPrecision(3)));
  return values.flatMap((value) => [
    s("line", { class: "level", x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) }),
    s("text", { x: LEFT - 8, y: y(value) + 6, "text-anchor": "end" }, name(value)),
  ]);
}

function plot(label, ...children) {
  return s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot-svg", role: "img", "aria-label": label }, ...children);
}
