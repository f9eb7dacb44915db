// The large field: what it says of the present moment, in colour, word and shape.

import { ago, byId, shape, text } from "./dom.js";
import { sentence } from "./drawing.js";
import { t } from "./strings.js";

export function connecting() {
  return { look: "none", kind: "none", word: t("WAIT"), eyebrow: t("Connecting"), why: t("Asking the station how it is.") };
}

// What the large field says. `look`: "live" is filled; "past" is hollow, for a verdict that is true of a part that went
// by; "none" is grey, where there is no verdict at all.
export function judge(page, camera) {
  const { last, missed } = camera;
  const since = page.age();
  if (page.lost) {
    return { look: "none", kind: "fault", word: t("NO CONNECTION"), eyebrow: t("for {n} s", { n: Math.round(since) }), why: before(last, since, t("The station does not answer.")) };
  }
  if (camera.health === "fault") {
    return { look: "none", kind: "fault", word: last ? t("CAMERA LOST") : t("NO CAMERA"), why: before(last, since, camera.detail) };
  }
  if (missed && (!last || missed.at >= last.captured)) {
    const age = missed.age_s + since;
    const past = age > page.state.fresh_s;
    const verdict = missed.verdict ?? "REJECT";
    return {
      look: past ? "past" : "live", kind: verdict, word: t(verdict), missed: true, age,
      eyebrow: `${t("Not inspected")}${past ? ` · ${ago(age)}` : ""}`, why: ended(missed.reason),
      part: missed.part, captured: missed.at,
    };
  }
  if (!last) {
    return { look: "none", kind: "none", word: t("NO PART YET"), why: camera.ready ? t("Ready for the first part.") : camera.detail };
  }
  const age = last.age_s + since;
  const past = age > page.state.fresh_s;
  return {
    look: past ? "past" : "live", kind: last.verdict, word: t(last.verdict), found: last, age,
    eyebrow: past ? `${t("Last part")} · ${ago(age)}` : "", why: null,
  };
}

function before(last, since, sentence) {
  return last ? `${ended(sentence)} ${t("Last part: {verdict}, {ago}.", { verdict: t(last.verdict), ago: ago(last.age_s + since) })}` : ended(sentence);
}

// The station's words begin small and end open, as its log lines do.
function ended(words) {
  return `${words[0]?.toUpperCase() ?? ""}${words.slice(1)}${/[.。]$/.test(words) ? "" : "."}`;
}

let shown = "";

export function showVerdict(look) {
  const field = byId("verdict");
  const now = `${look.look} ${look.kind} ${look.missed ?? ""}`;
  if (now !== shown) {
    shown = now;
    field.dataset.look = look.look;
    field.dataset.kind = look.kind;
    field.dataset.missed = look.missed ? "yes" : "no";
    field.querySelector(".verdict-shape").replaceChildren(shape(look.kind));
  }
  text(field.querySelector(".verdict-word"), look.word);
  field.dataset.long = look.word.length > 9 ? "yes" : look.word.length > 6 ? "some" : "no";
  text(field.querySelector(".verdict-eyebrow"), look.eyebrow ?? "");
  const why = look.why ?? sentence(look.found, frameSize(look.found));
  field.dataset.crowded = why.length > 44 ? "very" : look.eyebrow ? "some" : "no";
  text(field.querySelector(".verdict-why"), why);
}

const sizes = new Map(); // camera to picture size, so that the sentence can say where

export function rememberSize(camera, size) {
  sizes.set(camera, size);
}

function frameSize(found) {
  return sizes.get(found.source) ?? null;
}
