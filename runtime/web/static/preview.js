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
  const left = others ? ` ${others} ${others === 1 ? "part" : "parts"} by another bundle or backend left out.` : "";
  if (!rows.length) {
    return { main: `No part by the present bundle is stored yet, so there is nothing to preview on.${left}`, labels: judgedByPeople(rows, defects, now, then), missed };
  }
  const count = (wanted, limits) => rows.filter((row) => verdictOf(row, limits) === wanted).length;
  const rejects = [count("REJECT", then), count("REJECT", now)];
  const reviews = [count("REVIEW", then), count("REVIEW", now)];
  const than = ([next, present]) => (next === present ? `${next} (as now)` : `${next} instead of ${present}`);
  const main = `Of the last ${rows.length} parts this would reject ${than(rejects)} and send ${than(reviews)} to review.${left}`;
  return { main, labels: judgedByPeople(rows, defects, now, then), missed };
}

function judgedByPeople(rows, defects, now, then) {
  const sentences = [];
  const tell = (known, [one, many], wrong, verdict) => {
    if (!known.length) return;
    const count = (limits) => known.filter((row) => verdictOf(row, limits) === verdict).length;
    sentences.push(`Of ${known.length} ${known.length === 1 ? one : many}, ${count(then)} would ${wrong} (now ${count(now)}).`);
  };
  const good = rows.filter((row) => GOOD.includes(row.label));
  tell(good, ["part that people called good", "parts that people called good"], "be rejected", "REJECT");
  tell(defects, ["known defect", "known defects"], "pass", "PASS");
  return sentences.join(" ");
}
