"""What an operator does, in a real browser on a real station: look, open a reject, sign in, change a threshold."""

from __future__ import annotations

import math
import os
import signal
import time
from typing import Any

import pytest

from .browsing import (
    NEEDS_BROWSER,
    SIZES,
    Line,
    find,
    has_class,
    open_view,
    reject_in_use,
    retype,
    screen,
    sign_in,
    text,
    value,
    verdict,
    wait,
)

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

pytestmark = NEEDS_BROWSER
FRESH = 5.0  # seconds that a verdict counts as live
LOOKS = [
    pytest.param(
        size, dark, id=f"{size}-{'dark' if dark else 'light'}",
        marks=() if (size, dark) == ("desktop", False) else pytest.mark.thorough,
    )
    for size in SIZES for dark in (False, True)
]  # fmt: skip


# -------------------------------------------------------------------------------------------------- an operator's day


def test_the_verdict_is_seen_from_afar(page: Any, line: Line) -> None:
    wait(lambda: verdict(page)[0] == "NO PART YET")
    line.inspect(line.good)
    wait(lambda: verdict(page) == ("PASS", "live"))
    line.inspect(line.bad)
    wait(lambda: verdict(page) == ("REJECT", "live"))
    pixels = float(find(page, ".verdict-word").value_of_css_property("font-size").removesuffix("px"))
    assert pixels >= 96  # 26 mm on a 24 inch screen: letters of 19 mm, read from 3 m with ease
    wait(lambda: page.execute_script("return document.querySelectorAll('#picture .region').length") > 0)
    assert find(page, "#picture .layer-picture").get_attribute("href").startswith("data:image/jpeg")
    assert text(page, ".verdict-why")
    find(page, "#show-regions").click()
    assert not find(page, "#picture .layer-regions").is_displayed()
    find(page, "#show-regions").click()


def test_picture_and_caption_name_the_same_part(page: Any, line: Line) -> None:
    """In every frame that is painted, whichever part the state tells of meanwhile."""
    page.execute_script(
        "window.seen = []; const picture = document.querySelector('#picture .layer-picture');"
        "const look = () => { seen.push([picture.getAttribute('href') ?? '', document.querySelector('#picture-caption')"
        ".textContent.match(/part-[0-9]+/)?.[0] ?? '']); requestAnimationFrame(look); }; look();"
    )
    new = set(line.good.parents[1].rglob("*.png")) - {line.good, line.bad}
    for picture in sorted(new)[:4]:  # no two alike, and none that was shown before: the page tells them by their bytes
        line.inspect(picture)
        wait(lambda: f"part-{line.parts:03}" in text(page, "#picture-caption"))
    seen = page.execute_script("return window.seen")
    captions: dict[str, set[str]] = {}
    for shown, caption in seen:
        captions.setdefault(shown, set()).add(caption)
    assert len(captions) >= 4
    assert all(len(names) == 1 for names in captions.values()), list(captions.values())


def test_counters_and_last_rejects(page: Any, line: Line) -> None:
    wait(lambda: "Reject" in text(page, "#counters") and page.find_elements("css selector", "#strip .tile"))
    wait(lambda: page.execute_script("return document.querySelector('#strip img').naturalWidth") > 0)


def test_an_old_verdict_never_looks_live(page: Any, line: Line) -> None:
    line.inspect(line.good)
    wait(lambda: verdict(page) == ("PASS", "live"))
    wait(lambda: verdict(page) == ("PASS", "past"), FRESH + 3)
    assert "ago" in text(page, ".verdict-eyebrow")
    wait(lambda: "old" in find(page, "#picture").get_attribute("class"))


