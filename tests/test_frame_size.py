"""A station that starts while a wrong camera is attached does not take it for the right one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from station_files import PATTERN, wait_for, write_station

from dskd.runtime.capture.sources import open_source
from dskd.runtime.errors import DskdError
from dskd.runtime.station.control import CameraStatus
from dskd.runtime.station.load import load_station
from dskd.runtime.station.station import Station


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the camera behind the file's address really is."""
    real = {"source": PATTERN}
    monkeypatch.setattr(
        "dskd.runtime.station.station.open_source", lambda uri, *more: open_source(real.get("source", uri), *more)
    )
    return real


def run(file: Path, until: Any) -> CameraStatus:
    """Starts a station, waits, stops it; what its camera said."""
    station = Station(load_station(file))
    station.start()
    try:
        wait_for(lambda: until(station.status().cameras[0]))
        return station.status().cameras[0]
    finally:
        station.stop()


def inspects(camera: CameraStatus) -> bool:
    return camera.inspected > 3


def refuses(camera: CameraStatus) -> bool:
    return camera.dropped > 3


def test_a_wrong_camera_at_the_start_is_told_and_the_right_one_goes_on(
    tmp_path: Path, attached: dict[str, str]
) -> None:
    file = write_station(tmp_path)
    run(file, inspects)
    attached["source"] = "test://pattern?size=96x64&fps=25"
    told = run(file, refuses)
    assert told.inspected == 0
    assert told.status.health == "fault"
    assert "96x64 instead of 64x64" in told.status.detail
    assert "health.size [96, 64]" in told.status.detail
    attached["source"] = PATTERN
    assert run(file, inspects).status.health == "ok"


def test_who_names_another_size_or_address_has_another_camera(tmp_path: Path, attached: dict[str, str]) -> None:
    run(write_station(tmp_path), inspects)
    attached["source"] = "test://pattern?size=96x64&fps=25"
    named = {"source": PATTERN, "recipe": "good", "health": {"size": [96, 64]}}
    assert run(write_station(tmp_path, cameras={"top": named}), inspects).status.health == "ok"
    attached.clear()
    other = {"source": "test://pattern?size=80x64&fps=25", "recipe": "good"}
    assert run(write_station(tmp_path, cameras={"top": other}), inspects).status.health == "ok"


def test_a_lost_store_does_not_take_the_size_along(tmp_path: Path, attached: dict[str, str]) -> None:
    file = write_station(tmp_path)
    run(file, inspects)
    for part in (tmp_path / "data").glob("store.db*"):
        part.unlink()
    attached["source"] = "test://pattern?size=96x64&fps=25"
    assert run(file, refuses).inspected == 0


@pytest.mark.parametrize("text", ["", "[]", '{"top test": [64]}', '{"top test": [64, -1]}', "\0" * 40])
def test_a_file_that_says_nothing_is_written_anew(tmp_path: Path, attached: dict[str, str], text: str) -> None:
    file = write_station(tmp_path)
    run(file, inspects)
    kept = tmp_path / "data" / "frame_sizes.json"
    whole = kept.read_text()
    kept.write_text(text)
    assert run(file, inspects).status.health == "ok"
    assert kept.read_text() == whole


def test_a_disk_that_refuses_ends_neither_housekeeping_nor_a_stop(
    tmp_path: Path, attached: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    station = Station(load_station(write_station(tmp_path)))
    station.start()
    try:
        wait_for(lambda: inspects(station.status().cameras[0]))

        def refuses_to_write(path: Path, text: str) -> None:
            raise DskdError(f"{path}: the disk is full; delete something")

        with monkeypatch.context() as patched:
            patched.setattr("dskd.runtime.atomic.write_text", refuses_to_write)
            station._keep_sizes()  # as once a minute
        assert station.frame_sizes.known("top", PATTERN) is None
        station._keep_sizes()
        assert station.frame_sizes.known("top", PATTERN) == (64, 64)
    finally:
        station.stop()
