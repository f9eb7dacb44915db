// A picture with its heat map and region boxes as one drawing that can be zoomed; and where on the part a region lies.

import { s } from "./dom.js";
import { t } from "./strings.js";

export class Drawing {
  constructor(holder, { zoom = false } = {}) {
    this.picture = s("image", { class: "layer-picture", preserveAspectRatio: "none" });
    this.heat = s("image", { class: "layer-heat", preserveAspectRatio: "none" });
    this.found = s("polygon", { class: "layer-found" });
    this.regions = s("g", { class: "layer-regions" });
    this.svg = s("svg", { class: "drawing", role: "img", "aria-label": t("No picture") }, this.picture, this.heat, this.found, this.regions);
    this.size = [4, 3];
    holder.replaceChildren(this.svg);
    this.home();
    if (zoom) this.listen();
  }

  // fields: {size, crop, picture, heat, regions, threshold, found}. ``found.corners`` is where the part was found. Pictures are decoded first, so nothing flickers or is mixed.
  async show(fields, label) {
    await Promise.all([decoded(fields.picture), fields.heat ? decoded(fields.heat) : null]);
    const [width, height] = fields.size;
    this.boxes = fields.regions.map((region) => region.box);
    const moved = width !== this.size[0] || height !== this.size[1];
    this.size = fields.size;
    place(this.picture, fields.picture, [0, 0, width, height]);
    place(this.heat, fields.heat, fields.crop ?? [0, 0, width, height]);
    this.found.setAttribute("points", (fields.found?.corners ?? []).map((corner) => corner.join(",")).join(" "));
    this.regions.replaceChildren(...fields.regions.map((region) => box(region, fields.threshold, this.size)));
    this.svg.setAttribute("aria-label", label);
    if (moved) this.home();
  }

  layers(heat, regions) {
    this.heat.classList.toggle("off", !heat);
    this.found.classList.toggle("off", !regions);
    this.regions.classList.toggle("off", !regions);
  }

  home() {
    this.look = [0, 0, ...this.size];
    this.led = true; // nobody has moved the picture: zooming in leads to the worst region
    this.apply();
  }

  // So that a region with as much again around it fills the drawing.
  focus([x, y, across, down]) {
    const [width, height] = this.size;
    const share = Math.min(1, Math.max(1 / 24, (2 * across) / width, (2 * down) / height));
    this.move(x + across / 2 - (share * width) / 2, y + down / 2 - (share * height) / 2, share * width, share * height);
  }

  closer() {
    const worst = this.led ? this.boxes?.[0] : null;
    if (!worst) return this.zoom(1 / 1.5);
    const [x, y, across, down] = worst;
    const [width, height] = [this.look[2] / 1.5, this.look[3] / 1.5];
    if (width < this.size[0] / 24) return;
    this.move(x + across / 2 - width / 2, y + down / 2 - height / 2, width, height);
  }

  apply() {
    this.svg.setAttribute("viewBox", this.look.join(" "));
  }

  zoom(factor, x = this.look[0] + this.look[2] / 2, y = this.look[1] + this.look[3] / 2) {
    const [width, height] = this.size;
    const share = Math.min(1, Math.max(1 / 24, (this.look[2] / width) * factor));
    const scale = (share * width) / this.look[2];
    const left = x - (x - this.look[0]) * scale;
    const top = y - (y - this.look[1]) * scale;
    this.move(left, top, share * width, share * height);
  }

  move(left, top, across, down) {
    const [width, height] = this.size;
    this.look = [Math.min(Math.max(left, 0), width - across), Math.min(Math.max(top, 0), height - down), across, down];
    this.apply();
  }

