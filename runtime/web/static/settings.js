// Thresholds with a preview on what was measured, and the recipe.

import { get } from "./api.js";
import { byId, h, text } from "./dom.js";
import { Histogram } from "./histogram.js";
import { tile } from "./parts.js";
import { preview, verdictOf } from "./preview.js";
import { t } from "./strings.js";

const COUNTS = [100, 500, 2000];
const MOST_TILES = 8;
const NAMES = ["review", "reject"];
const IN_USE = t("In use from the next part on, and written to the log.");
const DOUBTED = 422; // the station's answer to thresholds that it asks about

// `start`: both thresholds when a handle was taken; `blank`: fields that hold no number; `wrong`: why the station took
// nothing; `inUse`: what was applied here last; `edited`: the field that was typed into last. `recipe`: which one was chosen
// here, for which camera, what the station said to it, and whether it took it.
const fresh = () => ({ touched: false, start: null, blank: {}, edited: "", wrong: "", inUse: null });
const nothing = { rows: [], defects: [], others: 0 };

export function startSettings(page) {
  const view = byId("view-settings");
  const set = { camera: null, bundle: "", backend: "", last: 500, basis: nothing, review: 0, reject: 0, loaded: "", recipe: null, ...fresh() };
  const parts = build(view, set, { choose: (name) => page.choose(name), reload: () => load(), apply: () => apply(), reset: () => reset(), recipe });

  function show() {
    const camera = page.chosen();
    const now = { review: camera.review, reject: camera.reject };
    const then = { review: set.review, reject: set.reject };
    parts.histogram.show(set.basis.rows, then, now);
    const fault = faultOf(set);
    for (const name of NAMES) {
      if (document.activeElement !== parts[name] && !set.blank[name]) parts[name].value = tidy(set[name]);
      parts[name].setAttribute("aria-invalid", String(Boolean(fault[name])));
      text(parts.faults[name], fault[name] ?? "");
    }
    const valid = !Object.keys(fault).length;
    const told = preview(set.basis, now, then);
    text(parts.told, valid ? told.main : t("No preview: these thresholds cannot be used."));
    text(parts.labels, valid ? told.labels : "");
    const warns = valid && told.missed > 0;
    parts.labels.classList.toggle("warns", warns);
    parts.apply.classList.toggle("danger", warns);
    const same = alike(then, now);
    parts.apply.disabled = same || !valid || page.lost;
    parts.reset.disabled = same && valid;
    parts.applied.classList.toggle("wrong", Boolean(set.wrong));
    text(parts.applied, set.wrong || (set.inUse && alike(set.inUse, now) && same && valid ? IN_USE : ""));
    changed(valid ? set.basis.rows : [], now, then);
  }

  // The parts that would be judged otherwise, so that somebody can look before deciding. Both verdicts are computed from
  // the score: the one that was stored may be by thresholds of that day.
  function changed(rows, now, then) {
    const others = rows.filter((row) => verdictOf(row, now) !== verdictOf(row, then));
    const shown = others.slice(0, MOST_TILES).map((row) => ({ ...row, verdict: verdictOf(row, now), part: `${t(verdictOf(row, now))} → ${t(verdictOf(row, then))}`, label: null }));
    const key = shown.map((row) => `${row.id}${row.part}`).join();
    parts.changed.hidden = !others.length;
    text(parts.changedHead, others.length > MOST_TILES
      ? t("{n} of these parts would be judged otherwise, the newest:", { n: others.length })
      : t("{n} of these parts would be judged otherwise:", { n: others.length }));
    if (parts.tiles.dataset.key === key) return;
    parts.tiles.dataset.key = key;
    parts.tiles.replaceChildren(...shown.map((row) => tile(row, page)));
  }

  async function load() {
    const { name, bundle, backend } = page.chosen();
    Object.assign(set, { camera: name, bundle, backend, loaded: performance.now() });
    try {
      const { scores, defects, others } = await get(`api/cameras/${encodeURIComponent(name)}/scores?last=${set.last}`);
      if (!of(set, page.chosen())) return; // of a camera or bundle that is not shown any more
      set.basis = { rows: scores, defects, others };
      if (!set.touched) present();
      else show();
    } catch (error) {
      text(parts.told, error.message);
    }
  }

  function present() {
    const { review, reject } = page.chosen();
    Object.assign(set, { review, reject, touched: false, start: null, blank: {} });
    show();
  }

  function reset() {
    set.wrong = "";
    present();
  }

  // The station looks at the last parts and known defects, and asks once where they speak against the thresholds.
  async function apply(confirmed = null) {
    const wish = confirmed ?? { review: Number(tidy(set.review)), reject: Number(tidy(set.reject)), bundle: set.bundle };
    const { review, reject } = wish;
    set.wrong = "";
    try {
      await page.change(`api/cameras/${encodeURIComponent(set.camera)}/thresholds`, wish);
      set.inUse = { review, reject };
      Object.assign(page.chosen(), set.inUse);
      reset();
    } catch (error) {
      if (error.status === DOUBTED) return ask(error.message, { ...wish, confirm: true });
      set.wrong = error.message;
      show();
    }
  }

  function ask(doubts, wish) {
    text(parts.doubts, doubts);
    parts.confirm.onclick = () => apply(wish);
    parts.dialog.showModal();
  }

  async function recipe() {
    const asked = (set.recipe = { camera: page.chosen().name, wish: parts.recipe.value, said: t("Loading …"), taken: false });
    showRecipe(parts, set, page);
    try {
      await page.change(`api/cameras/${encodeURIComponent(asked.camera)}/recipe`, { recipe: asked.wish });
      Object.assign(asked, { said: "", taken: true });
      set.touched = false;
    } catch (error) {
      asked.said = error.message;
    }
    showRecipe(parts, set, page);
  }

  parts.recipe.onchange = () => {
    set.recipe = { camera: page.chosen().name, wish: parts.recipe.value, said: "", taken: false };
    showRecipe(parts, set, page);
  };

  // A handle pushes the other threshold before it, and gives it back when it is moved back.
  parts.histogram.onstart = () => (set.start = null);
  parts.histogram.onmove = (name, value) => {
    set.start ??= { review: set.review, reject: set.reject };
    const other = name === "review" ? { reject: Math.max(set.start.reject, value) } : { review: Math.min(set.start.review, value) };
    Object.assign(set, other, { [name]: value, touched: true, blank: {}, wrong: "" });
    show();
  };
  // Typing changes one field alone: a number on its way to 14 is 1 for a moment.
  for (const name of NAMES) {
    parts[name].oninput = () => {
      const value = parts[name].valueAsNumber;
      set.blank[name] = !Number.isFinite(value);
      if (!set.blank[name]) set[name] = value;
      Object.assign(set, { touched: true, edited: name, start: null, wrong: "" });
      show();
    };
  }

  return {
    open() {
      Object.assign(set, { wrong: "", inUse: null, recipe: null });
      if (page.state) load();
    },
    render() {
      if (!page.state) return;
      const camera = page.chosen();
      if (!camera) return;
      chooser(parts, page, camera);
      showRecipe(parts, set, page);
      if (!of(set, camera)) {
        const moved = set.camera === camera.name && set.touched;
        Object.assign(set, fresh(), { basis: nothing, wrong: moved ? t("Another bundle runs by now: look at its scores and set the thresholds again.") : "" });
        load();
      } else if (!set.touched && (set.review !== camera.review || set.reject !== camera.reject)) present();
      else if (!set.touched && performance.now() - set.loaded > 10000 && !page.lost) load();
    },
  };
}

