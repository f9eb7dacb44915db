// What other thresholds would say of parts that were inspected, judged by the scores that were stored.

// A part's regions may have been too small to count: then it passed with a score over the threshold, and still would.
export function verdictOf(row, { review, reject }) {
  if (row.verdict === "PASS" && row.score > row.threshold) return "PASS";
  if (row.score > reject) return "REJECT";
  return row.score > review ? "REVIEW" : "PASS";
}

const GOOD = ["confirmed good", "false alarm"];
const BAD = ["confirmed defect", "missed defect"];

export function preview(rows, now, then) {
  if (!rows.length) return { main: "No part of this camera is stored yet, so there is nothing to preview on.", labels: "" };
  const count = (wanted, limits) => rows.filter((row) => verdictOf(row, limits) === wanted).length;
  const rejects = [count("REJECT", then), count("REJECT", now)];
  const reviews = [count("REVIEW", then), count("REVIEW", now)];
  const than = ([next, present]) => (next === present ? `${next} (as now)` : `${next} instead of ${present}`);
  const main = `Of the last ${rows.length} parts this would reject ${than(rejects)} and send ${than(reviews)} to review.`;
  return { main, labels: judgedByPeople(rows, now, then) };
}

function judgedByPeople(rows, now, then) {
  const sentences = [];
  const tell = (names, what, wrong, verdict) => {
    const known = rows.filter((row) => names.includes(row.label));
    if (!known.length) return;
    const count = (limits) => known.filter((row) => verdictOf(row, limits) === verdict).length;
    sentences.push(`Of ${known.length} ${what}, ${count(then)} would ${wrong} (now ${count(now)}).`);
  };
  tell(GOOD, known(rows, GOOD) === 1 ? "part that people called good" : "parts that people called good", "be rejected", "REJECT");
  tell(BAD, known(rows, BAD) === 1 ? "real defect" : "real defects", "pass", "PASS");
  return sentences.join(" ");
}

const known = (rows, names) => rows.filter((row) => names.includes(row.label)).length;
