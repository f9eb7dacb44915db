// Who changed what.

import { get } from "./api.js";
import { byId, h, moment } from "./dom.js";

const PAGE = 100;

export function startLog(page) {
  const view = byId("view-log");
  const list = h("div", { class: "log-list" });
  const more = h("button", { type: "button", class: "quiet", hidden: true }, "Show older entries");
  let entries = [];
  view.replaceChildren(h("div", { class: "card" }, h("div", { class: "filters" }, h("h2", {}, "Log of changes")), list, h("div", { class: "more" }, more)));
  more.onclick = () => load(entries.at(-1)?.id);

  async function load(before) {
    try {
      const found = (await get(`api/audit?limit=${PAGE}${before ? `&before=${before}` : ""}`)).entries;
      entries = before ? [...entries, ...found] : found;
      more.hidden = found.length < PAGE;
      if (!entries.length) return list.replaceChildren(h("p", { class: "nothing" }, "Nothing was changed yet."));
      list.replaceChildren(h("table", {},
        h("thead", {}, h("tr", {}, ...["Time", "Who", "What", "Detail"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, ...entries.map((entry) => h("tr", {},
          h("td", {}, moment(entry.at)), h("td", {}, entry.who), h("td", {}, entry.action), h("td", {}, entry.detail))))));
    } catch (error) {
      list.replaceChildren(h("p", { class: "nothing" }, error.message));
    }
  }

  return { open: () => load(), render() {} };
}
