// One stored inspection: its picture to look into, what was decided and why, and what people say of it.

import { get } from "./api.js";
import { h, moment, pill, score, text, times } from "./dom.js";
import { Drawing, sentence, sizeOf } from "./drawing.js";
import { gauge } from "./gauge.js";
import { LABELS, labelling } from "./labelling.js";
import { t } from "./strings.js";

export { LABELS };

// `list.rows()` are the parts that can be stepped through, newest first; `list.more()` fetches older ones.
export function detailView(page, dialog, list) {
  const now = { id: null, keys: {} };
  const people = labelling(page);
  dialog.addEventListener("close", () => {
    if (now.id !== null && location.hash.startsWith("#parts/")) location.hash = now.from ?? "#parts";
    now.id = null;
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches?.("select, input:not([type=radio], [type=checkbox])")) return;
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const key = { ArrowLeft: "newer", ArrowRight: "older", n: "older" }[event.key] ?? event.key.toLowerCase();
    const act = { newer: () => step(-1), older: () => step(1), ...now.keys }[key];
    if (!act || event.key.startsWith("Arrow") && event.target.matches?.("input")) return;
    event.preventDefault();
    act();
  });

  async function step(by) {
    const find = () => list.rows()[list.rows().findIndex((row) => row.id === now.id) + by];
    let next = find();
    if (!next && by > 0 && await list.more()) next = find();
    if (next) location.hash = `#parts/${next.id}`;
    return Boolean(next);
  }

  return async function open(id) {
    if (id === null) {
      now.id = null;
      if (dialog.open) dialog.close();
      return;
    }
    now.id = id;
    now.keys = {};
    if (!dialog.open) {
      now.from = "#parts";
      dialog.showModal();
    }
    try {
      const row = await get(`api/inspections/${id}`);
      if (now.id === id) now.keys = await show(page, dialog, row, step, people);
    } catch (error) {
      dialog.replaceChildren(head(t("Part"), dialog, step), h("p", { class: "nothing" }, error.message));
    }
  };
}

function head(title, dialog, step, badge) {
  return h("header", { class: "part-head" },
    h("h2", { id: "part-title" }, title), badge,
    h("span", { class: "part-steps" },
      h("button", { type: "button", class: "quiet icon", id: "newer", "aria-label": t("Newer part"), onclick: () => step(-1) }, "‹"),
      h("button", { type: "button", class: "quiet icon", id: "older", "aria-label": t("Older part"), onclick: () => step(1) }, "›"),
      h("button", { type: "button", class: "quiet icon", id: "close-part", "aria-label": t("Close"), onclick: () => dialog.close() }, "✕")));
}

// Shows the part and returns what keys do.
async function show(page, dialog, row, step, people) {
  const holder = h("div", { class: "frame part-frame" });
  const drawing = new Drawing(holder, { zoom: true });
  const told = h("p", { class: "told", role: "status" });
  const why = h("p", { class: "part-why" }, sentence(row, null));
  const bar = h("div", { class: "gauge" });
  gauge(bar, { score: row.score, review: reviewOf(page, row), reject: row.threshold, kind: row.verdict });
  const views = viewSwitches(drawing, row, why, told);
  const labels = await people.section(row, told, step);
  dialog.replaceChildren(
    head(t("Part {name}", { name: row.part ?? row.frame }), dialog, step, pill(row.verdict, t(row.verdict))),
    h("div", { class: "part-body" },
      h("div", { class: "part-stage" }, holder, views.bar(page)),
      h("div", { class: "part-side" }, why, labels.section, told, bar, facts(row), again(page, row, views, told))));
  const picture = async () => {
    if (row.picture) await views.use(views.kind);
    else holder.replaceChildren(h("p", { class: "nothing" }, t("The picture was not kept, or deleted to make room.")));
  };
  picture().catch((error) => text(told, error.message));
  return { ...labels.keys, "+": () => drawing.closer(), "-": () => drawing.zoom(1.5), 0: () => drawing.home(), h: views.toggle };
}

function reviewOf(page, row) {
  const camera = page.state?.cameras.find((one) => one.name === row.source);
  return camera && camera.reject === row.threshold ? camera.review : null; // a record keeps the other threshold alone
}

