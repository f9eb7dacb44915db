// One stored inspection: its picture to look into, what was decided and why, and what people say of it.

import { get } from "./api.js";
import { h, moment, pill, score, text } from "./dom.js";
import { Drawing, sentence, sizeOf } from "./drawing.js";
import { gauge } from "./gauge.js";

// What the store calls a label, in the words of the page.
export const LABELS = {
  "confirmed good": "Good part", "false alarm": "False alarm", "confirmed defect": "Real defect", "missed defect": "Missed defect",
};

export function detailView(page, dialog, rows) {
  const now = { id: null, again: null };
  dialog.addEventListener("close", () => {
    if (now.id !== null && location.hash.startsWith("#parts/")) location.hash = now.from ?? "#parts";
    now.id = null;
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches?.("input, select")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  function step(by) {
    const list = rows();
    const next = list[list.findIndex((row) => row.id === now.id) + by];
    if (next) location.hash = `#parts/${next.id}`;
  }

  return async function open(id) {
    if (id === null) {
      now.id = null;
      if (dialog.open) dialog.close();
      return;
    }
    now.id = id;
    if (!dialog.open) {
      now.from = "#parts";
      dialog.showModal();
    }
    try {
      const row = await get(`api/inspections/${id}`);
      if (now.id === id) await show(page, dialog, row, step);
    } catch (error) {
      dialog.replaceChildren(head("Part", dialog, step), h("p", { class: "nothing" }, error.message));
    }
  };
}

function head(title, dialog, step, badge) {
  return h("header", { class: "part-head" },
    h("h2", { id: "part-title" }, title), badge,
    h("span", { class: "part-steps" },
      h("button", { type: "button", class: "quiet icon", "aria-label": "Newer part", onclick: () => step(-1) }, "‹"),
      h("button", { type: "button", class: "quiet icon", "aria-label": "Older part", onclick: () => step(1) }, "›"),
      h("button", { type: "button", class: "quiet icon", "aria-label": "Close", onclick: () => dialog.close() }, "✕")));
}

async function show(page, dialog, row, step) {
  const holder = h("div", { class: "frame part-frame" });
  const drawing = new Drawing(holder, { zoom: true });
  const told = h("p", { class: "told", role: "status" });
  const why = h("p", { class: "part-why" }, sentence(row, null));
  const bar = h("div", { class: "gauge" });
  gauge(bar, { score: row.score, review: reviewOf(page, row), reject: row.threshold, kind: row.verdict });
  const views = viewSwitches(drawing, row, why, told);
  dialog.replaceChildren(
    head(`Part ${row.part ?? row.frame}`, dialog, step, pill(row.verdict, row.verdict)),
    h("div", { class: "part-body" },
      h("div", { class: "part-stage" }, holder, views.bar(page)),
      h("div", { class: "part-side" }, why, bar, facts(row), labels(page, row, told), again(page, row, views, told), told)));
  if (row.picture) await views.use("original");
  else holder.replaceChildren(h("p", { class: "nothing" }, "The picture was not kept, or deleted to make room."));
}

function reviewOf(page, row) {
  const camera = page.state?.cameras.find((one) => one.name === row.source);
  return camera && camera.reject === row.threshold ? camera.review : null; // a record keeps the other threshold alone
}

// Original or heat map below the boxes of the regions; and the drawing of a second judgement in their place.
function viewSwitches(drawing, row, why) {
  const regions = h("input", { type: "checkbox", checked: true });
  const base = `api/inspections/${row.id}`;
  const views = { kind: "original" };
  const inputs = ["original", "heat map"].map((name) => {
    const missing = name === "heat map" && !row.heat; // until the part is judged again
    const input = h("input", { type: "radio", name: "part-layer", value: name, checked: name === "original", disabled: missing });
    input.onchange = () => views.use(name);
    return h("label", {}, input, h("span", {}, name[0].toUpperCase() + name.slice(1)));
  });
  const layers = () => {
    drawing.layers(views.kind === "heat map", regions.checked);
  };
  regions.onchange = layers;
  Object.assign(views, {
    bar: () => h("div", { class: "picture-foot" },
      h("fieldset", { class: "segments" }, h("legend", { class: "hidden-text" }, "Layer"), ...inputs),
      h("label", { class: "switch" }, regions, h("span", {}, "Regions")),
      h("span", { class: "zoomers" },
        h("button", { type: "button", class: "quiet icon", "aria-label": "Zoom out", onclick: () => drawing.zoom(1.5) }, "−"),
        h("button", { type: "button", class: "quiet icon", "aria-label": "Whole picture", onclick: () => drawing.home() }, "⤢"),
        h("button", { type: "button", class: "quiet icon", "aria-label": "Zoom in", onclick: () => drawing.zoom(1 / 1.5) }, "+"))),
    async use(kind) {
      views.kind = kind;
      if (views.fields) return layers();
      if (!views.shown) {
        const size = await sizeOf(`${base}/original`);
        text(why, sentence(row, size));
        const heat = row.heat ? `${base}/heat` : null;
        const fields = { size, crop: row.crop, picture: `${base}/original`, heat, regions: row.regions, threshold: row.threshold, found: row.found };
        await drawing.show(fields, `Part ${row.part ?? row.frame}`);
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
      await drawing.show({ ...fields, regions: again, threshold, found }, "Judged again");
      layers();
    },
  });
  return views;
}

function facts(row) {
  const time = Object.values(row.timings_ms).reduce((sum, value) => sum + value, 0);
  const rows = [
    ["Score", score(row.score)], ["Threshold", score(row.threshold)], ["Time", moment(row.captured)], ["Camera", row.source],
    ["Part", row.part ?? "–"], ["Frame", row.frame], ["Regions", String(row.regions.length)], ["Judged in", `${time.toFixed(0)} ms`],
    ["Bundle", row.bundle], ["Backend", row.backend],
  ];
  return h("dl", { class: "facts" }, ...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function labels(page, row, told) {
  const present = h("span", { class: "label-now" }, row.label ? LABELS[row.label] : "Nobody has looked at it yet");
  const say = async (found) => {
    text(told, "");
    try {
      const { label } = await page.change(`api/inspections/${row.id}/label`, { found });
      text(present, LABELS[label]);
      text(told, "Kept, and written to the log.");
    } catch (error) {
      text(told, error.message);
    }
  };
  return h("section", { class: "say" }, h("h3", {}, "What is it really?"), present,
    h("div", { class: "actions" },
      h("button", { type: "button", class: "quiet", id: "label-good", onclick: () => say("good") }, "Good part"),
      h("button", { type: "button", class: "quiet", id: "label-defect", onclick: () => say("defect") }, "Real defect")));
}

function again(page, row, views, told) {
  const result = h("p", { class: "again-told", role: "status" });
  const judge = async () => {
    text(told, "");
    text(result, "Judging …");
    try {
      const fields = await page.change(`api/inspections/${row.id}/rejudge`, {});
      const found = fields.inspection;
      text(result, `Today's recipe says ${found.verdict}: score ${score(found.score)}, reject over ${score(found.threshold)}.`);
      await views.judged(fields);
    } catch (error) {
      text(result, "");
      text(told, error.message);
    }
  };
  return h("section", { class: "say" }, h("h3", {}, "Judge again"),
    h("p", { class: "hint" }, "With the camera's present recipe and thresholds. Nothing is stored."),
    h("div", { class: "actions" }, h("button", { type: "button", class: "quiet", id: "rejudge", disabled: !row.picture, onclick: judge }, "Judge again")), result);
}
