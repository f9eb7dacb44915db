"""A camera that works and is too slow is a warning: verdicts that come late, an engine that is there and not used."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from station_files import PATTERN, wait_for, write_station

from dskd.runtime.station.camera import LAST, NO_DEADLINE, StationCamera
from dskd.runtime.station.control import CameraStatus
from dskd.runtime.station.load import load_station
from dskd.runtime.station.station import Station

DEADLINE = 400
TRIGGERED = {"source": PATTERN, "recipe": "good", "trigger": {"kind": "software", "deadline_ms": DEADLINE}}
FACTS: dict[str, Any] = {
    "precision": "fp16", "graph": "model.fp16.onnx", "graph_sha256": 64 * "0", "bundle": "x", "tensorrt": "10.3.0",
    "gpu": "Orin", "compute_capability": "8.7", "batch": [1, 1, 8], "dla_core": None, "build_seconds": 1.0,
    "plan_sha256": 64 * "0", "score_difference": 0.0, "map_difference": 0.0, "created": "2026-01-01",
}  # fmt: skip


def measured(camera: StationCamera, *milliseconds: float) -> CameraStatus:
    """The camera's status after verdicts that took so long."""
    camera._latencies.clear()
    camera._latencies.extend((time.time(), ms) for ms in milliseconds)
    return camera.status()


@pytest.fixture
def cameras(tmp_path: Path) -> Iterator[Any]:
    """With a deadline, and running free."""
    free = {"source": "watch://nothing", "recipe": "good"}
    (tmp_path / "nothing").mkdir()
    station = Station(load_station(write_station(tmp_path, cameras={"timed": TRIGGERED, "free": free})))
    station.start()

    wait_for(lambda: all(camera.status().ready for camera in station.cameras.values()))
    yield station.cameras
    station.stop()


@pytest.mark.parametrize(
    ("name", "bound", "said"),
    [("timed", DEADLINE, "the trigger's deadline_ms"), ("free", NO_DEADLINE, "the page calls live")],
)
def test_verdicts_that_come_late_are_a_warning(cameras: Any, name: str, bound: float, said: str) -> None:
    camera = cameras[name]
    quick, slow = 0.9 * bound, 1.1 * bound
    for calm in ([], [slow], 99 * [quick] + [slow], [slow, slow] + LAST * [quick]):  # the last: slow ones long ago
        assert measured(camera, *calm).status.health == "ok", calm
    for late in ([slow, slow], 98 * [quick] + 2 * [slow], 200 * [slow]):
        status = measured(camera, *late).status
        assert status.health == "warning"
        number = min(LAST, late.count(slow))
        assert status.detail.startswith(
            f"{number} of the last {min(LAST, len(late))} verdicts came later than {bound:.0f} ms"
        )
        assert said in status.detail
        assert status.detail.endswith("use a faster backend or precision, or less work for it")


@pytest.mark.parametrize(
    ("backend", "l4t", "machine", "warned"),
    [
        ("auto", None, "x86_64", True),
        ("auto", "36.4.0", "aarch64", True),
        ("auto", "36.4.0", "x86_64", False),  # a Jetson's engine, on a PC
        ("onnxruntime", None, "x86_64", False),  # as the file wants it
    ],
)
def test_an_engine_that_is_there_and_not_used_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, l4t: str | None, machine: str, warned: bool
) -> None:
    file = write_station(tmp_path, backend={"name": backend, "threads": 1})
    engines = tmp_path / "tiny" / "engines"
    engines.mkdir()
    (engines / "model.fp16.plan").write_bytes(b"no plan")
    (engines / "model.fp16.json").write_text(json.dumps({**FACTS, "built_on": {"l4t": l4t}}))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    station = Station(load_station(file))
    station.start()
    try:
        wait_for(lambda: station.cameras["top"].status().inspected > 0)
        camera = station.status().cameras[0]
        if not warned:
            assert camera.status.health == "ok"
            return
        assert camera.status.health == station.status().health == "warning"
        said, _, reason = camera.status.detail.partition(": ")
        assert said == f"engine present, runs on {camera.backend}"
        assert reason
        assert camera.ready
    finally:
        station.stop()