def test_a_reject_is_opened_zoomed_and_labelled(page: Any, line: Line) -> None:
    wait(lambda: page.find_elements("css selector", "#strip .tile[data-kind=REJECT]"))
    find(page, "#strip .tile[data-kind=REJECT]").click()
    wait(lambda: find(page, "#part").is_displayed() and page.find_elements("css selector", "#part .region"))
    drawing = find(page, "#part .drawing")
    whole = drawing.get_dom_attribute("viewBox")
    find(page, "#part [aria-label='Zoom in']").click()
    assert drawing.get_dom_attribute("viewBox") != whole
    find(page, "#part [aria-label='Whole picture']").click()
    assert drawing.get_dom_attribute("viewBox") == whole
    page.execute_script("document.querySelector('#part input[value=\"heat map\"]').click()")
    wait(lambda: "off" not in (find(page, "#part .layer-heat").get_attribute("class") or ""))
    assert find(page, "#part .layer-heat").get_attribute("href").endswith("/heat")
    assert find(page, "#part .layer-picture").get_attribute("href").endswith("/original")
    find(page, "#label-defect").click()
    sign_in(page, "not the token at all")
    wait(lambda: text(page, "#sign-in-told") == "that is not this station's token")
    sign_in(page, line.token)
    wait(lambda: text(page, ".label-now") == "Real defect")
    find(page, "#rejudge").click()
    wait(lambda: "recipe says REJECT" in text(page, ".again-told"))
    find(page, "#part [aria-label=Close]").click()
    wait(lambda: not find(page, "#part").is_displayed())


def test_a_link_that_signs_in_leaves_no_code_in_the_address(page: Any, line: Line) -> None:
    code = "x" * 43
    page.get("about:blank")
    page.get(f"{line.url}#sign-in={code}")
    wait(lambda: find(page, "#sign-in").is_displayed())
    assert find(page, "#sign-in-token").get_property("value") == code
    assert code not in page.current_url
    find(page, "#sign-in-cancel").click()
    wait(lambda: not find(page, "#sign-in").is_displayed())


def test_a_threshold_is_previewed_changed_and_logged(page: Any, line: Line) -> None:
    open_view(page, line, "settings")
    wait(lambda: "would reject" in text(page, "#preview"))
    before = text(page, "#preview")
    assert not find(page, "#apply").is_enabled()
    slider = find(page, ".line-reject")
    page.execute_script("arguments[0].focus()", slider)
    for _ in range(40):
        slider.send_keys("\ue00f")  # page down
    wait(lambda: "instead of" in text(page, "#preview"))
    assert text(page, "#preview") != before
    assert float(find(page, "#reject").get_attribute("value")) <= 1e-3
    assert find(page, ".changed .tile").is_displayed()
    changes = page.execute_script(
        "return [...document.querySelectorAll('.changed .tile-part')].map((e) => e.textContent)"
    )
    assert all(change.split(" → ")[0] != change.split(" → ")[1] for change in changes), changes
    find(page, "#reset").click()
    assert "known defect, 0 would pass (now 0)" in text(page, "#preview-labels")  # labelled by the test before
    retype(page, "#reject", "77.5")
    assert not has_class(page, "#preview-labels", "warns")  # review looks at it still
    retype(page, "#review", "77.5")
    assert has_class(page, "#preview-labels", "warns")
    assert "1 would pass (now 0)" in text(page, "#preview-labels")
    find(page, "#apply").click()
    wait(lambda: find(page, "#doubted").is_displayed())
    assert "1 of 1 known defect would pass" in text(page, "#doubts")
    find(page, "#doubted-cancel").click()
    assert reject_in_use(page) < 77
    find(page, "#apply").click()
    wait(lambda: find(page, "#doubted").is_displayed())
    find(page, "#confirm").click()
    wait(lambda: "written to the log" in text(page, "#applied"))
    wait(lambda: reject_in_use(page) == 77.5)  # viewers share a look at the station for a moment
    retype(page, "#reject", "78")
    assert text(page, "#applied") == ""  # what stands there is not in use
    open_view(page, line, "log")
    wait(lambda: "77.5" in text(page, "tbody tr"))
    assert "Ada Lovelace" in text(page, "tbody tr")


def test_typing_one_threshold_leaves_the_other_alone(page: Any, line: Line) -> None:
    """Key by key, as people type: 14 is 1 for a moment."""
    open_view(page, line, "settings")
    wait(lambda: "would reject" in text(page, "#preview"))
    retype(page, "#review", "9")
    for keys in ("1", "14"):
        retype(page, "#reject", keys)
        assert value(page, "#review") == "9"
    assert find(page, "#apply").is_enabled()
    retype(page, "#review", "105")  # the point missed
    assert (value(page, "#review"), value(page, "#reject")) == ("105", "14")
    assert text(page, "#review-fault") == "Higher than reject"
    assert not find(page, "#apply").is_enabled()
    retype(page, "#review", "10.5")
    assert (value(page, "#review"), value(page, "#reject"), text(page, "#review-fault")) == ("10.5", "14", "")
    retype(page, "#review", "")
    assert text(page, "#review-fault") == "Needs a number"
    assert not find(page, "#apply").is_enabled()
    find(page, "#reset").click()
    assert text(page, "#review-fault") == ""