// Original or heat map below the boxes of the regions; and the drawing of a second judgement in their place.
function viewSwitches(drawing, row, why) {
  const regions = h("input", { type: "checkbox", checked: true });
  const base = `api/inspections/${row.id}`;
  const views = { kind: row.heat ? "heat map" : "original" };
  const inputs = [["original", t("Original")], ["heat map", t("Heat map")]].map(([name, words]) => {
    const missing = name === "heat map" && !row.heat; // until the part is judged again
    const input = h("input", { type: "radio", name: "part-layer", value: name, checked: name === views.kind, disabled: missing });
    input.onchange = () => views.use(name);
    return h("label", {}, input, h("span", {}, words));
  });
  const layers = () => {
    drawing.layers(views.kind === "heat map", regions.checked);
  };
  regions.onchange = layers;
  Object.assign(views, {
    bar: () => h("div", { class: "picture-foot" },
      h("fieldset", { class: "segments" }, h("legend", { class: "hidden-text" }, t("Layer")), ...inputs),
      h("label", { class: "switch" }, regions, h("span", {}, t("Regions"))),
      h("span", { class: "zoomers" },
        h("button", { type: "button", class: "quiet icon", id: "zoom-out", "aria-label": t("Zoom out"), onclick: () => drawing.zoom(1.5) }, "−"),
        h("button", { type: "button", class: "quiet icon", id: "zoom-home", "aria-label": t("Whole picture"), onclick: () => drawing.home() }, "⤢"),
        h("button", { type: "button", class: "quiet icon", id: "zoom-in", "aria-label": t("Zoom in"), onclick: () => drawing.closer() }, "+"))),
    toggle() {
      const other = inputs[views.kind === "heat map" ? 0 : 1].firstChild;
      if (!other.disabled) other.click();
    },
    async use(kind) {
      views.kind = kind;
      if (views.fields) return layers();
      if (!views.shown) {
        const size = await sizeOf(`${base}/original`);
        text(why, sentence(row, size));
        const heat = row.heat ? `${base}/heat` : null;
        const fields = { size, crop: row.crop, picture: `${base}/original`, heat, regions: row.regions, threshold: row.threshold, found: row.found };
        await drawing.show(fields, t("Part {name}", { name: row.part ?? row.frame }));
        views.shown = true;
      }
      layers();
    },
    async judged(fields) {
      views.fields = fields;
      views.kind = "heat map";
      inputs[1].firstChild.disabled = false;
      inputs[1].firstChild.checked = true;
      const { regions: again, threshold, found } = fields.inspection;
      await drawing.show({ ...fields, regions: again, threshold, found }, t("Inspected again"));
      layers();
    },
  });
  return views;
}

function facts(row) {
  const time = Object.values(row.timings_ms).reduce((sum, value) => sum + value, 0);
  const rows = [
    [t("Score"), `${times(row.score, row.threshold)} · ${score(row.score)}`], [t("Threshold"), score(row.threshold)],
    [t("Time"), moment(row.captured)], [t("Camera"), row.source], [t("Part"), row.part ?? "–"], [t("Frame"), row.frame],
    [t("Regions"), String(row.regions.length)], [t("Took"), `${time.toFixed(0)} ms`],
    [t("Bundle"), row.bundle], [t("Backend"), row.backend],
  ];
  return h("dl", { class: "facts" }, ...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function again(page, row, views, told) {
  const result = h("p", { class: "again-told", role: "status" });
  const judge = async () => {
    text(told, "");
    text(result, t("Inspecting …"));
    try {
      const fields = await page.change(`api/inspections/${row.id}/rejudge`, {});
      const found = fields.inspection;
      text(result, t("Today's recipe says {verdict}: score {score}, reject over {reject}.",
        { verdict: t(found.verdict), score: score(found.score), reject: score(found.threshold) }));
      await views.judged(fields);
    } catch (error) {
      text(result, "");
      text(told, error.message);
    }
  };
  return h("section", { class: "say" }, h("h3", {}, t("Inspect again")),
    h("p", { class: "hint" }, t("With the camera's present recipe and thresholds. Nothing is stored.")),
    h("div", { class: "actions" }, h("button", { type: "button", class: "quiet", id: "rejudge", disabled: !row.picture, onclick: judge }, t("Inspect again"))), result);
}
