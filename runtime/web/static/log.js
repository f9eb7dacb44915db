// Who changed what, with a way to what it was about and a way back.

import { get } from "./api.js";
import { byId, dated, h, text } from "./dom.js";
import { t } from "./strings.js";

const PAGE = 100;
const DOUBTED = 422; // the station's answer to thresholds that it asks about
const digits = (value) => Number(value.toPrecision(6)); // as they stand in the log
const alike = (one, other) => ["review", "reject"].every((name) => digits(one[name]) === digits(other[name]));

export function startLog(page) {
  const view = byId("view-log");
  const list = h("div", { class: "log-list" });
  const told = h("p", { class: "told", role: "status", id: "log-told" });
  const more = h("button", { type: "button", class: "quiet", hidden: true }, t("Show older entries"));
  let entries = [];
  view.replaceChildren(h("div", { class: "card" }, h("div", { class: "filters" }, h("h2", {}, t("Log of changes")), told), list, h("div", { class: "more" }, more)));
  more.onclick = () => load(entries.at(-1)?.id);

  async function load(before) {
    try {
      const found = (await get(`api/audit?limit=${PAGE}${before ? `&before=${before}` : ""}`)).entries;
      entries = before ? [...entries, ...found] : found;
      more.hidden = found.length < PAGE;
      show();
    } catch (error) {
      list.replaceChildren(h("p", { class: "nothing" }, error.message));
    }
  }

  function show() {
    if (!entries.length) return list.replaceChildren(h("p", { class: "nothing" }, t("Nothing was changed yet.")));
    const columns = [t("Time"), t("Who"), t("What"), t("Detail")];
    list.replaceChildren(h("table", {},
      h("thead", {}, h("tr", {}, ...columns.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...entries.map((entry) => h("tr", {},
        h("td", {}, dated(entry.at)), h("td", {}, entry.who), h("td", {}, entry.action),
        h("td", {}, detail(entry)))))));
  }

  function detail(entry) {
    if (entry.record) {
      const [about, rest] = [entry.detail.slice(0, entry.detail.indexOf(":")), entry.detail.slice(entry.detail.indexOf(":"))];
      return [h("a", { href: `#parts/${entry.record}` }, about), rest];
    }
    const camera = usedBy(entry);
    return [entry.detail, camera ? h("button", { type: "button", class: "quiet undo", onclick: (event) => undo(camera, entry, event.target) },
      t("Back to review {review}, reject {reject}", entry.change.from)) : null];
  }

  // The camera that works with what the entry changed to; only then is there a way back.
  function usedBy({ change }) {
    return change && page.state?.cameras.find((one) => change.cameras.includes(one.name) && one.bundle === change.bundle && alike(one, change.to));
  }

  // The station looks at known defects and the last parts, and asks once where they speak against it.
  async function undo(camera, entry, button) {
    text(told, "");
    const wish = { ...entry.change.from, bundle: entry.change.bundle, confirm: button.dataset.doubted === "yes" };
    try {
      await page.change(`api/cameras/${encodeURIComponent(camera.name)}/thresholds`, wish);
      Object.assign(camera, entry.change.from);
      await load();
      text(told, t("In use from the next part on, and written to the log."));
    } catch (error) {
      text(told, error.message);
      if (error.status !== DOUBTED) return;
      text(button, t("Use them all the same"));
      button.dataset.doubted = "yes";
      button.className = "danger undo";
    }
  }

  return { open: () => load(), render() {} };
}
