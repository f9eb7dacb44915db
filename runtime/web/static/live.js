// The live view: one verdict that cannot be taken for another, the picture it rests on, and what came before.

import { get } from "./api.js";
import { ago, byId, clock, h, moment, score, shape, text, times, whole } from "./dom.js";
import { Drawing, sentence } from "./drawing.js";
import { gauge } from "./gauge.js";
import { tile } from "./parts.js";
import { t } from "./strings.js";
import { connecting, judge, rememberSize, showVerdict } from "./verdict.js";

const STRIP = 14;

export function startLive(page) {
  const drawing = new Drawing(byId("picture"));
  byId("picture").dataset.empty = t("No picture yet");
  const live = { camera: null, key: null, size: null, busy: false, strip: "", counted: 0, newest: -1 };
  const switches = [byId("show-heat"), byId("show-regions")];
  const layers = () => drawing.layers(switches[0].checked, switches[1].checked);
  for (const input of switches) input.onchange = layers;
  byId("trigger").onclick = () => trigger(page);
  byId("period").onchange = () => (live.counted = 0);

  // Picture and caption change in the same moment: a caption of the part before names the wrong part.
  function caption() {
    const camera = page.chosen();
    if (camera) showPictureState(page, camera, judge(page, camera), live);
  }

  async function picture(camera) {
    if (live.busy || page.lost || !camera.last || (live.camera === camera.name && live.key === camera.last.key)) return;
    live.busy = true;
    try {
      const width = Math.ceil(byId("picture").clientWidth * devicePixelRatio);
      const path = `api/cameras/${encodeURIComponent(camera.name)}/live?heat=1&width=${width}`;
      const fields = await get(path);
      const found = fields.inspection;
      const label = t("Camera {name}, {verdict}: {what}", { name: camera.name, verdict: t(found.verdict), what: sentence(found, fields.size) });
      await drawing.show({ ...fields, regions: found.regions, threshold: found.threshold, found: found.found }, label);
      Object.assign(live, { camera: camera.name, key: fields.key, size: fields.size, found });
      layers();
      caption();
    } catch { /* the state says what is wrong; the picture stays marked as old */ }
    live.busy = false;
  }

  async function strip() {
    if (page.lost || live.newest === `${page.state.newest}/${page.camera}` || performance.now() - (live.asked ?? -1e4) < 1000) return;
    const wanted = `${page.state.newest}/${page.camera}`;
    live.asked = performance.now();
    try {
      const camera = page.chosen()?.name ?? "";
      const { inspections } = await get(`api/inspections?limit=${STRIP}&camera=${encodeURIComponent(camera)}`);
      live.newest = wanted;
      showStrip(page, live, inspections);
    } catch { /* asked again with the next part */ }
  }

  async function count() {
    if (page.lost || performance.now() - live.counted < 2000) return;
    live.counted = performance.now();
    const camera = page.chosen();
    if (!camera) return;
    const since = periodStart(page);
    try {
      const { counts } = await get(`api/counts?since=${since}&camera=${encodeURIComponent(camera.name)}`);
      showCounters(counts);
    } catch { /* the counters stay as they are */ }
  }

  return {
    render() {
      if (!page.state) return showVerdict(connecting());
      periods(page);
      showCameras(page);
      const camera = page.chosen();
      if (!camera) return showVerdict({ look: "none", kind: "none", word: t("NO CAMERA"), why: t("The station file names no camera.") });
      const look = judge(page, camera);
      showVerdict(look);
      showPictureState(page, camera, look, live);
      showFacts(camera, look);
      byId("trigger").disabled = page.lost || !camera.ready;
      picture(camera);
      strip();
      count();
    },
  };
}

function showPictureState(page, camera, look, live) {
  if (live.size && live.camera) rememberSize(live.camera, live.size);
  const frame = byId("picture");
  const mine = live.camera === camera.name && live.found;
  frame.classList.toggle("empty", !mine);
  // A picture keeps its colours when parts stop: whoever walks up to a line that stands sees what the last part was.
  frame.classList.toggle("old", Boolean(mine) && look.look !== "live" || Boolean(look.missed));
  frame.classList.toggle("other", page.lost || Boolean(look.missed));
  let caption = t("No picture yet");
  if (mine) {
    const age = ago(Math.max(0, page.state.now - live.found.captured) + page.age());
    const part = live.found.part ? t("part {name}", { name: live.found.part }) : live.found.frame;
    caption = `${camera.name} · ${part} · ${clock(live.found.captured)}`;
    if (look.missed) caption = t("The part before: {caption}", { caption });
    else if (look.look !== "live") caption = t("Last picture, {ago}: {caption}", { ago: age, caption });
  }
  text(byId("picture-caption"), caption);
}