  listen() {
    const fingers = new Map();
    let pressed = null;
    this.svg.classList.add("zoomable");
    this.svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      const [x, y] = this.at(event);
      this.led = false;
      this.zoom(Math.exp(Math.sign(event.deltaY) * 0.2), x, y);
    }, { passive: false });
    this.svg.addEventListener("dblclick", (event) => (this.look[2] < this.size[0] * 0.9 ? this.home() : this.zoom(1 / 3, ...this.at(event))));
    this.svg.addEventListener("click", (event) => {
      const [x, y] = this.at(event);
      const hit = this.boxes?.find(([left, top, across, down]) => x >= left && x <= left + across && y >= top && y <= top + down);
      const still = pressed && Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) < 5;
      if (hit && still && event.detail < 2) this.focus(hit);
    });
    this.svg.addEventListener("pointerdown", (event) => {
      pressed = [event.clientX, event.clientY];
      this.svg.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    this.svg.addEventListener("pointermove", (event) => {
      if (!fingers.has(event.pointerId)) return;
      const before = [...fingers.values()];
      const [x, y] = fingers.get(event.pointerId);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 2) {
        const after = [...fingers.values()];
        const apart = ([a, b]) => Math.max(20, Math.hypot(a[0] - b[0], a[1] - b[1]));
        this.zoom(apart(before) / apart(after), ...this.at(event));
      } else {
        const unit = this.unit();
        this.led = false;
        this.move(this.look[0] - (event.clientX - x) * unit, this.look[1] - (event.clientY - y) * unit, this.look[2], this.look[3]);
      }
    });
    for (const end of ["pointerup", "pointercancel"]) this.svg.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }

  unit() { // picture pixels per screen pixel
    const area = this.svg.getBoundingClientRect();
    return Math.max(this.look[2] / area.width, this.look[3] / area.height);
  }

  at(event) {
    const area = this.svg.getBoundingClientRect();
    const unit = this.unit();
    const x = this.look[0] + this.look[2] / 2 + (event.clientX - area.left - area.width / 2) * unit;
    return [x, this.look[1] + this.look[3] / 2 + (event.clientY - area.top - area.height / 2) * unit];
  }
}

async function decoded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

export async function sizeOf(url) {
  const image = await decoded(url);
  return [image.naturalWidth, image.naturalHeight];
}

function place(image, url, [x, y, width, height]) {
  if (!url) {
    image.removeAttribute("href");
    return;
  }
  for (const [name, value] of Object.entries({ href: url, x, y, width, height })) image.setAttribute(name, value);
}

function box(region, threshold, [width, height]) {
  const air = Math.round(Math.max(width, height) * 0.008); // the line must not cover the defect
  const [x, y, across, down] = region.box;
  const left = Math.max(0, x - air);
  const top = Math.max(0, y - air);
  const corners = {
    x: left, y: top, width: Math.min(width, x + across + air) - left, height: Math.min(height, y + down + air) - top,
    rx: air / 2,
  };
  const kind = region.peak > threshold ? "over" : "under";
  return s("g", { class: `region ${kind}` },
    s("rect", { class: "region-back", ...corners }), s("rect", { class: "region-line", ...corners }));
}

// "at the top left": where the worst region lies, in the words of somebody who points at it.
const PLACES = [
  [t("at the top\u00a0left"), t("at the top"), t("at the top\u00a0right")],
  [t("at the left edge"), t("in the middle"), t("at the right edge")],
  [t("at the bottom\u00a0left"), t("at the bottom"), t("at the bottom\u00a0right")],
];

export function placeName(row, column) {
  return PLACES[row][column];
}

export function whereabouts(region, [width, height]) {
  const [x, y, across, down] = region.box;
  if (across * down > 0.5 * width * height) return t("over most of the part");
  const column = Math.min(2, Math.floor((3 * (x + across / 2)) / width));
  const row = Math.min(2, Math.floor((3 * (y + down / 2)) / height));
  return PLACES[row][column];
}

export function sentence(found, size) {
  const regions = found.regions ?? [];
  if (found.verdict === "PASS") return t("Nothing unusual found.");
  if (!regions.length) return t("Unusual, without one clear place.");
  const counted = found.verdict === "REJECT" ? regions.filter((region) => region.peak > found.threshold) : regions;
  const worst = counted[0] ?? regions[0];
  const place = size ? ` ${whereabouts(worst, size)}` : "";
  const others = counted.length - 1;
  const more = others < 1 ? "" : others > 1 ? t(", and {n} more places", { n: others }) : t(", and 1 more place");
  const words = { place, more };
  return found.verdict === "REJECT" ? t("Defect{place}{more}.", words) : t("Something unusual{place}{more}.", words);
}
