"""Details of the page that a person trips over: two cameras with recipes of their own, a phone's edges, late pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dskd.runtime.bundle.loading import Bundle

from .browsing import NEEDS_BROWSER, find, open_view, retype, screen, sign_in, text, value, verdict, wait
from .conftest import Served, serve

pytestmark = NEEDS_BROWSER
DOWN, UP = "\ue015", "\ue013"  # arrow keys
OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}


@pytest.fixture(scope="module")
def two(bundle: Bundle, small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = serve(bundle, small_set / "test", tmp_path_factory.mktemp("two"), ("top", "side"))
    yield served
    served.server.stop()
    served.station.close()


@pytest.fixture
def settings(browser: Any, two: Served) -> Any:
    screen(browser, "desktop")
    open_view(browser, two, "settings")
    wait(
        lambda: "would reject" in text(browser, "#preview") and browser.find_elements("css selector", "#recipe option")
    )
    return browser


def box(page: Any, selector: str) -> dict[str, float]:
    script = "return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()"
    return dict(page.execute_script(script, selector))


def test_a_recipe_is_called_in_use_only_where_it_is(settings: Any, two: Served) -> None:
    page = settings
    assert value(page, "#recipe") == "standard"
    find(page, "#recipe").send_keys(DOWN)
    find(page, "#use-recipe").click()
    sign_in(page, two.token)
    wait(lambda: text(page, "#recipe-told").startswith("In use"))
    assert value(page, "#recipe") == "strict"
    find(page, "#recipe").send_keys(UP)  # looked at, not applied
    assert text(page, "#recipe-told") == ""
    assert find(page, "#use-recipe").is_enabled()
    find(page, "#settings-camera").send_keys(DOWN)
    wait(lambda: "Camera side uses standard" in text(page, "#view-settings"))
    assert (value(page, "#recipe"), text(page, "#recipe-told")) == ("standard", "")
    assert not find(page, "#use-recipe").is_enabled()
    find(page, "#settings-camera").send_keys(UP)
    wait(lambda: "Camera top uses strict" in text(page, "#view-settings"))
    assert (value(page, "#recipe"), text(page, "#recipe-told")) == ("strict", "")
    two.station.recipes["top"] = "standard"  # by a PLC, say
    wait(lambda: "Camera top uses standard" in text(page, "#view-settings"))
    assert (value(page, "#recipe"), text(page, "#recipe-told")) == ("standard", "")


def test_what_was_used_is_not_called_in_use_once_another_came(settings: Any, two: Served) -> None:
    page = settings
    find(page, "#recipe").send_keys(DOWN)
    find(page, "#use-recipe").click()
    wait(lambda: text(page, "#recipe-told").startswith("In use"))
    two.station.recipes["top"] = "standard"
    wait(lambda: text(page, "#recipe-told") == "")
    assert value(page, "#recipe") == "standard"


@pytest.mark.parametrize("size", ["phone", "desktop"])
@pytest.mark.parametrize(("review", "reject"), [("0.01", ""), ("0.01", "0.02"), ("", ""), ("77.5", "78")])
def test_both_handles_stay_whole_on_the_screen(settings: Any, size: str, review: str, reject: str) -> None:
    page = settings
    screen(page, size)
    for name, number in (("review", review), ("reject", reject)):
        if number:
            retype(page, f"#{name}", number)
    wide = page.execute_script("return document.documentElement.clientWidth")
    drawing = box(page, ".histogram-svg")
    heads = [box(page, f".line-{name} .line-head") for name in ("review", "reject")]
    for head in heads:
        assert max(0.0, drawing["left"]) - 0.5 <= head["left"]
        assert head["right"] <= min(wide, drawing["right"]) + 0.5
    assert heads[0]["right"] <= heads[1]["left"]
    for name, head in zip(("review", "reject"), heads, strict=True):
        word = box(page, f".line-{name} text")
        assert head["left"] <= word["left"]
        assert word["right"] <= head["right"]


def test_the_counts_beside_the_bars_are_theirs(settings: Any, two: Served) -> None:
    bars = settings.execute_script(
        "const part = (e) => [Number(e.querySelector('title').textContent.match(/[0-9]+/)[0]), Number(e.getAttribute('y'))];"
        "return [...document.querySelectorAll('.bars rect')].map(part)"
    )
    levels = settings.execute_script(
        "return [...document.querySelectorAll('.axis .level')].map((e) => [Number(e.nextSibling.textContent.match(/[0-9]+/)[0]), Number(e.getAttribute('y1'))])"
    )
    scores = httpx.get(f"{two.url}/api/cameras/top/scores?last=500", timeout=20).json()["scores"]
    assert sum(count for count, _ in bars) == len(scores) > 0
    assert dict(levels)
    tallest = max(count for count, _ in bars)
    assert max(count for count, _ in levels) == tallest
    for count, y in bars:
        if count in dict(levels):
            assert y == pytest.approx(dict(levels)[count])


def test_a_picture_that_comes_late_is_asked_for_again(
    browser: Any, two: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a browser whose clock is an hour ahead: what is young is told by the station's own."""
    late: list[Any] = []
    monkeypatch.setattr(two.station.pictures, "offer", late.append)
    record = two.station.step("top", two.bad)
    monkeypatch.undo()
    ahead = "const now = Date.now; Date.now = () => now() + 3.6e6"
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": ahead})["identifier"]
    try:
        screen(browser, "desktop")
        open_view(browser, two, "parts")
        tile = f"#parts .tile[href='#parts/{record}']"
        wait(lambda: text(browser, f"{tile} .tile-gone") == "picture not there yet")
        browser.execute_script("window.shown = document.querySelector(arguments[0])", tile)
        two.station.pictures.offer(late[0])
        loaded = "return window.shown.isConnected && window.shown.querySelector('img')?.naturalWidth > 0"
        wait(lambda: browser.execute_script(loaded))
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": script})


def test_colours_are_chosen_on_a_phone_too(browser: Any, two: Served) -> None:
    screen(browser, "phone", dark=True)
    open_view(browser, two, "live")
    seen = set()
    wide = browser.execute_script("return document.documentElement.clientWidth")
    for _ in range(3):
        button = box(browser, "#theme")
        assert button["left"] >= 0
        assert button["right"] <= wide
        assert min(button["width"], button["height"]) >= 40  # for a finger
        find(browser, "#theme").click()
        theme = browser.execute_script("return document.documentElement.dataset.theme")
        seen.add((theme, find(browser, "body").value_of_css_property("background-color")))
    assert {theme for theme, _ in seen} == {"auto", "light", "dark"}
    assert len({colour for _, colour in seen}) == 2  # automatic is dark here


def test_no_connection_stands_clear_of_the_borders(browser: Any, two: Served) -> None:
    size = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    open_view(browser, two, "live")
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE)
    try:
        wait(lambda: verdict(browser) == ("NO CONNECTION", "none"))
        script = "const range = document.createRange(); range.selectNodeContents(document.querySelector('.verdict-word')); return range.getBoundingClientRect().toJSON()"
        word, around = browser.execute_script(script), box(browser, ".verdict")
        margin = 0.02 * around["width"]
        assert around["left"] + margin <= word["left"]
        assert word["right"] <= around["right"] - margin
        assert word["width"] > 0.6 * around["width"]  # and is read from afar
    finally:
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**OFFLINE, "offline": False})
