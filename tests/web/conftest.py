"""Fixtures of the page's tests: a small station whose pictures are judged both ways, and its page on a free port."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.result import Frame
from dskd.runtime.web.archive import Archive
from dskd.runtime.web.server import WebOptions, WebServer

from .browsing import browser, line, page
from .picture_station import PictureStation

__all__ = ["browser", "line", "page"]  # fixtures


@dataclass
class Served:
    """A page that runs. ``passed`` and ``rejected`` are record ids."""

    station: PictureStation
    server: WebServer
    token: str
    passed: int
    rejected: int
    good: Path
    bad: Path

    @property
    def url(self) -> str:
        return self.server.url.rstrip("/")

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}", "x-operator": "Ada"}

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, **options)  # type: ignore[arg-type]


def serve(bundle: Bundle, pictures: Path, data: Path, cameras: tuple[str, ...] = ("top",)) -> Served:
    """Starts it: thresholds stand between the least and the most unusual of the pictures."""
    station = PictureStation(bundle, pictures, data, cameras)
    inspector = station.inspectors[cameras[0]]
    scores = {p: inspector.inspect(Frame("x", "x", 0.0, read_image(p))).score for p in station.paths}
    good, bad = min(scores, key=scores.__getitem__), max(scores, key=scores.__getitem__)
    low, high = scores[good], scores[bad]
    for each in station.inspectors.values():
        each.settings = Settings(low + 0.5 * (high - low), low + 0.7 * (high - low))
    options = WebOptions("127.0.0.1:0", data / "token")
    server = WebServer(options, station, station.store, Archive(station.archive))
    server.start()
    passed, rejected = station.step(cameras[0], good), station.step(cameras[0], bad)
    wait_for_pictures(station, 2)
    return Served(station, server, (data / "token").read_text().strip(), passed, rejected, good, bad)


def wait_for_pictures(station: PictureStation, number: int) -> None:
    """The archive writes in its own time."""
    end = time.monotonic() + 20
    while station.pictures.status().delivered < number and time.monotonic() < end:
        time.sleep(0.02)


@pytest.fixture(scope="module")
def served(bundle: Bundle, small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    page = serve(bundle, small_set / "test", tmp_path_factory.mktemp("web"))
    yield page
    page.server.stop()
    page.station.close()


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as made:
        yield made