def test_dragging_a_line_moves_it(page: Any, line: Line) -> None:
    open_view(page, line, "settings")
    wait(lambda: "would reject" in text(page, "#preview"))
    review, reject = float(value(page, "#review")), float(value(page, "#reject"))
    far = 40 + find(page, ".line-reject").location["x"] - find(page, ".line-review").location["x"]
    page.execute_script(
        "window.told = []; const line = document.querySelector('.line-reject'); new MutationObserver(() => "
        "told.push(Number(line.getAttribute('aria-valuenow')))).observe(line, { attributeFilter: ['aria-valuenow'] })"
    )
    held = webdriver.ActionChains(page).click_and_hold(find(page, ".line-review .line-head"))
    held.move_by_offset(int(far), 0).move_by_offset(-60 - int(far), 0).release().perform()
    assert max(page.execute_script("return window.told")) > reject * 1.01  # pushed
    assert float(value(page, "#review")) < review
    assert float(value(page, "#reject")) == pytest.approx(reject)  # given back


def test_another_recipe_and_health(page: Any, line: Line) -> None:
    open_view(page, line, "settings")
    wait(lambda: page.find_elements("css selector", "#recipe option"))
    page.execute_script(
        "const s = document.querySelector('#recipe'); s.value = 'strict'; s.dispatchEvent(new Event('change'))"
    )
    wait(lambda: find(page, "#use-recipe").is_enabled())
    find(page, "#use-recipe").click()
    wait(lambda: "uses strict" in text(page, "#view-settings"), 30)
    open_view(page, line, "health")
    wait(lambda: "top" in text(page, ".health-row"))
    assert "pictures" in text(page, "#view-health")


# ----------------------------------------------------------------------------------------------------------- looks


@pytest.mark.slow
@pytest.mark.parametrize(("size", "dark"), LOOKS)
def test_every_view_fits_and_is_readable(page: Any, line: Line, size: str, dark: bool) -> None:
    screen(page, size, dark)
    for view in ("live", "parts", "parts/1", "trend", "settings", "health", "log"):
        open_view(page, line, view)
        time.sleep(0.7)
        wait(lambda: page.execute_script(CONTRAST) == [], 20, lambda: f"{view}: {page.execute_script(CONTRAST)}")  # noqa: B023
        wide = page.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{view} is {wide} pixels too wide"
        assert page.execute_script(OVERLAPS) == [], view


OVERLAPS = r"""
const seen = [...document.querySelectorAll("button, select, input[type=number], h2, h3, dd, label, .gauge-bar, .tile")]
  .filter((e) => e.checkVisibility({ opacityProperty: true }) && !e.closest(".tabs") && (!document.querySelector("dialog[open]") || e.closest("dialog")));
const area = seen.map((e) => e.getBoundingClientRect());
const bad = [];
for (let i = 0; i < seen.length; i++) for (let k = i + 1; k < seen.length; k++) {
  if (seen[i].contains(seen[k]) || seen[k].contains(seen[i])) continue;
  const [a, b] = [area[i], area[k]];
  const [x, y] = [Math.min(a.right, b.right) - Math.max(a.left, b.left), Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)];
  if (x > 2 && y > 2) bad.push(`${seen[i].textContent.slice(0, 20)} / ${seen[k].textContent.slice(0, 20)}`);
}
return bad;
"""

