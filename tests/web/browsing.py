"""A real browser on a real station: how tests start both, look, and type."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from dskd.benchmarks.lab.station.drill import free_port
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.capture.image_files import list_images, read_image
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.result import Frame

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NEEDS_BROWSER = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed (apt: chromium chromium-driver)"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)
SIZES = {"phone": (390, 844), "desktop": (1920, 1080), "4K": (3840, 2160)}


class Reached(Protocol):
    """Whatever has a page."""

    @property
    def url(self) -> str: ...


@dataclass
class Line:
    """A station in a process of its own that inspects what is put into a folder."""

    process: subprocess.Popen[bytes]
    url: str
    token: str
    feed: Path
    good: Path
    bad: Path
    parts: int = 0

    def inspect(self, picture: Path) -> None:
        self.parts += 1
        waiting = self.feed / f".{self.parts}"
        shutil.copy(picture, waiting)
        waiting.rename(self.feed / f"part-{self.parts:03}.png")


@pytest.fixture(scope="module")
def line(bundle: Bundle, small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("line")
    settings = Settings.of(bundle.manifest.graphs["model.onnx"].thresholds)
    inspector = Inspector(bundle, open_backend(bundle, threads=1), settings)
    paths = list_images(small_set / "test")
    scores = {path: inspector.inspect(Frame("x", "x", 0.0, read_image(path))).score for path in paths}
    good, bad = min(scores, key=scores.__getitem__), max(scores, key=scores.__getitem__)
    low, high = scores[good], scores[bad]
    (folder / "feed").mkdir()
    (folder / "station.yaml").write_text(
        f"""
name: line-3
data: {folder}/data
cameras:
  top: {{source: "watch://{folder}/feed", recipe: plate}}
recipes:
  plate: {{bundle: {bundle.path}, review: {low + 0.5 * (high - low)}, reject: {low + 0.7 * (high - low)}}}
  strict: {{bundle: {bundle.path}, review: {low + 0.1 * (high - low)}, reject: {low + 0.2 * (high - low)}}}
sinks:
  pictures: {{kind: archive, keep: all, min_free_gb: 0}}
web: {{listen: "127.0.0.1:{free_port()}"}}
"""
    )
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "dskd.runtime.station", folder / "station.yaml"], stderr=log)
    url = re.search(r"127\.0\.0\.1:\d+", (folder / "station.yaml").read_text())
    assert url
    token = folder / "data" / "token"
    wait(lambda: token.exists() and process.poll() is None, 60, lambda: (folder / "log").read_text())
    yield Line(process, f"http://{url[0]}/", token.read_text().strip(), folder / "feed", good, bad)
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tempfile.mkdtemp(prefix="chromium-")
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(20)
    yield driver
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def page(browser: Any, line: Line) -> Any:
    screen(browser, "desktop")
    open_view(browser, line, "live")
    return browser


def screen(browser: Any, name: str, dark: bool = False) -> None:
    width, height = SIZES[name]
    scale = 2 if name == "phone" else 1
    size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": name == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})


def open_view(browser: Any, line: Reached, view: str) -> None:
    browser.get("about:blank")
    browser.get(f"{line.url}#{view}")
    wait(lambda: text(browser, "#station") == "line-3", 20)


def wait(true: Callable[[], object], seconds: float = 30, told: Callable[[], str] = lambda: "") -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, told()
        time.sleep(0.05)


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def text(browser: Any, selector: str) -> str:
    return str(browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector))


def verdict(browser: Any) -> tuple[str, str]:
    """The word and its look: live, past or none."""
    return text(browser, ".verdict-word"), find(browser, "#verdict").get_attribute("data-look")


def value(browser: Any, selector: str) -> str:
    return str(find(browser, selector).get_attribute("value"))


def has_class(browser: Any, selector: str, name: str) -> bool:
    return name in str(find(browser, selector).get_attribute("class")).split()


def retype(browser: Any, selector: str, keys: str) -> None:
    """Selects what stands there and types over it."""
    find(browser, selector).send_keys("\ue009a\ue000", keys or "\ue017")


def reject_in_use(browser: Any) -> float:
    script = "return fetch('/api/state').then((a) => a.json()).then((s) => s.cameras[0].reject)"
    return float(browser.execute_script(script))


def sign_in(browser: Any, token: str) -> None:
    wait(lambda: find(browser, "#sign-in").is_displayed())
    for selector, value in (("#sign-in-name", "Ada Lovelace"), ("#sign-in-token", token)):
        find(browser, selector).clear()
        find(browser, selector).send_keys(value)
    find(browser, "#sign-in-form button[type=submit]").click()
