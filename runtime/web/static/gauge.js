// A score between its thresholds, on a bar.

import { h, score, text } from "./dom.js";
import { t } from "./strings.js";

export function gauge(holder, { score: value, review, reject, kind }) {
  if (!holder.children.length) {
    holder.append(
      h("div", { class: "gauge-bar" },
        h("span", { class: "zone zone-pass" }), h("span", { class: "zone zone-review" }), h("span", { class: "zone zone-reject" }),
        h("span", { class: "gauge-mark" })),
      h("div", { class: "gauge-scale" }, h("span", { class: "gauge-review" }), h("span", { class: "gauge-gap" }), h("span", { class: "gauge-reject" })));
  }
  const most = Math.max(1.6 * reject, 1.04 * (value ?? 0), 1e-9);
  const place = (number) => `${Math.min(100, Math.max(0, (100 * number) / most)).toFixed(2)}%`;
  const [bar, scale] = holder.children;
  const [pass, middle, over, mark] = bar.children;
  pass.style.width = place(review ?? reject);
  middle.style.width = place(reject - (review ?? reject));
  over.style.width = place(most - reject);
  mark.hidden = value === null;
  mark.style.left = place(value ?? 0);
  mark.dataset.kind = kind ?? "none";
  const [first, gap, second] = scale.children;
  first.style.flexBasis = place(review ?? 0);
  gap.style.flexBasis = place(reject - (review ?? 0));
  text(first, review === null ? "" : `${t("review")} ${score(review)}`);
  text(second, `${t("reject")} ${score(reject)}`);
}