CONTRAST = r"""
const parse = (value) => { const [r, g, b, a = 1] = value.match(/[\d.]+/g).map(Number); return [r, g, b, a]; };
const light = ([r, g, b]) => { const [x, y, z] = [r, g, b].map((c) => ((c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)); return 0.2126 * x + 0.7152 * y + 0.0722 * z; };
const bad = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; (node = walker.nextNode());) {
  const element = node.parentElement;
  if (!node.textContent.trim() || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
  if (element.closest("svg, option, .deadman, .skip, :disabled, noscript, script")) continue;
  const style = getComputedStyle(element);
  if (style.clipPath !== "none") continue;
  let behind = [255, 255, 255];
  for (let e = element; e; e = e.parentElement) {
    const back = parse(getComputedStyle(e).backgroundColor);
    if (back[3] > 0.5) { behind = back; break; }
  }
  const [a, b] = [light(parse(style.color)), light(behind)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.7 && style.fontWeight >= 700);
  if (ratio < (large ? 3 : 4.5)) bad.push(`${node.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
}
return bad;
"""


def test_nothing_moves_while_the_page_fills(page: Any, line: Line) -> None:
    open_view(page, line, "live")
    time.sleep(2)
    moved = page.execute_async_script(
        "const done = arguments[0], moved = [];"
        "const who = (s) => (s.node?.id || s.node?.className || s.node?.nodeName) + ' ' + "
        "[s.previousRect, s.currentRect].map((r) => [r.x, r.y, r.width, r.height].map(Math.round).join(',')).join(' to ');"
        "new PerformanceObserver((list) => { for (const e of list.getEntries()) moved.push([e.value, e.startTime, e.sources.map(who)]); })"
        ".observe({ type: 'layout-shift', buffered: true }); setTimeout(() => done(moved), 500);"
    )
    assert sum(value for value, *_ in moved) < 0.02, moved  # cumulative layout shift; 0.1 counts as good


def test_the_page_asks_its_own_station_only_and_breaks_no_rule(page: Any, line: Line) -> None:
    page.get_log("browser")
    for view in ("live", "parts/1", "trend", "settings"):
        open_view(page, line, view)
        time.sleep(1)
        asked = page.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
        assert asked
        assert all(name.startswith((line.url, "data:")) for name in asked)
    assert [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_verdict_colours_stay_apart_for_every_eye(page: Any, line: Line) -> None:
    names = ("--pass", "--review", "--reject", "--none")
    script = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()"
    colours = [[int(page.execute_script(script, name)[k : k + 2], 16) / 255 for k in (1, 3, 5)] for name in names]
    for matrix in EYES.values():
        seen = [
            lab([sum(m * linear(c) for m, c in zip(row, colour, strict=True)) for row in matrix]) for colour in colours
        ]
        for k, one in enumerate(seen):
            for other in seen[k + 1 :]:
                assert math.dist(one, other) > 20


# Linear RGB as seen with each kind of cones, from Machado, Oliveira and Fernandes 2009 (severity 1)
EYES = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "no green": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "no blue": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}


def linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def lab(rgb: list[float]) -> tuple[float, float, float]:
    r, g, b = (min(max(c, 0), 1) for c in rgb)
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (c ** (1 / 3) if c > 0.008856 else 7.787 * c + 16 / 116 for c in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


# --------------------------------------------------------------------------------- when the page or the station stops


def test_a_page_whose_script_stopped_shows_no_verdict(page: Any, line: Line) -> None:
    line.inspect(line.bad)
    wait(lambda: verdict(page)[1] == "live")
    shown = "return Number(getComputedStyle(document.querySelector('.deadman')).opacity)"
    assert page.execute_script(shown) == 0
    page.execute_script(
        "window.setTimeout = () => 0; for (let k = 0; k < 100000; k++) { clearTimeout(k); clearInterval(k); }"
    )
    wait(lambda: page.execute_script(shown) == 1, 30)


def test_a_station_that_hangs_and_one_that_died(page: Any, line: Line) -> None:
    line.inspect(line.bad)
    wait(lambda: verdict(page)[1] == "live")
    os.kill(line.process.pid, signal.SIGSTOP)
    wait(lambda: verdict(page) == ("NO CONNECTION", "none"), 30)
    assert "Nothing below is live" in text(page, "#banner")
    os.kill(line.process.pid, signal.SIGCONT)
    wait(lambda: verdict(page)[0] != "NO CONNECTION", 30)
    line.inspect(line.bad)
    wait(lambda: verdict(page)[1] == "live")
    line.process.kill()
    wait(lambda: verdict(page) == ("NO CONNECTION", "none"), 30)
    assert page.title.startswith("No connection")