// Whether what is shown belongs to this camera with the bundle that it runs.
function of(set, camera) {
  return set.camera === camera.name && set.bundle === camera.bundle && set.backend === camera.backend;
}

// What keeps thresholds from use, by the field that says it.
function faultOf(set) {
  const blank = NAMES.filter((name) => set.blank[name]).map((name) => [name, t("Needs a number")]);
  if (blank.length || set.review <= set.reject) return Object.fromEntries(blank);
  return set.edited === "reject" ? { reject: t("Lower than review") } : { review: t("Higher than reject") };
}

function chooser(parts, page, camera) {
  const names = page.state.cameras.map((one) => one.name);
  if (parts.camera.children.length !== names.length) parts.camera.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
  if (document.activeElement !== parts.camera) parts.camera.value = camera.name;
  if (parts.recipe.children.length !== page.state.recipes.length) parts.recipe.replaceChildren(...page.state.recipes.map((name) => h("option", { value: name }, name)));
}

// The camera's recipe, or the one that was chosen here for this camera and is not in use yet; and what came of it.
function showRecipe(parts, set, page) {
  const camera = page.chosen();
  if (set.recipe && (set.recipe.camera !== camera.name || (set.recipe.seen && camera.recipe !== set.recipe.wish))) set.recipe = null;
  const chosen = set.recipe;
  if (chosen?.taken && camera.recipe === chosen.wish) chosen.seen = true;
  parts.recipe.value = chosen?.wish ?? camera.recipe;
  text(parts.recipeTold, chosen?.seen ? IN_USE : chosen?.said ?? "");
  text(parts.recipeNow, t("Camera {name} uses {recipe}, bundle {bundle}. All cameras of a recipe run the same bundle.", camera));
  parts.useRecipe.disabled = parts.recipe.value === camera.recipe || page.lost;
}

