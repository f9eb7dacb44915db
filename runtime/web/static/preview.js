import { t } from "./strings.js";

// What other thresholds would say of parts that were inspected, judged by the scores that were stored; threshold_check.py
// judges alike.

// A part's regions may have been too small to count: then it passed with a score over the threshold, and still would.
export function verdictOf(row, { review, reject }) {
  if (row.verdict === "PASS" && row.score > row.threshold) return "PASS";
  if (row.score > reject) return "REJECT";
  return row.score > review ? "REVIEW" : "PASS";
}

const GOOD = ["confirmed good", "false alarm"];

// `rows` are the last parts by the bundle that runs now; `defects` all known ones by it, `others` how many of the last
// parts another bundle judged. `missed` counts known defects that would pass and do not now.
export function preview({ rows, defects, others }, now, then) {
  const missed = defects.filter((row) => verdictOf(row, now) !== "PASS" && verdictOf(row, then) === "PASS").length;
  const left = !others ? "" : others === 1 ? ` ${t("1 part by another bundle or backend left out.")}` : ` ${t("{n} parts by another bundle or backend left out.", { n: others })}`;
  if (!rows.length) {
    return { main: t("No part by the present bundle is stored yet, so there is nothing to preview on.") + left, labels: judgedByPeople(rows, defects, now, then), missed };
  }
  const count = (wanted, limits) => rows.filter((row) => verdictOf(row, limits) === wanted).length;
  const rejects = [count("REJECT", then), count("REJECT", now)];
  const reviews = [count("REVIEW", then), count("REVIEW", now)];
  const than = ([next, present]) => (next === present ? t("{next} (as now)", { next }) : t("{next} instead of {present}", { next, present }));
  const words = { n: rows.length, rejects: than(rejects), reviews: than(reviews) };
  const main = t("Of the last {n} parts this would reject {rejects} and send {reviews} to review.", words) + left;
  return { main, labels: judgedByPeople(rows, defects, now, then), missed };
}

function judgedByPeople(rows, defects, now, then) {
  const sentences = [];
  const tell = (known, one, many, verdict) => {
    if (!known.length) return;
    const count = (limits) => known.filter((row) => verdictOf(row, limits) === verdict).length;
    const words = { n: known.length, then: count(then), now: count(now) };
    sentences.push(known.length === 1 ? one(words) : many(words));
  };
  const good = rows.filter((row) => GOOD.includes(row.label));
  tell(good,
    (words) => t("Of 1 part that people called good, {then} would be rejected (now {now}).", words),
    (words) => t("Of {n} parts that people called good, {then} would be rejected (now {now}).", words), "REJECT");
  tell(defects,
    (words) => t("Of 1 known defect, {then} would pass (now {now}).", words),
    (words) => t("Of {n} known defects, {then} would pass (now {now}).", words), "PASS");
  return sentences.join(" ");
}
