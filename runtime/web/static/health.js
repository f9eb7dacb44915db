// Cameras, sinks and outputs: each in a sentence that a person can act on.

import { byId, h, lasting, moment, pill, text, whole, WORD, zone } from "./dom.js";
import { t } from "./strings.js";

export function startHealth(page) {
  const view = byId("view-health");
  let drawn = "";

  function cameras(state) {
    return state.cameras.map((camera) => row(camera, [
      [t("Captured"), whole(camera.captured)], [t("Inspected"), whole(camera.inspected)], [t("Dropped"), whole(camera.dropped)],
      [t("Waiting"), whole(camera.waiting)], [t("Missed triggers"), whole(camera.missed_triggers)], [t("Reconnects"), whole(camera.reconnects)],
      [t("Median latency"), milliseconds(camera.latency_ms.p50)], [t("99 in 100 within"), milliseconds(camera.latency_ms.p99)],
      [t("Longest latency"), milliseconds(camera.latency_ms.max)],
    ], camera.ready ? t("ready") : t("not ready")));
  }

  function accept() {
    return h("button", { type: "button", onclick: () => page.change("api/clock", {}).catch(() => {}) }, t("The clock is right"));
  }

  return {
    render() {
      const { state } = page;
      if (!state) return;
      const key = JSON.stringify([state.cameras.map(({ last, missed, ...rest }) => rest), state.parts]);
      const up = lasting(state.now - state.started + page.age());
      if (drawn !== key) {
        drawn = key;
        view.replaceChildren(
          h("div", { class: "card" }, h("div", { class: "filters" }, h("h2", {}, t("Cameras"))), h("ul", { class: "health-list" }, ...cameras(state))),
          h("div", { class: "card" }, h("div", { class: "filters" }, h("h2", {}, t("Store, sinks and outputs"))),
            h("ul", { class: "health-list" }, ...state.parts.map((part) => row(part, [], undefined, part.kind === "clock" && part.health !== "ok" ? accept() : null)))),
          h("p", { class: "hint", id: "uptime" }),
          h("p", { class: "hint", id: "zone" }, t("Times on this page are in {here}, the clock of this browser; the station's own clock is {there}.", { here: zone(), there: zone(state.utc_offset_s) })));
      }
      text(byId("uptime"), t("Station {name} has been running for {up}, since {since}. Programs ask /healthz; /api describes the interface.", { name: state.name, up, since: moment(state.started) }));
    },
  };
}

function row(part, counts, extra, more = null) {
  return h("li", { class: "health-row", "data-health": part.health },
    pill(part.health, WORD[part.health]),
    h("div", { class: "health-name" }, h("strong", {}, part.name), h("span", {}, extra ? `${t(part.kind)}, ${extra}` : t(part.kind))),
    h("p", { class: "health-detail" }, part.detail, h("span", { class: "since" }, ` ${t("since {time}", { time: moment(part.since) })}`), more),
    counts.length ? h("dl", { class: "facts" }, ...counts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))) : null);
}

function milliseconds(value) {
  return value === undefined ? "–" : `${value < 100 ? value.toFixed(1) : Math.round(value)} ms`;
}