function build(view, set, on) {
  const parts = {
    camera: h("select", { id: "settings-camera", onchange: (event) => on.choose(event.target.value) }),
    review: h("input", { id: "review", type: "number", step: "any", inputmode: "decimal", "aria-describedby": "review-fault" }),
    reject: h("input", { id: "reject", type: "number", step: "any", inputmode: "decimal", "aria-describedby": "reject-fault" }),
    told: h("p", { class: "preview", id: "preview", role: "status" }),
    labels: h("p", { class: "preview-labels", id: "preview-labels", role: "status" }),
    apply: h("button", { id: "apply", type: "button", onclick: on.apply }, t("Apply")),
    reset: h("button", { id: "reset", type: "button", class: "quiet", onclick: on.reset }, t("Reset")),
    faults: Object.fromEntries(NAMES.map((name) => [name, h("span", { class: "field-fault", id: `${name}-fault`, role: "alert" })])),
    doubts: h("p", { id: "doubts" }),
    confirm: h("button", { id: "confirm", type: "submit", class: "danger" }, t("Use them all the same")),
    applied: h("span", { class: "told", role: "status", id: "applied" }),
    recipe: h("select", { id: "recipe" }),
    recipeNow: h("p", { class: "hint" }),
    useRecipe: h("button", { id: "use-recipe", type: "button", onclick: on.recipe }, t("Use this recipe")),
    recipeTold: h("span", { class: "told", role: "status", id: "recipe-told" }),
    changedHead: h("h3", {}),
    tiles: h("div", { class: "tiles small" }),
  };
  const last = h("select", { id: "last", onchange: (event) => ((set.last = Number(event.target.value)), on.reload()) },
    ...COUNTS.map((count) => h("option", { value: count, selected: count === set.last }, t("last {count} parts", { count }))));
  const plot = h("div", { class: "histogram" });
  parts.histogram = new Histogram(plot);
  parts.dialog = h("dialog", { id: "doubted", class: "sign-in", "aria-labelledby": "doubted-title" }, h("form", { method: "dialog" },
    h("h2", { id: "doubted-title" }, t("Use these thresholds?")), parts.doubts,
    h("div", { class: "actions" }, h("button", { id: "doubted-cancel", type: "submit", class: "quiet", autofocus: true }, t("Cancel")), parts.confirm)));
  parts.changed = h("section", { class: "changed", hidden: true }, parts.changedHead, parts.tiles);
  view.replaceChildren(
    h("div", { class: "card settings-card" },
      h("div", { class: "filters" }, h("h2", {}, t("Thresholds")), h("label", { class: "field-inline" }, t("Camera"), " ", parts.camera),
        h("label", { class: "field-inline" }, t("Preview on the"), " ", last)),
      h("p", { class: "hint" }, t("Drag the lines, or type. Nothing changes before you say so.")),
      plot,
      h("div", { class: "preview-box" }, parts.told, parts.labels),
      h("div", { class: "threshold-fields" },
        h("label", { class: "field key-review" }, h("span", {}, t("Review over")), parts.review, parts.faults.review),
        h("label", { class: "field key-reject" }, h("span", {}, t("Reject over")), parts.reject, parts.faults.reject),
        h("div", { class: "actions" }, parts.apply, parts.reset), parts.applied),
      parts.changed),
    h("div", { class: "card settings-card" },
      h("h2", {}, t("Recipe")), parts.recipeNow,
      h("div", { class: "actions" }, h("label", { class: "field-inline" }, t("Recipe"), " ", parts.recipe), parts.useRecipe, parts.recipeTold)),
    parts.dialog);
  return parts;
}

const alike = (one, other) => NAMES.every((name) => tidy(one[name]) === tidy(other[name]));
const tidy = (value) => String(Number(value.toPrecision(6)));

