"""A shift lead and a quality engineer at the page: label by keys, search, trend, export, undo, in their language."""

from __future__ import annotations

import sqlite3
from typing import Any

import httpx
import pytest

from .browsing import NEEDS_BROWSER, Line, find, open_view, reject_in_use, screen, sign_in, text, value, verdict, wait

ActionChains = pytest.importorskip("selenium.webdriver", reason="selenium is not installed").ActionChains
pytestmark = NEEDS_BROWSER
KEYS = {"right": "\ue014", "enter": "\ue007"}


def type_key(page: Any, key: str) -> None:
    """To whatever has the focus, as a keyboard does."""
    page.switch_to.active_element.send_keys(key)


def box(page: Any) -> list[float]:
    """What the drawing of the opened part shows: x, y, width, height in pixels of the picture."""
    return [float(number) for number in find(page, "#part .drawing").get_dom_attribute("viewBox").split()]


def title(page: Any) -> str:
    return text(page, "#part-title")


def stored(line: Line, path: str) -> Any:
    return httpx.get(f"{line.url}api/{path}", timeout=20).json()


@pytest.fixture(scope="module")
def rejects(line: Line) -> list[int]:
    """Ids of four rejects and two passes, oldest first."""
    for picture in (line.bad, line.good, line.bad, line.bad, line.good, line.bad):
        line.inspect(picture)
    wait(lambda: sum(stored(line, "counts")["counts"].values()) == 6)
    rows = stored(line, "inspections?verdict=REJECT")["inspections"]
    wait(lambda: all(stored(line, f"inspections/{row['id']}")["heat"] for row in rows))
    return [row["id"] for row in reversed(rows)]


@pytest.fixture
def opened(page: Any, line: Line, rejects: list[int]) -> Any:
    """The newest reject, in full."""
    open_view(page, line, f"parts/{rejects[-1]}")
    wait(
        lambda: (
            page.find_elements("css selector", "#part .region") and page.find_elements("css selector", "#parts .tile")
        )
    )
    return page


def test_the_heat_is_there_and_zooming_in_leads_to_the_defect(opened: Any, line: Line, rejects: list[int]) -> None:
    page = opened
    assert "off" not in (find(page, "#part .layer-heat").get_attribute("class") or "").split()
    x, y, width, height = stored(line, f"inspections/{rejects[-1]}")["regions"][0]["box"]
    middle = x + width / 2, y + height / 2
    whole = box(page)
    for _ in range(4):
        find(page, "#zoom-in").click()
    left, top, across, down = box(page)
    assert across < whole[2] / 4
    assert left <= middle[0] <= left + across
    assert top <= middle[1] <= top + down
    type_key(page, "0")
    assert box(page) == whole
    type_key(page, "+")
    assert box(page)[2] < whole[2]
    type_key(page, "h")
    assert "off" in find(page, "#part .layer-heat").get_attribute("class").split()


def test_a_click_on_a_region_shows_it_large(page: Any, line: Line, rejects: list[int]) -> None:
    """The part's only region is made small: by hand, as a store allows."""
    database = sqlite3.connect(next((line.feed.parent / "data").glob("*.db")))
    kept = database.execute("SELECT regions FROM records WHERE id = ?", (rejects[0],)).fetchone()
    small = '[{"box": [30, 20, 40, 30], "area": 900, "peak": 99.0}]'
    with database:
        database.execute("UPDATE records SET regions = ? WHERE id = ?", (small, rejects[0]))
    try:
        open_view(page, line, f"parts/{rejects[0]}")
        wait(lambda: page.find_elements("css selector", "#part .region"))
        whole = box(page)
        ActionChains(page).move_to_element(find(page, "#part .region-line")).click().perform()  # its middle
        wait(lambda: box(page) != whole)
        left, top, across, down = box(page)
        assert across < whole[2] / 2
        assert (left + across / 2, top + down / 2) == (pytest.approx(50), pytest.approx(35))
    finally:
        with database:
            database.execute("UPDATE records SET regions = ? WHERE id = ?", (*kept, rejects[0]))
        database.close()


