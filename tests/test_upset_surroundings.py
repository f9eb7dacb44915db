"""Folders that go away, disks that are full, descriptors that run out: said once, and survived."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from station_files import wait_for, write_station
from tiny_bundle import tiny_bundle

from dskd.runtime import atomic
from dskd.runtime.errors import CallError
from dskd.runtime.result import Frame, Inspection, Verdict
from dskd.runtime.sinks.archive import Archive, ArchiveConfig
from dskd.runtime.station import log as log_module
from dskd.runtime.station.load import load_station
from dskd.runtime.station.log import MOST, Patient, Repeats
from dskd.runtime.station.station import Station


def offer(archive: Archive, number: int) -> None:
    image = np.full((8, 8, 3), 90, np.uint8)
    found = Inspection("top", str(number), 1_790_000_000.0 + number, Verdict.REJECT, 2.0, 1.0, (), {}, "b", "x")
    archive.write([(Frame("top", str(number), found.captured, image), found)])


@pytest.mark.parametrize("what", ["the archive", "all its parents", "an hour"])
def test_an_archive_that_was_deleted_is_made_again(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "data" / "archive"
    config = ArchiveConfig(kind="archive", keep="all", min_free_gb=0, max_count=10, overlay=False, heat=False)
    archive = Archive(config, folder)
    offer(archive, 1)
    gone = {"the archive": folder, "all its parents": tmp_path / "data", "an hour": next(folder.glob("*/*"))}[what]
    shutil.rmtree(gone)
    for number in range(2, 5):
        offer(archive, number)
    assert len(list(folder.rglob("*.json"))) == 3


def test_an_archive_whose_place_is_taken_says_so(tmp_path: Path) -> None:
    config = ArchiveConfig(kind="archive", keep="all", min_free_gb=0, overlay=False, heat=False)
    archive = Archive(config, tmp_path / "archive")
    shutil.rmtree(tmp_path / "archive")
    (tmp_path / "archive").write_text("a file")
    with pytest.raises(FileExistsError, match="archive"):
        offer(archive, 1)


@pytest.mark.parametrize("kind", ["archive", "images"])
def test_a_station_starts_without_the_place_of_its_pictures_and_takes_it_when_it_is_free(
    kind: str, tmp_path: Path
) -> None:
    """As with a disk that is not mounted: a line does not stand still for pictures."""
    place = tmp_path / "place"
    place.write_text("a file")
    options = {"keep": "all", "min_free_gb": 0} if kind == "archive" else {}
    file = write_station(tmp_path, sinks={"pictures": {"kind": kind, "folder": str(place), **options}})
    station = Station(load_station(file))
    station.start()

    def health() -> str:
        return next(part.health for part in station.status().parts if part.name == "pictures")

    try:
        wait_for(lambda: station.status().cameras[0].inspected > 2 and health() == "warning")
        place.unlink()
        wait_for(lambda: health() == "ok" and any(place.rglob("*.png")))
    finally:
        station.stop()


def test_the_lock_outlives_a_move_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with atomic.sole_writer(folder):
        for change in (lambda: folder.rename(tmp_path / "moved"), lambda: None):
            change()
            folder.mkdir(exist_ok=True)
            with pytest.raises(CallError, match="another process"), atomic.sole_writer(folder):
                pass
            with pytest.raises(CallError, match="another process"), atomic.sole_writer(tmp_path / "moved"):
                pass
    for free in (folder, tmp_path / "moved"):
        with atomic.sole_writer(free):
            pass


def test_the_lock_holds_against_links_to_the_folder_and_against_other_processes(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    context = multiprocessing.get_context("spawn")
    with atomic.sole_writer(folder):
        shutil.rmtree(folder)
        folder.mkdir()
        with pytest.raises(CallError), atomic.sole_writer(tmp_path / "link"):
            pass
        other = context.Process(target=_hold, args=(folder,))
        other.start()
        other.join(60)
        assert other.exitcode == 7


def _hold(folder: Path) -> None:
    try:
        with atomic.sole_writer(folder):
            os._exit(0)
    except CallError:
        os._exit(7)


def test_a_full_log_disk_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = Patient(tmp_path / "log", maxBytes=100_000)
    logger = logging.getLogger("test full")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        logger.warning("first")
        whole, handler.stream = handler.stream, Full()  # type: ignore[assignment]
        for number in range(500):
            logger.error("line %d", number)
        handler.stream = whole
        logger.error("last")
    finally:
        logger.removeHandler(handler)
        handler.close()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "lines are missing" in said[0]
    assert "500 lines are missing" in said[1]
    assert (tmp_path / "log").read_text().splitlines() == ["first", "last"]


class Full:
    """A stream on a full disk."""

    def write(self, text: str) -> None:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")

    def tell(self) -> int:
        return 0

    def seek(self, *where: int) -> int:
        return 0


def record(name: str, text: str, exc_info: Any = None) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "f", 1, text, (), exc_info)


def test_a_library_that_complains_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now[0])
    repeats = Repeats()
    text = "socket.accept() out of system resource\nsocket: <asyncio.TransportSocket fd=7, laddr=('127.0.0.1', %d)>"
    assert sum(repeats.filter(record("asyncio", text % k)) for k in range(10_000)) == MOST
    try:
        raise OSError(24, "Too many open files")
    except OSError:
        info = sys.exc_info()
    assert sum(repeats.filter(record("dskd", "page failed", info)) for _ in range(1000)) == MOST
    assert sum(repeats.filter(record("dskd", "not stored: %s")) for _ in range(1000)) == 1000, "plain lines are meant"
    now[0] += log_module.PERIOD + 1
    again = record("asyncio", text % 0)
    assert repeats.filter(again)
    assert "9990 more like it" in again.getMessage()
    for k in range(3 * log_module.MOST_KINDS):
        repeats.filter(record("asyncio", f"{k} other"))
    assert len(repeats._seen) == log_module.MOST_KINDS


NO_TEMPORARY_FOLDER = """
import runpy, sys, tempfile
tempfile.tempdir = "/nowhere"
sys.argv = ["dskd runtime", *sys.argv[1:]]
runpy.run_module("dskd.runtime", run_name="__main__", alter_sys=True)
"""


def test_pictures_are_inspected_where_no_temporary_file_can_be_made(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:-2000])
    words = ["--bundle", bundle.path, "--source", f"folder://{folder}"]
    done = subprocess.run(
        [sys.executable, "-c", NO_TEMPORARY_FOLDER, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr  # one of two was dropped
    assert "captured 2 inspected 1 dropped 1" in done.stdout
    assert [line.partition(" ")[0] for line in done.stderr.splitlines()] == ["dropped:"]
