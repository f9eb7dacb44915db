// The loop that asks the station how it is, the views, and who is signed in.

import { get, post, Problem } from "./api.js";
import { byId, shape, text, WORD } from "./dom.js";
import { startHealth } from "./health.js";
import { startLive } from "./live.js";
import { startLog } from "./log.js";
import { startParts } from "./parts.js";
import { startSettings } from "./settings.js";
import { language, t, translate } from "./strings.js";
import { startTrend } from "./trend.js";

const PERIOD = 250; // milliseconds between two looks at the station
const LOST = 3000; // without an answer for so long, nothing here may look live
const VIEWS = ["live", "parts", "trend", "settings", "health", "log"];

// What all views share. `age()` is the time since the station gave `state`, by the clock that jumped further: the one
// stands still while a laptop sleeps, the other when somebody sets it back.
export const page = {
  state: null,
  lost: false,
  camera: null,
  view: "live",
  received: [0, 0],
  age() {
    return Math.max(performance.now() - this.received[0], Date.now() - this.received[1]) / 1000;
  },
  // Seconds since the epoch by the station's clock: a browser's may be wrong.
  now() {
    return this.state.now + this.age();
  },
  chosen() {
    return this.state?.cameras.find((camera) => camera.name === this.camera) ?? this.state?.cameras[0] ?? null;
  },
  choose(camera) {
    this.camera = camera;
    remember("camera", camera);
    render();
  },
  // Runs something that changes the station; asks for the token where it is needed.
  async change(path, body) {
    if (!page.state?.person) await signIn();
    try {
      return await post(path, body);
    } catch (error) {
      if (error.status !== 401) throw error;
      await signIn();
      return post(path, body);
    }
  },
};

const views = {};

function remember(key, value) {
  try {
    localStorage.setItem(`dskd-${key}`, value);
  } catch { /* a private window keeps nothing */ }
}

export function remembered(key) {
  try {
    return localStorage.getItem(`dskd-${key}`);
  } catch {
    return null;
  }
}

async function look() {
  try {
    page.state = await get("api/state", LOST);
    page.received = [performance.now(), Date.now()];
    page.refused = false;
  } catch (error) {
    page.refused = error instanceof Problem && error.status === 401;
    if (error.status && error.status !== 401) page.trouble = error.message;
    if (page.refused) signIn().catch(() => {});
  }
}

function render() {
  page.lost = !page.state || page.age() * 1000 > LOST;
  frame();
  views[page.view]?.render();
}

function frame() {
  const { state, lost } = page;
  text(byId("station"), state?.name ?? t("Inspection station"));
  document.title = title();
  document.body.classList.toggle("lost", lost);
  const kind = lost ? "none" : state.health;
  const pill = byId("health-pill");
  if (pill.dataset.kind !== kind) {
    pill.dataset.kind = kind;
    pill.className = `pill pill-${kind}`;
    pill.firstChild.replaceChildren(shape(kind));
  }
  text(pill.lastChild, lost ? (state ? t("No connection") : t("Connecting")) : WORD[kind]);
  const banner = byId("banner");
  const told = trouble();
  banner.hidden = !told;
  text(banner, told ?? "");
  text(byId("sign"), state?.person ? t("Sign out {person}", state) : t("Sign in"));
  const heartbeat = document.querySelector(".deadman").getAnimations()[0];
  if (heartbeat) heartbeat.currentTime = 0;
}

function title() {
  const camera = page.chosen();
  if (!page.state) return t("Inspection station");
  const word = page.lost ? t("No connection") : (camera?.last && camera.health !== "fault" ? t(camera.last.verdict) : "–");
  return `${word} · ${page.state.name}`;
}

function trouble() {
  if (page.lost && page.state) {
    const seconds = Math.round(page.age());
    return t("No connection to the station for {seconds} s. Nothing below is live; trying again.", { seconds });
  }
  if (!page.state) return null;
  const bad = [...page.state.cameras, ...page.state.parts].filter((part) => part.health === "fault");
  if (!bad.length) return null;
  const more = bad.length > 1 ? ` ${t("(and {n} more, see Health)", { n: bad.length - 1 })}` : "";
  return `${t(bad[0].kind)} ${bad[0].name}: ${bad[0].detail}${more}`;
}