def test_parts_are_labelled_by_keys_one_after_another_and_taken_back(
    opened: Any, line: Line, rejects: list[int]
) -> None:
    page = opened
    first = title(page)
    find(page, "#defect-kind").send_keys("scratch", KEYS["enter"])  # typed into a field, letters are letters
    sign_in(page, line.token)
    wait(lambda: "Real defect, scratch" in text(page, ".label-now"))
    assert title(page) == first
    assert find(page, "#label-defect").get_attribute("aria-pressed") == "true"
    assert text(page, ".kind").startswith("scratch")
    find(page, "#close-part").click()

    open_view(page, line, f"parts/{rejects[-1]}")
    wait(lambda: page.find_elements("css selector", ".kind") and page.find_elements("css selector", "#parts .tile"))
    type_key(page, KEYS["right"])
    wait(lambda: title(page) != first and page.find_elements("css selector", "#part .kind"))
    second = title(page)
    type_key(page, "1")  # the first kind of defect, and on
    wait(lambda: title(page) not in (first, second))
    assert stored(line, f"inspections/{rejects[-2]}")["label"] == "confirmed defect"
    assert stored(line, f"inspections/{rejects[-2]}")["defect"] == "scratch"
    third = title(page)
    wait(lambda: page.find_elements("css selector", "#label-good"))
    type_key(page, "g")
    wait(lambda: title(page) not in (first, second, third))
    assert stored(line, f"inspections/{rejects[-3]}")["label"] == "false alarm"
    wait(lambda: "U takes that back" in text(page, "#part .told"))
    type_key(page, "u")
    wait(lambda: title(page) == third and text(page, ".label-now") == "Nobody has looked at it yet")
    assert stored(line, f"inspections/{rejects[-3]}")["label"] is None
    log = [entry["detail"] for entry in stored(line, "audit")["entries"][:3]]
    assert log == [
        f"record {rejects[-3]}: no label", f"record {rejects[-3]}: false alarm",
        f"record {rejects[-2]}: confirmed defect, scratch",
    ]  # fmt: skip


def test_parts_are_found_by_name_score_and_label(page: Any, line: Line, rejects: list[int]) -> None:
    open_view(page, line, "parts")

    def tiles() -> list[str]:
        script = "return [...document.querySelectorAll('#parts .tile')].map((tile) => tile.hash.split('/')[1])"
        return [str(name) for name in page.execute_script(script)]

    wait(lambda: len(tiles()) == len(rejects))
    find(page, "#parts-part").send_keys("part-001", KEYS["enter"])
    wait(lambda: tiles() == [str(rejects[0])])
    find(page, "#parts-reset").click()
    wait(lambda: len(tiles()) == len(rejects))
    find(page, "#parts-least").send_keys("99", KEYS["enter"])
    wait(lambda: "No such parts" in text(page, "#parts"))
    find(page, "#parts-reset").click()
    wait(lambda: len(tiles()) == len(rejects))
    find(page, "#parts-label").send_keys("Called a defect")
    wait(lambda: tiles() == [str(rejects[-1]), str(rejects[-2])])
    assert "label=defect" in find(page, "#export-zip").get_attribute("href")
    assert httpx.get(find(page, "#export-csv").get_attribute("href")).text.count("scratch") == 2


def test_a_shift_is_seen_at_a_glance(page: Any, line: Line, rejects: list[int]) -> None:
    open_view(page, line, "trend")
    wait(lambda: f"{len(rejects)} rejected" in text(page, "#trend-bars-told"))
    bars = page.find_elements("css selector", "#trend-bars rect[data-kind=REJECT]")
    assert sum(int(bar.get_attribute("data-count")) for bar in bars) == len(rejects)
    assert find(page, ".pareto strong").text == str(len(rejects))  # all of them at one place
    assert find(page, ".pareto .sum").text == "100 %"
    assert page.find_elements("css selector", "#trend-scores .median-point")
    find(page, "#trend-span").send_keys("last 7 days")
    wait(lambda: "A bar holds 6 h" in text(page, "#trend-bars-told"))


def test_a_picture_keeps_its_colours_when_parts_stop(page: Any, line: Line, rejects: list[int]) -> None:
    line.inspect(line.bad)
    wait(lambda: verdict(page) == ("REJECT", "live"))
    wait(lambda: verdict(page) == ("REJECT", "past"))
    assert find(page, "#picture .drawing").value_of_css_property("filter") == "none"
    assert "Last picture" in text(page, "#picture-caption")


def test_thresholds_go_back_to_what_they_were_from_the_log(page: Any, line: Line, rejects: list[int]) -> None:
    before = reject_in_use(page)
    open_view(page, line, "settings")
    wait(lambda: value(page, "#reject"))
    find(page, "#reject").send_keys("\ue009a\ue000", f"{1.01 * before:.6g}")
    find(page, "#apply").click()
    if find(page, "#sign-in").is_displayed():
        sign_in(page, line.token)
    wait(lambda: "written to the log" in text(page, "#applied"))
    wait(lambda: reject_in_use(page) == pytest.approx(1.01 * before, rel=1e-5))
    open_view(page, line, "log")
    wait(lambda: page.find_elements("css selector", "button.undo"))
    assert len(page.find_elements("css selector", "button.undo")) == 1  # what is in use has one way back
    find(page, "button.undo").click()
    wait(lambda: "written to the log" in text(page, "#log-told"))
    wait(lambda: reject_in_use(page) == pytest.approx(before, rel=1e-5))
    links = [link.get_attribute("href") for link in page.find_elements("css selector", ".log-list a")]
    assert f"{line.url}#parts/{rejects[-2]}" in links


