// Cameras, sinks and outputs: each in a sentence that a person can act on.

import { ago, byId, h, moment, pill, text, whole, WORD } from "./dom.js";

export function startHealth(page) {
  const view = byId("view-health");
  let drawn = "";

  function cameras(state) {
    return state.cameras.map((camera) => row(camera, [
      ["Captured", whole(camera.captured)], ["Inspected", whole(camera.inspected)], ["Dropped", whole(camera.dropped)],
      ["Waiting", whole(camera.waiting)], ["Missed triggers", whole(camera.missed_triggers)], ["Reconnects", whole(camera.reconnects)],
      ["Longest latency", camera.latency_ms.max === undefined ? "–" : `${Math.round(camera.latency_ms.max)} ms`],
    ], camera.ready ? "ready" : "not ready"));
  }

  function accept() {
    return h("button", { type: "button", onclick: () => page.change("api/clock", {}).catch(() => {}) }, "The clock is right");
  }

  return {
    render() {
      const { state } = page;
      if (!state) return;
      const key = JSON.stringify([state.cameras.map(({ last, missed, ...rest }) => rest), state.parts]);
      const up = ago(state.now - state.started + page.age()).replace(" ago", "");
      if (drawn !== key) {
        drawn = key;
        view.replaceChildren(
          h("div", { class: "card" }, h("div", { class: "filters" }, h("h2", {}, "Cameras")), h("ul", { class: "health-list" }, ...cameras(state))),
          h("div", { class: "card" }, h("div", { class: "filters" }, h("h2", {}, "Store, sinks and outputs")),
            h("ul", { class: "health-list" }, ...state.parts.map((part) => row(part, [], undefined, part.kind === "clock" && part.health !== "ok" ? accept() : null)))),
          h("p", { class: "hint", id: "uptime" }));
      }
      text(byId("uptime"), `Station ${state.name} has been running for ${up}, since ${moment(state.started)}. Programs ask /healthz; /api describes the interface.`);
    },
  };
}

function row(part, counts, extra, more = null) {
  return h("li", { class: "health-row", "data-health": part.health },
    pill(part.health, WORD[part.health]),
    h("div", { class: "health-name" }, h("strong", {}, part.name), h("span", {}, extra ? `${part.kind}, ${extra}` : part.kind)),
    h("p", { class: "health-detail" }, part.detail, h("span", { class: "since" }, ` since ${moment(part.since)}`), more),
    counts.length ? h("dl", { class: "facts" }, ...counts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))) : null);
}
