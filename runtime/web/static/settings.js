// Thresholds with a preview on what was measured, and the recipe.

import { get } from "./api.js";
import { byId, h, text } from "./dom.js";
import { Histogram } from "./histogram.js";
import { tile } from "./parts.js";
import { preview, verdictOf } from "./preview.js";

const COUNTS = [100, 500, 2000];
const MOST_TILES = 8;

export function startSettings(page) {
  const view = byId("view-settings");
  const set = { camera: null, last: 500, rows: [], review: 0, reject: 0, touched: false, loaded: "" };
  const parts = build(view, set, { choose: (name) => page.choose(name), reload: () => load(), apply, reset, recipe });

  function show() {
    const camera = page.chosen();
    const now = { review: camera.review, reject: camera.reject };
    const then = { review: set.review, reject: set.reject };
    parts.histogram.show(set.rows, then, now);
    for (const name of ["review", "reject"]) {
      if (document.activeElement !== parts[name]) parts[name].value = tidy(set[name]);
    }
    const told = preview(set.rows, now, then);
    text(parts.told, told.main);
    text(parts.labels, told.labels);
    const same = tidy(set.review) === tidy(now.review) && tidy(set.reject) === tidy(now.reject);
    parts.apply.disabled = same || page.lost;
    parts.reset.disabled = same;
    changed(set.rows, now, then);
  }

  // The parts that would be judged otherwise, so that somebody can look before deciding.
  function changed(rows, now, then) {
    const others = rows.filter((row) => verdictOf(row, now) !== verdictOf(row, then));
    const shown = others.slice(0, MOST_TILES);
    const key = shown.map((row) => `${row.id}${verdictOf(row, then)}`).join();
    parts.changed.hidden = !others.length;
    text(parts.changedHead, `${others.length} of these parts would be judged otherwise${others.length > MOST_TILES ? ", the newest:" : ":"}`);
    if (parts.tiles.dataset.key === key) return;
    parts.tiles.dataset.key = key;
    parts.tiles.replaceChildren(...shown.map((row) => {
      const made = tile({ ...row, part: `${row.verdict} → ${verdictOf(row, then)}`, label: null });
      return made;
    }));
  }

  async function load() {
    const camera = page.chosen();
    set.camera = camera.name;
    set.loaded = performance.now();
    try {
      const { scores } = await get(`/api/cameras/${encodeURIComponent(camera.name)}/scores?last=${set.last}`);
      set.rows = scores;
      if (!set.touched) reset();
      else show();
    } catch (error) {
      text(parts.told, error.message);
    }
  }

  function reset() {
    const camera = page.chosen();
    Object.assign(set, { review: camera.review, reject: camera.reject, touched: false });
    show();
  }

  async function apply() {
    text(parts.applied, "");
    try {
      const wish = { review: Number(tidy(set.review)), reject: Number(tidy(set.reject)) };
      await page.change(`/api/cameras/${encodeURIComponent(set.camera)}/thresholds`, wish);
      text(parts.applied, `In use from the next part on, and written to the log.`);
      set.touched = false;
      const camera = page.chosen();
      Object.assign(camera, wish);
      reset();
    } catch (error) {
      text(parts.applied, error.message);
    }
  }

  async function recipe() {
    text(parts.recipeTold, "Loading …");
    try {
      await page.change(`/api/cameras/${encodeURIComponent(set.camera)}/recipe`, { recipe: parts.recipe.value });
      text(parts.recipeTold, "In use from the next part on, and written to the log.");
      set.touched = false;
    } catch (error) {
      text(parts.recipeTold, error.message);
    }
  }

  parts.histogram.onmove = (name, value) => {
    set.touched = true;
    set[name] = value;
    if (set.review > set.reject) set[name === "review" ? "reject" : "review"] = value;
    show();
  };
  for (const name of ["review", "reject"]) {
    parts[name].oninput = () => Number.isFinite(parts[name].valueAsNumber) && parts.histogram.onmove(name, parts[name].valueAsNumber);
  }

  return {
    open() {
      text(parts.applied, "");
      text(parts.recipeTold, "");
      if (page.state) load();
    },
    render() {
      if (!page.state) return;
      const camera = page.chosen();
      if (!camera) return;
      chooser(parts, page, camera);
      if (set.camera !== camera.name) {
        set.touched = false;
        load();
      } else if (!set.touched && (set.review !== camera.review || set.reject !== camera.reject)) reset();
      else if (!set.touched && performance.now() - set.loaded > 10000 && !page.lost) load();
    },
  };
}

