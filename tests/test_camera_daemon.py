"""NVIDIA's camera daemon is restarted by systemd alone; the station asks, and only where it may help."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
from station_files import write_station

from dskd.runtime.capture.camera_thread import CaptureStatus, State
from dskd.runtime.capture.frame_queue import Counts
from dskd.runtime.station.__main__ import watch
from dskd.runtime.station.camera_daemon import AWAY, FILE, PAUSE, CameraDaemon, csi_cameras
from dskd.runtime.station.load import load_station
from dskd.runtime.station.station import Station


class Camera:
    """A capture whose state is the test's."""

    def __init__(self, state: State = "running") -> None:
        self.state: State = state

    def status(self) -> CaptureStatus:
        return CaptureStatus(self.state, "", 0.0, "", Counts(0, 0, 0, 0, 0, {}), 0, 0, 0)


class Seconds:
    """A clock that the test turns."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def later(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FILE, str(tmp_path / "argus-stuck"))
    return tmp_path / "argus-stuck"


def test_a_daemon_is_restarted_where_no_csi_camera_gives_pictures(file: Path) -> None:
    left, right, clock = Camera(), Camera(), Seconds()
    daemon = CameraDaemon([left, right], clock)
    left.state = "lost"
    for _ in range(3):  # the other one is served: its pictures would stop for nothing
        clock.later(AWAY)
        assert not daemon.look()
    right.state = "opening"  # as after a restart of the station, and where opening hangs
    clock.later(AWAY - 1)
    assert not daemon.look()
    assert not file.exists()
    clock.later(1)
    assert daemon.look()
    assert file.exists()


def test_it_is_asked_seldom_and_again_after_a_camera_was_there(file: Path) -> None:
    camera, clock = Camera("opening"), Seconds()
    daemon = CameraDaemon([camera], clock)
    asked = []
    for second in range(int(3 * PAUSE)):
        clock.later(1)
        if daemon.look():
            asked.append(second + 1)
    assert asked == [AWAY, AWAY + PAUSE, AWAY + 2 * PAUSE]
    camera.state = "running"
    clock.later(PAUSE)
    assert not daemon.look()
    camera.state = "lost"
    clock.later(AWAY - 1)
    assert not daemon.look()
    clock.later(1)
    assert daemon.look()


@pytest.mark.parametrize("state", ["ended", "stopped"])
def test_a_camera_that_ended_as_it_should_is_not_away(file: Path, state: State) -> None:
    clock = Seconds()
    daemon = CameraDaemon([Camera(state)], clock)
    clock.later(10 * PAUSE)
    assert not daemon.look()


def test_where_nobody_listens_a_person_is_told_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for place in ("", str(tmp_path / "absent" / "file")):
        monkeypatch.setenv(FILE, place)
        clock = Seconds()
        daemon = CameraDaemon([Camera("lost")], clock)
        clock.later(AWAY)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert not daemon.look()
        assert "sudo systemctl restart nvargus-daemon" in caplog.text


def test_other_cameras_have_nothing_to_do_with_it(file: Path) -> None:
    sources = {
        "top": "csi://0",
        "side": "gst://nvarguscamerasrc sensor-id=1 ! appsink",
        "usb": "v4l2:///dev/video0",
        "net": "rtsp://camera/csi",
    }
    assert csi_cameras(sources) == ["top", "side"]
    clock = Seconds()
    daemon = CameraDaemon([], clock)
    clock.later(10 * PAUSE)
    assert not daemon.look()


def test_a_station_asks_for_its_csi_camera(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here no element is NVIDIA's, so the camera never comes; it counts as away at once."""
    monkeypatch.setattr("dskd.runtime.station.camera_daemon.AWAY", 0.0)
    cameras = {"top": {"source": "csi://0", "recipe": "good"}}
    station = Station(load_station(write_station(tmp_path, cameras=cameras)))
    stop = threading.Event()
    station.start()
    try:
        watch(station, stop, lambda: stop.set() is None)  # type: ignore[func-returns-value]
    finally:
        station.stop()
    assert file.exists()
