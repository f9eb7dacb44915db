// What people say of a part: good or a defect, of which kind, with a note; by mouse, or by keys one part after another.

import { get } from "./api.js";
import { h, text } from "./dom.js";
import { t } from "./strings.js";

// What the store calls a label, in the words of the page.
export const LABELS = {
  "confirmed good": t("Good part"), "false alarm": t("False alarm"), "confirmed defect": t("Real defect"), "missed defect": t("Missed defect"),
};
const FOUND = { "confirmed good": "good", "false alarm": "good", "confirmed defect": "defect", "missed defect": "defect" };
const MOST_KINDS = 9; // as many as there are digits

const said = (row) => ({ found: FOUND[row.label] ?? null, defect: row.defect ?? "", note: row.note ?? "" });

export function labelling(page) {
  let last = null; // { id, name, before }: what U takes back
  let kinds = [];

  async function learn() {
    try {
      kinds = (await get("api/defects")).kinds;
    } catch { /* the field takes any name */ }
  }

  function words(row) {
    return row.label ? [LABELS[row.label], row.defect, row.note].filter(Boolean).join(", ") : t("Nobody has looked at it yet");
  }

  // `step` goes on to another part and says whether there was one.
  async function section(row, told, step) {
    await learn();
    const present = h("span", { class: "label-now" }, words(row));
    const defect = h("input", { id: "defect-kind", list: "defect-kinds", maxlength: 40, autocomplete: "off", value: row.defect ?? "" });
    const note = h("input", { id: "label-note", maxlength: 400, autocomplete: "off", value: row.note ?? "" });
    const buttons = {
      good: h("button", { type: "button", class: "quiet", id: "label-good", onclick: () => say({ found: "good" }) }, t("Good part"), key("G")),
      defect: h("button", { type: "button", class: "quiet", id: "label-defect", onclick: () => say({ found: "defect" }) }, t("Real defect"), key("D")),
    };
    const back = h("button", { type: "button", class: "quiet", id: "label-undo", onclick: () => undo() }, t("Undo"), key("U"));
    const chips = h("div", { class: "kinds" });
    const choices = h("datalist", { id: "defect-kinds" });

    function show() {
      text(present, words(row));
      for (const [found, button] of Object.entries(buttons)) button.setAttribute("aria-pressed", String(FOUND[row.label] === found));
      back.disabled = !last;
      choices.replaceChildren(...kinds.map((name) => h("option", { value: name })));
      chips.replaceChildren(...kinds.slice(0, MOST_KINDS).map((name, digit) => h("button", {
        type: "button", class: "quiet kind", "aria-pressed": String(row.defect === name), onclick: () => say({ found: "defect", defect: name }),
      }, name, key(String(digit + 1)))));
    }

    async function keep(id, wish) {
      text(told, "");
      try {
        return (await page.change(`api/inspections/${id}/label`, wish)).label;
      } catch (error) {
        text(told, error.message);
        return undefined;
      }
    }

    async function say(wish, onwards = false) {
      const full = { defect: wish.found === "defect" ? defect.value.trim() : "", note: note.value.trim(), ...wish };
      const before = said(row);
      const label = await keep(row.id, full);
      if (label === undefined) return;
      last = { id: row.id, name: row.part ?? row.frame, before };
      Object.assign(row, { label, defect: full.defect, note: full.note });
      defect.value = full.defect;
      if (full.defect && !kinds.includes(full.defect)) kinds = [...kinds, full.defect];
      show();
      text(told, t("Kept, and written to the log."));
      if (onwards && !(await step(1))) text(told, t("Kept. This is the last part of the list."));
    }

    async function undo() {
      if (!last) return;
      const { id, before } = last;
      if ((await keep(id, before)) === undefined) return;
      last = null;
      if (id !== row.id) location.hash = `#parts/${id}`;
      else {
        Object.assign(row, before, { label: (await get(`api/inspections/${id}`)).label });
        [defect.value, note.value] = [before.defect, before.note];
        show();
        text(told, t("Taken back, and written to the log."));
      }
    }

    for (const field of [defect, note]) {
      field.onkeydown = (event) => {
        if (event.key !== "Enter") return;
        event.preventDefault();
        say({ found: field === defect && defect.value.trim() ? "defect" : said(row).found ?? "defect" });
      };
    }
    show();
    if (last && last.id !== row.id) text(told, t("Part {name} is labelled; U takes that back.", { name: last.name }));
    const digits = Object.fromEntries(kinds.slice(0, MOST_KINDS).map((name, digit) => [String(digit + 1), () => say({ found: "defect", defect: name }, true)]));
    return {
      keys: { ...digits, g: () => say({ found: "good" }, true), d: () => say({ found: "defect" }, true), u: () => undo() },
      section: h("section", { class: "say" }, h("h3", {}, t("What is it really?")), present,
        h("div", { class: "actions" }, buttons.good, buttons.defect, back), chips,
        h("div", { class: "say-fields" },
          h("label", { class: "field" }, h("span", {}, t("Kind of defect")), defect, choices),
          h("label", { class: "field" }, h("span", {}, t("Note")), note)),
        h("p", { class: "hint" }, t("A key labels the part and goes on to the next one; arrows go on without a label."))),
    };
  }

  return { section };
}

function key(name) {
  return h("kbd", { "aria-hidden": "true" }, name);
}