function showFacts(camera, look) {
  const found = look.found ?? null;
  gauge(byId("gauge"), { score: found?.score ?? null, review: camera.review, reject: camera.reject, kind: found?.verdict });
  const rows = [
    [t("Score"), found ? `${times(found.score, found.threshold)} · ${score(found.score)}` : "–"],
    [t("Part"), (found ?? look).part ?? found?.frame ?? "–"],
    [t("Time"), (found ?? look).captured ? moment((found ?? look).captured) : "–"],
    [t("Recipe"), camera.recipe],
  ];
  const list = byId("facts");
  if (!list.children.length) list.append(...rows.map(([name]) => h("div", {}, h("dt", {}, name), h("dd", {}))));
  rows.forEach(([, value], row) => text(list.children[row].lastChild, value));
}

function showCameras(page) {
  const list = byId("cameras");
  const cameras = page.state.cameras;
  list.hidden = cameras.length < 2;
  if (list.hidden) return;
  if (list.children.length !== cameras.length) {
    list.replaceChildren(...cameras.map((camera) => h("button", {
      type: "button", role: "tab", class: "camera", onclick: () => page.choose(camera.name),
    }, h("span", { class: "camera-shape" }), h("span", { class: "camera-name" }), h("span", { class: "camera-word" }))));
  }
  cameras.forEach((camera, row) => {
    const look = judge(page, camera);
    const button = list.children[row];
    const kind = `${look.look} ${look.kind}`;
    if (button.dataset.now !== kind) {
      button.dataset.now = kind;
      button.dataset.look = look.look;
      button.dataset.kind = look.kind;
      button.firstChild.replaceChildren(shape(look.kind));
    }
    text(button.children[1], camera.name);
    text(button.children[2], look.look === "past" ? `${look.word} · ${ago(look.age)}` : look.word);
    button.setAttribute("aria-selected", String(camera.name === page.chosen().name));
  });
}

function showStrip(page, live, inspections) {
  const ids = inspections.map((row) => `${row.id}${row.label}`).join();
  if (live.strip === ids && byId("strip").children.length) return;
  live.strip = ids;
  if (inspections.length) byId("strip").replaceChildren(...inspections.map((row) => tile(row, page)));
  else byId("strip").replaceChildren(h("p", { class: "nothing" }, t("None so far. Parts that need a look appear here.")));
}

const NAMES = { shift: t("This shift"), today: t("Today"), start: t("Since start"), day: t("Last 24 hours") };

function periods(page) {
  const select = byId("period");
  if (select.children.length) return;
  select.append(...Object.entries(NAMES).map(([value, name]) => h("option", { value }, name)));
  select.value = page.state.shifts.length ? "shift" : "today";
}

// The newest shift start that has passed; the station gives starts as local times of day.
export function shiftStart(shifts, now = new Date()) {
  let best = null;
  for (const day of [-1, 0]) {
    for (const start of shifts) {
      const [hours, minutes] = start.split(":").map(Number);
      const at = new Date(now.getFullYear(), now.getMonth(), now.getDate() + day, hours, minutes);
      if (at <= now && (!best || at > best)) best = at;
    }
  }
  return best ?? new Date(now.getFullYear(), now.getMonth(), now.getDate());
}

function periodStart(page) {
  const kind = byId("period").value;
  const now = new Date();
  if (kind === "start") return page.state.started - 900; // counts come in quarters of an hour
  if (kind === "day") return now / 1000 - 86400;
  if (kind === "today") return new Date(now.getFullYear(), now.getMonth(), now.getDate()) / 1000;
  return shiftStart(page.state.shifts, now) / 1000;
}

function showCounters(counts) {
  const of = (name) => counts[name] ?? 0;
  const inspected = of("PASS") + of("REVIEW") + of("REJECT");
  const share = inspected ? (100 * of("PASS")) / inspected : null;
  const rows = [
    [t("Inspected"), whole(inspected), ""],
    [t("Pass"), whole(of("PASS")), "PASS"],
    [t("Review"), whole(of("REVIEW")), "REVIEW"],
    [t("Reject"), whole(of("REJECT")), "REJECT"],
    [t("Not inspected"), whole(Math.max(of("dropped"), of("fail-safe"))), of("dropped") ? "fault" : ""],
    [t("Yield"), share === null ? "–" : `${share.toFixed(share > 99.5 && share < 100 ? 2 : 1)} %`, ""],
  ];
  const list = byId("counters");
  if (!list.children.length) {
    list.append(...rows.map(([name, , kind]) => h("div", { class: "counter" },
      h("span", { class: "counter-name" }, kind && kind !== "fault" ? shape(kind) : null, name), h("span", { class: "counter-value" }))));
  }
  rows.forEach(([, value, kind], row) => {
    text(list.children[row].lastChild, value);
    list.children[row].classList.toggle("attention", kind === "fault");
  });
}

async function trigger(page) {
  const told = byId("trigger-told");
  text(told, "");
  try {
    const { part } = await page.change(`api/cameras/${encodeURIComponent(page.chosen().name)}/trigger`, {});
    text(told, t("Part {part} asked for", { part }));
  } catch (error) {
    text(told, error.message);
  }
  setTimeout(() => text(told, ""), 6000);
}