function chooser(parts, page, camera) {
  const names = page.state.cameras.map((one) => one.name);
  if (parts.camera.children.length !== names.length) parts.camera.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
  if (document.activeElement !== parts.camera) parts.camera.value = camera.name;
  if (parts.recipe.children.length !== page.state.recipes.length) {
    parts.recipe.replaceChildren(...page.state.recipes.map((name) => h("option", { value: name }, name)));
    parts.recipe.value = camera.recipe;
  }
  text(parts.recipeNow, `Camera ${camera.name} uses ${camera.recipe}.`);
  parts.useRecipe.disabled = parts.recipe.value === camera.recipe || page.lost;
}

function build(view, set, on) {
  const parts = {
    camera: h("select", { id: "settings-camera", onchange: (event) => on.choose(event.target.value) }),
    review: h("input", { id: "review", type: "number", step: "any", inputmode: "decimal" }),
    reject: h("input", { id: "reject", type: "number", step: "any", inputmode: "decimal" }),
    told: h("p", { class: "preview", id: "preview", role: "status" }),
    labels: h("p", { class: "preview-labels" }),
    apply: h("button", { id: "apply", type: "button", onclick: on.apply }, "Use these thresholds"),
    reset: h("button", { id: "reset", type: "button", class: "quiet", onclick: on.reset }, "Back to the present ones"),
    applied: h("span", { class: "told", role: "status", id: "applied" }),
    recipe: h("select", { id: "recipe" }),
    recipeNow: h("p", { class: "hint" }),
    useRecipe: h("button", { id: "use-recipe", type: "button", onclick: on.recipe }, "Use this recipe"),
    recipeTold: h("span", { class: "told", role: "status" }),
    changedHead: h("h3", {}),
    tiles: h("div", { class: "tiles small" }),
  };
  const last = h("select", { id: "last", onchange: (event) => ((set.last = Number(event.target.value)), on.reload()) },
    ...COUNTS.map((count) => h("option", { value: count, selected: count === set.last }, `last ${count} parts`)));
  const plot = h("div", { class: "histogram" });
  parts.histogram = new Histogram(plot);
  parts.changed = h("section", { class: "changed", hidden: true }, parts.changedHead, parts.tiles);
  view.replaceChildren(
    h("div", { class: "card settings-card" },
      h("div", { class: "filters" }, h("h2", {}, "Thresholds"), h("label", { class: "field-inline" }, "Camera ", parts.camera),
        h("label", { class: "field-inline" }, "Preview on the ", last)),
      h("p", { class: "hint" }, "Drag the lines, or type. Nothing changes before you say so."),
      plot,
      h("div", { class: "preview-box" }, parts.told, parts.labels),
      h("div", { class: "threshold-fields" },
        h("label", { class: "field key-review" }, h("span", {}, "Review over"), parts.review),
        h("label", { class: "field key-reject" }, h("span", {}, "Reject over"), parts.reject),
        h("div", { class: "actions" }, parts.apply, parts.reset), parts.applied),
      parts.changed),
    h("div", { class: "card settings-card" },
      h("h2", {}, "Recipe"), parts.recipeNow,
      h("div", { class: "actions" }, h("label", { class: "field-inline" }, "Recipe ", parts.recipe), parts.useRecipe, parts.recipeTold)));
  return parts;
}

const tidy = (value) => String(Number(value.toPrecision(6)));