function open() {
  const [name, id] = location.hash.slice(1).split("/");
  page.view = VIEWS.includes(name) ? name : "live";
  document.body.dataset.view = page.view;
  for (const view of VIEWS) byId(`view-${view}`).hidden = view !== page.view;
  for (const tab of document.querySelectorAll(".tabs a")) {
    if (tab.dataset.view === page.view) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  if (page.state) { // else again with the first one: a view that is drawn twice takes a button from under the finger
    views[page.view].open?.();
    views.parts.detail(name === "parts" && /^\d+$/.test(id ?? "") ? Number(id) : null);
  }
  render();
}

let asking = null;

function signIn() {
  asking ??= new Promise((done, refuse) => {
    const dialog = byId("sign-in");
    const finish = (outcome) => {
      asking = null;
      dialog.onclose = null;
      dialog.close();
      byId("sign-in-token").value = "";
      outcome();
    };
    text(byId("sign-in-told"), "");
    byId("sign-in-name").value = remembered("name") ?? "";
    byId("sign-in-form").onsubmit = async (event) => {
      event.preventDefault();
      const name = byId("sign-in-name").value;
      try {
        const { person } = await post("api/sign-in", { name, token: byId("sign-in-token").value.trim() }, 8000);
        remember("name", name);
        if (page.state) page.state.person = person;
        finish(done);
      } catch (error) {
        text(byId("sign-in-told"), error.message);
      }
    };
    dialog.onclose = () => finish(() => refuse(new Problem(401, t("nobody signed in"))));
    byId("sign-in-cancel").onclick = () => dialog.close();
    dialog.showModal();
    (byId("sign-in-name").value ? byId("sign-in-token") : byId("sign-in-name")).focus();
  });
  return asking;
}

async function signInOrOut() {
  if (!page.state?.person) return signIn().catch(() => {});
  await post("api/sign-out", {}, 8000).catch(() => {});
  page.state.person = null;
  render();
}

function theme() {
  const names = ["auto", "light", "dark"];
  const show = (name) => {
    document.documentElement.dataset.theme = name;
    byId("theme").title = { auto: t("Colours: automatic"), light: t("Colours: light"), dark: t("Colours: dark") }[name];
    text(byId("theme"), { auto: "◐", light: "☀", dark: "☾" }[name]);
  };
  show(names.includes(remembered("theme")) ? remembered("theme") : "auto");
  byId("theme").onclick = () => {
    const next = names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length];
    remember("theme", next);
    show(next);
  };
}

async function run() {
  for (;;) {
    const started = performance.now();
    if (!document.hidden) {
      const first = !page.state;
      await look();
      if (first && page.state) open();
      else render();
    }
    await new Promise((done) => setTimeout(done, Math.max(50, PERIOD - (performance.now() - started))));
  }
}

// A link that the station printed: its code stands in for the token, once, and does not stay in the address.
const CODE = /^#sign-in=([\w-]{20,80})$/;
function signInByLink() {
  const code = CODE.exec(location.hash)?.[1];
  if (!code) return;
  history.replaceState(null, "", location.pathname + location.search);
  signIn().catch(() => {});
  byId("sign-in-token").value = code;
  byId("sign-in-name").focus();
}

document.documentElement.lang = language;
translate(document.body);
theme();
page.camera = remembered("camera");
Object.assign(views, {
  live: startLive(page), parts: startParts(page), trend: startTrend(page), settings: startSettings(page), health: startHealth(page), log: startLog(page),
});
byId("sign").onclick = signInOrOut;
addEventListener("hashchange", () => { signInByLink(); open(); });
signInByLink();
document.addEventListener("visibilitychange", () => document.hidden || render()); // ages are told before the next answer
setInterval(() => document.hidden || render(), 500);
open();
run();
