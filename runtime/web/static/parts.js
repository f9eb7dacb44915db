// Stored inspections as tiles: looked for, opened one by one, and taken away as a file.

import { get } from "./api.js";
import { byId, h, moment, score, shape, times } from "./dom.js";
import { detailView, LABELS } from "./detail.js";
import { t } from "./strings.js";

const PAGE = 48;
const CHOICES = {
  "REVIEW,REJECT": t("Rejects and reviews"), REJECT: t("Rejects"), REVIEW: t("Reviews"), PASS: t("Passes"), "PASS,REVIEW,REJECT": t("All"),
};
const LABELLED = { "": t("Any label or none"), none: t("Not labelled"), any: t("Labelled"), good: t("Called good"), defect: t("Called a defect") };
const ORDERS = { newest: t("Newest first"), oldest: t("Oldest first"), score: t("Highest score first") };
const FIELDS = ["part", "since", "until", "least", "most", "label", "order"];
const YOUNG = 60; // seconds in which a picture may still be on its way to the disk
const AGAIN = 2000; // milliseconds until it is asked for again, then twice as long each time

// A picture with verdict, score and time; a link, so that it opens with a click, a key or in a tab of its own.
export function tile(row, page) {
  const words = { verdict: t(row.verdict), part: row.part ?? row.frame, score: times(row.score, row.threshold), time: moment(row.captured) };
  return h("a", { class: "tile", href: `#parts/${row.id}`, "data-kind": row.verdict, "aria-label": t("{verdict}, part {part}, score {score}, {time}", words) },
    h("span", { class: "tile-picture" }, thumbnail(row, page), h("span", { class: "tile-badge" }, shape(row.verdict), t(row.verdict))),
    h("span", { class: "tile-text" },
      h("strong", { title: score(row.score) }, times(row.score, row.threshold)), h("span", {}, moment(row.captured)),
      h("span", { class: "tile-part" }, row.label ? [LABELS[row.label] ?? row.label, row.defect].filter(Boolean).join(": ") : (row.part ?? row.frame))));
}

// Asked for again while it is young, by the station's clock: a line that stands still brings no other occasion.
function thumbnail(row, page, pause = AGAIN) {
  const image = h("img", { src: `api/inspections/${row.id}/thumbnail`, alt: "", loading: "lazy", decoding: "async" });
  image.onerror = () => {
    const young = page.state?.pictures && page.now() - row.captured < YOUNG;
    const told = h("span", { class: "tile-gone" }, young ? t("picture not there yet") : t("picture not kept"));
    image.replaceWith(told);
    if (young) setTimeout(() => told.isConnected && told.replaceWith(thumbnail(row, page, 2 * pause)), pause);
  };
  return image;
}

export function startParts(page) {
  const list = { rows: [], wanted: "", asked: -1e4, choice: "REVIEW,REJECT", camera: "", end: false };
  const detail = detailView(page, byId("part"), {
    rows: () => list.rows,
    more: async () => !byId("parts-more").hidden && load(list.rows.at(-1)?.id),
  });

  for (const [value, name] of Object.entries(CHOICES)) {
    const input = h("input", { type: "radio", name: "parts-verdict", value, checked: value === list.choice });
    input.onchange = () => ((list.choice = value), load());
    byId("parts-verdict").append(h("label", {}, input, h("span", {}, name)));
  }
  byId("parts-label").append(...Object.entries(LABELLED).map(([value, name]) => h("option", { value }, name)));
  byId("parts-order").append(...Object.entries(ORDERS).map(([value, name]) => h("option", { value }, name)));
  byId("parts-camera").onchange = (event) => ((list.camera = event.target.value), load());
  byId("parts-more").onclick = () => load(list.rows.at(-1)?.id);
  byId("parts-search").onsubmit = (event) => (event.preventDefault(), load());
  for (const name of FIELDS) byId(`parts-${name}`).onchange = () => load();
  byId("parts-reset").onclick = () => {
    byId("parts-search").reset();
    load();
  };

  // What is looked for, as the query of a call.
  function query() {
    const asked = { verdict: list.choice, camera: list.camera };
    for (const name of FIELDS) {
      const field = byId(`parts-${name}`);
      if (field.value) asked[name] = field.type === "datetime-local" ? new Date(field.value) / 1000 : field.value.trim();
    }
    return new URLSearchParams(asked).toString();
  }

  // Whether older ones came.
  async function load(before) {
    const asked = query();
    list.wanted = `${page.state?.newest}/${asked}`;
    list.asked = performance.now();
    for (const kind of ["csv", "zip"]) byId(`export-${kind}`).href = `api/export.${kind}?${asked}`;
    byId("parts-reset").hidden = !FIELDS.some((name) => byId(`parts-${name}`).value !== (name === "order" ? "newest" : ""));
    try {
      const { inspections } = await get(`api/inspections?limit=${PAGE}&${asked}${before ? `&before=${before}` : ""}`);
      if (asked !== query()) return false; // the answer to what was asked before
      list.rows = before ? [...list.rows, ...inspections] : inspections;
      list.paged = Boolean(before);
      byId("parts-more").hidden = inspections.length < PAGE;
      show();
      return inspections.length > 0;
    } catch (error) {
      byId("parts").replaceChildren(h("p", { class: "nothing" }, error.message));
      return false;
    }
  }

  function show() {
    if (list.rows.length) byId("parts").replaceChildren(...list.rows.map((row) => tile(row, page)));
    else byId("parts").replaceChildren(h("p", { class: "nothing" }, t("No such parts are stored.")));
  }

  return {
    open() {
      if (page.state && !byId("part").open) load(); // the list stays as it is while somebody steps through it
    },
    render() {
      if (!page.state || page.lost) return;
      cameras(page);
      byId("export-zip").hidden = !page.state.pictures;
      // New parts come in at the top as long as nobody has paged on or opened one.
      const wanted = `${page.state.newest}/${query()}`;
      if (wanted !== list.wanted && !list.paged && !byId("part").open && performance.now() - list.asked > 2000) load();
    },
    detail: (id) => detail(id),
  };
}

function cameras(page) {
  const select = byId("parts-camera");
  const names = page.state.cameras.map((camera) => camera.name);
  if (select.children.length === names.length + 1) return;
  select.replaceChildren(h("option", { value: "" }, t("All")), ...names.map((name) => h("option", { value: name }, name)));
}
