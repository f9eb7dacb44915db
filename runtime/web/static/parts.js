// Stored inspections as tiles, and one of them in full.

import { get } from "./api.js";
import { byId, h, moment, score, shape } from "./dom.js";
import { detailView, LABELS } from "./detail.js";

const PAGE = 48;
const CHOICES = { "REVIEW,REJECT": "Rejects and reviews", REJECT: "Rejects", REVIEW: "Reviews", PASS: "Passes" };

// A picture with verdict, score and time; a link, so that it opens with a click, a key or in a tab of its own.
export function tile(row) {
  const image = h("img", { src: `api/inspections/${row.id}/thumbnail`, alt: "", loading: "lazy", decoding: "async" });
  image.onerror = () => image.replaceWith(h("span", { class: "tile-gone" }, "picture not kept"));
  const name = `${row.verdict}, part ${row.part ?? row.frame}, score ${score(row.score)}, ${moment(row.captured)}`;
  return h("a", { class: "tile", href: `#parts/${row.id}`, "data-kind": row.verdict, "aria-label": name },
    h("span", { class: "tile-picture" }, image, h("span", { class: "tile-badge" }, shape(row.verdict), row.verdict)),
    h("span", { class: "tile-text" },
      h("strong", {}, score(row.score)), h("span", {}, moment(row.captured)),
      h("span", { class: "tile-part" }, row.label ? (LABELS[row.label] ?? row.label) : (row.part ?? row.frame))));
}

export function startParts(page) {
  const list = { rows: [], wanted: "", asked: -1e4, choice: "REVIEW,REJECT", camera: "", end: false };
  const detail = detailView(page, byId("part"), () => list.rows);

  for (const [value, name] of Object.entries(CHOICES)) {
    const input = h("input", { type: "radio", name: "parts-verdict", value, checked: value === list.choice });
    input.onchange = () => ((list.choice = value), load());
    byId("parts-verdict").append(h("label", {}, input, h("span", {}, name)));
  }
  byId("parts-camera").onchange = (event) => ((list.camera = event.target.value), load());
  byId("parts-more").onclick = () => load(list.rows.at(-1)?.id);

  async function load(before) {
    list.wanted = `${page.state?.newest}/${list.choice}/${list.camera}`;
    const older = before ? `&before=${before}` : "";
    const path = `api/inspections?limit=${PAGE}&verdict=${list.choice}&camera=${encodeURIComponent(list.camera)}${older}`;
    list.asked = performance.now();
    try {
      const { inspections } = await get(path);
      list.rows = before ? [...list.rows, ...inspections] : inspections;
      list.paged = Boolean(before);
      byId("parts-more").hidden = inspections.length < PAGE;
      show();
    } catch (error) {
      byId("parts").replaceChildren(h("p", { class: "nothing" }, error.message));
    }
  }

  function show() {
    if (list.rows.length) byId("parts").replaceChildren(...list.rows.map(tile));
    else byId("parts").replaceChildren(h("p", { class: "nothing" }, "No such parts are stored."));
  }

  return {
    open() {
      if (page.state) load();
    },
    render() {
      if (!page.state || page.lost) return;
      cameras(page);
      const wanted = `${page.state.newest}/${list.choice}/${list.camera}`;
      // New parts come in at the top as long as nobody has paged on or opened one.
      if (wanted !== list.wanted && !list.paged && !byId("part").open && performance.now() - list.asked > 2000) load();
    },
    detail: (id) => detail(id),
  };
}

function cameras(page) {
  const select = byId("parts-camera");
  const names = page.state.cameras.map((camera) => camera.name);
  if (select.children.length === names.length + 1) return;
  select.replaceChildren(h("option", { value: "" }, "All"), ...names.map((name) => h("option", { value: name }, name)));
}