def test_parts_stand_in_the_order_that_was_chosen(page: Any, line: Line, rejects: list[int]) -> None:
    rows = {row["id"]: row["score"] / row["threshold"] for row in stored(line, "inspections")["inspections"]}
    assert len(rows) >= len(rejects)
    expected = {
        "oldest": sorted(rows),
        "score": sorted(rows, key=lambda one: (-rows[one], -one)),
        "newest": sorted(rows)[::-1],
    }
    open_view(page, line, "parts")
    for order, ids in expected.items():
        find(page, f"#parts-order option[value={order}]").click()
        hrefs = [f"{line.url}#parts/{number}" for number in ids]
        shown = "return [...document.querySelectorAll('#parts .tile')].map((a) => a.href)"
        wait(lambda: page.execute_script(shown) == hrefs, told=lambda: f"{order}: {page.execute_script(shown)}")  # noqa: B023


def test_pictures_and_clocks_are_told(page: Any, line: Line, rejects: list[int]) -> None:
    open_view(page, line, "trend")
    wait(lambda: len(page.find_elements("css selector", "#trend-quality figure")) == 3)
    assert text(page, "#trend-quality figcaption").startswith("Brightness ")
    open_view(page, line, "health")
    wait(lambda: "the station's own clock is UTC" in text(page, "#zone"))


GAUGE = """
const { gauge } = await import(new URL("static/gauge.js", location.href));
const bad = [];
for (const [value, review, reject] of [[1, 8, 10], [950, 8, 10], [0, 0.0001, 0.0002], [5, 0.2, 10], [12, null, 10], [88888, 77777.7, 80000]]) {
  for (const width of [150, 260, 900]) {
    const holder = document.createElement("div");
    holder.className = "gauge";
    holder.style.cssText = `width: ${width}px; position: fixed; left: 0; top: 0`;
    document.body.append(holder);
    gauge(holder, { score: value, review, reject, kind: "PASS" });
    const [from, to] = [holder.getBoundingClientRect().left, holder.getBoundingClientRect().right];
    const [first, , second] = [...holder.lastChild.children].map((e) => e.getBoundingClientRect());
    const at = holder.querySelector(".zone-reject").getBoundingClientRect().left;
    const room = first.width + second.width + 40 < width;
    if (first.left < from - 1 || (room && second.right > to + 1) || first.right > second.left + 1) bad.push([value, review, reject, width]);
    if (width === 900 && value === 1 && Math.abs(second.left - at) > 2) bad.push(["reject is not where it begins", second.left, at]);
    holder.remove();
  }
}
return bad;
"""


def test_no_label_of_the_gauge_is_cut_or_lies_on_another(page: Any, line: Line, rejects: list[int]) -> None:
    open_view(page, line, "live")
    assert page.execute_script(f"return (async () => {{ {GAUGE} }})()") == []


HISTOGRAM = """
const { Histogram } = await import(new URL("static/histogram.js", location.href));
const holder = document.createElement("div");
document.body.append(holder);
const limits = { review: 1.35, reject: 1.42 };
new Histogram(holder).show([1.33, 1.41, 1.43, 12].map((score) => ({ score })), limits, limits);
const bars = [...holder.querySelectorAll(".bars rect")].map((bar) => bar.getAttribute("class"));
holder.remove();
return bars;
"""


def test_parts_of_one_bar_are_coloured_by_what_becomes_of_each(page: Any, line: Line, rejects: list[int]) -> None:
    open_view(page, line, "live")
    bars = page.execute_script(f"return (async () => {{ {HISTOGRAM} }})()")
    assert bars == ["bar-pass", "bar-review", "bar-reject", "bar-reject"]


@pytest.mark.parametrize(
    ("wanted", "language", "word"),
    [("de-AT,en", "de", "SCHLECHT"), ("fr,zh-TW,de", "zh", "不合格"), ("pt,it", "en", "REJECT")],
)
def test_the_browser_chooses_the_language(
    page: Any, line: Line, rejects: list[int], wanted: str, language: str, word: str
) -> None:
    agent = page.execute_script("return navigator.userAgent")
    page.execute_cdp_cmd("Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": wanted})
    try:
        open_view(page, line, "live")
        wait(lambda: verdict(page)[0] == word)
        assert page.execute_script("return document.documentElement.lang") == language
        screen(page, "phone")
        sides = page.execute_script(
            "return ['.verdict', '.verdict-word'].map((s) => document.querySelector(s).getBoundingClientRect())"
        )
        assert sides[0]["left"] <= sides[1]["left"]
        assert sides[1]["right"] <= sides[0]["right"]
    finally:
        page.execute_cdp_cmd("Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": "en-US"})
