"""The capture thread: every frame accounted for, the newest one handed out, a lost camera opened anew."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from capture_threads import balanced, drain, next_frame, running, wait_until, wait_until_still

from dskd.benchmarks.lab.station.rtsp_camera import RtspCamera, number_of
from dskd.runtime.capture.camera_thread import MOST_PENDING, Capture, CaptureSettings
from dskd.runtime.capture.frame_health import FrameHealth
from dskd.runtime.capture.newest_frames import newest_frames
from dskd.runtime.capture.sources import Source, open_source
from dskd.runtime.capture.sources.base import SourceLost
from dskd.runtime.capture.sources.gstreamer import has_elements
from dskd.runtime.capture.sources.rtsp import ffmpeg_source
from dskd.runtime.errors import DskdError
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Frame

RTSP: list[Any] = [
    pytest.param(ffmpeg_source, id="ffmpeg"),
    pytest.param(
        open_source,
        id="gstreamer",
        marks=pytest.mark.skipif(
            not has_elements("rtspsrc", "openh264dec", "jpegdec"),
            reason="needs apt install python3-gi gir1.2-gstreamer-1.0 gstreamer1.0-plugins-good and -bad",
        ),
    ),
]


@pytest.mark.parametrize("policy", ["latest", "every"])
def test_every_frame_is_counted_once_with_a_slow_consumer(policy: Any) -> None:
    taken: list[Frame | Dropped] = []
    with running(lambda: open_source("test://pattern?size=64x64&fps=200"), policy=policy, depth=4) as capture:
        while len(taken) < 150 or not capture.status().counts.drops:
            taken += [t for t in (capture.take(0.5) for _ in range(5)) if t]
            assert balanced(capture.status())
            time.sleep(0.05)  # ten frames come, and four are kept at most
    taken += drain(capture)
    counts = capture.status().counts
    frames = [t for t in taken if isinstance(t, Frame)]
    assert (len(taken), len(frames)) == (counts.captured, counts.handed_out)
    assert counts.drops.keys() == {Reason.REPLACED if policy == "latest" else Reason.OVERFLOW}
    assert len({t.id for t in taken}) == len(taken)
    assert {t.source for t in taken} == {"cam"}
    numbers = [int(frame.id.rpartition("-")[2]) for frame in frames]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("make", RTSP)
def test_a_slow_consumer_sees_what_is_now(make: Callable[[str], Source]) -> None:
    with RtspCamera(fps=25) as camera, running(lambda: make(camera.uri)) as capture:
        next_frame(capture)
        behind = []
        for _ in range(12):
            time.sleep(0.25)  # 4 frames a second of 25
            sent = camera.sent
            drain(capture)
            behind.append(sent - number_of(next_frame(capture).image))
        assert np.median(behind[-6:]) < camera.fps  # without the thread it is 2.5 seconds and grows


@pytest.mark.parametrize("make", RTSP)
def test_a_camera_that_stalls_or_dies_is_told_and_comes_back(
    make: Callable[[str], Source], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with RtspCamera() as camera, running(lambda: make(camera.uri), patience=1.0) as capture:
        wait_until(lambda: capture.status().state == "running")
        camera.stalled.set()
        assert wait_until(lambda: capture.status().state == "lost") < 5
        camera.stalled.clear()
        wait_until(lambda: capture.status().state == "running")
        camera.kill()
        assert wait_until(lambda: capture.status().state == "lost") < 5
        drain(capture)
        camera.start()
        wait_until(lambda: capture.status().state == "running")
        assert next_frame(capture).image.shape == (240, 320, 3)
        assert balanced(capture.status())
    assert capture.status().reconnects == 2
    assert capture.status().state == "stopped"
    events = [record.state for record in caplog.records if record.message.startswith("camera cam: ")]  # type: ignore[attr-defined]
    assert [e for k, e in enumerate(events) if e not in events[k - 1 : k]] == [
        "running",
        "lost",
        "running",
        "lost",
        "running",
        "stopped",
    ]


@pytest.mark.parametrize("make", RTSP)
def test_frames_of_another_resolution_and_frozen_ones_are_never_handed_out(make: Callable[[str], Source]) -> None:
    with (
        RtspCamera() as camera,
        running(lambda: make(camera.uri), health=FrameHealth(), patience=1.0) as capture,
    ):
        next_frame(capture)
        camera.kill()
        camera.size = (640, 480)
        camera.start()
        wait_until(lambda: capture.status().counts.drops.get(Reason.SIZE, 0) > 3)
        assert capture.status().fault.startswith("size: 640x480 instead of 320x240")
        assert {t.image.shape for t in drain(capture) if isinstance(t, Frame)} <= {(240, 320, 3)}
        camera.kill()
        camera.size = (320, 240)
        camera.start()
        next_frame(capture)
        camera.frozen = True
        wait_until(lambda: capture.status().counts.drops.get(Reason.FROZEN, 0) > 3)
        drain(capture)
        assert not [t for t in (capture.take(0.05) for _ in range(10)) if isinstance(t, Frame)]
        camera.frozen = False
        next_frame(capture)
        assert capture.status().fault == ""
        assert balanced(capture.status())


def test_each_part_gets_one_frame_in_order_from_a_camera_that_is_asked() -> None:
    options: dict[str, Any] = {"triggered": True, "policy": "every", "health": FrameHealth(), "depth": 30}
    with running(lambda: open_source("test://pattern?size=64x64", "software"), **options) as capture:
        wait_until(lambda: capture.status().state == "running")
        assert capture.take(0.3) is None
        for number in range(30):
            capture.trigger(f"p{number}")
            if number % 3:
                time.sleep(0.02)
        taken = [capture.take(2.0) for _ in range(30)]
        assert capture.take(0.3) is None
    assert [t and t.part for t in taken] == [f"p{number}" for number in range(30)]
    assert all(isinstance(t, Frame) for t in taken)


@pytest.mark.parametrize("make", RTSP)
def test_a_part_gets_the_first_frame_after_its_trigger_from_a_camera_that_runs_freely(
    make: Callable[[str], Source],
) -> None:
    with RtspCamera() as camera, running(lambda: make(camera.uri), triggered=True, policy="every") as capture:
        with pytest.raises(DskdError, match="not ready"):
            capture.trigger("too early")
        wait_until(lambda: capture.status().state == "running")
        numbers = []
        for part in range(5):
            triggered = time.time()
            capture.trigger(str(part))
            frame = next_frame(capture)
            assert frame.part == str(part)
            assert frame.captured >= triggered - 0.01
            numbers.append(number_of(frame.image))
            seen = capture.status().unasked
            wait_until(lambda: capture.status().unasked > seen + 1)  # noqa: B023 (it is called at once)
        assert numbers == sorted(set(numbers))
        assert capture.status().counts.captured == 5
        camera.stalled.set()
        wait_until_still(lambda: capture.status().unasked)
        capture.trigger("lost")
        camera.kill()
        told = capture.take(6.0)
    assert isinstance(told, Dropped)
    assert (told.part, told.reason) == ("lost", Reason.CAMERA_LOST)


def test_more_parts_than_can_wait_are_refused() -> None:
    with RtspCamera() as camera, running(lambda: ffmpeg_source(camera.uri), triggered=True, patience=4.0) as capture:
        wait_until(lambda: capture.status().state == "running")
        camera.stalled.set()
        wait_until_still(lambda: capture.status().unasked)
        for number in range(MOST_PENDING):
            capture.trigger(str(number))
        with pytest.raises(DskdError, match="busy"):
            capture.trigger("one more")
        waiting = capture.status().pending
        told = [capture.take(10.0) for _ in range(waiting)]
    assert [t and t.part for t in told] == [str(number) for number in range(waiting)]
    assert balanced(capture.status())


def test_a_camera_that_runs_freely_takes_no_trigger() -> None:
    with running(lambda: open_source("test://pattern")) as capture, pytest.raises(DskdError, match="runs freely"):
        capture.trigger("p")


def test_files_are_read_no_faster_than_they_are_taken(tmp_path: Any) -> None:
    for number in range(20):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), np.full((32, 32, 3), 5 * number + 20, np.uint8))
    with running(lambda: open_source(f"folder://{tmp_path}"), depth=3) as capture:
        wait_until(lambda: capture.status().counts.captured == 3)
        wait_until_still(lambda: capture.status().counts.captured)
        assert capture.status().counts.captured == 3
        taken = [capture.take(2.0) for _ in range(20)]
        wait_until(lambda: capture.status().state == "ended")
    assert [t and t.id for t in taken] == [f"{number:02}.png" for number in range(20)]
    assert capture.status().counts.dropped == 0


def test_a_source_that_raises_anything_is_opened_anew() -> None:
    calls: list[int] = []

    def make() -> Source:
        calls.append(1)
        if len(calls) < 4:
            raise RuntimeError("driver in a bad state")
        return open_source("test://pattern?fps=100")

    with running(make) as capture:
        next_frame(capture)
        assert capture.alive
    assert len(calls) == 4
    assert capture.alive


def test_a_person_beside_one_camera_is_told_why_it_was_lost_first_however_slowly_frames_are_used() -> None:
    with RtspCamera() as served:
        frames = newest_frames(open_source(served.uri))
        next(frames)
        served.kill()
        time.sleep(2.0)  # as long as a loaded machine may take for one frame; a camera opened anew would not be found
        with pytest.raises(SourceLost):
            list(frames)


def test_a_person_is_told_why_the_camera_was_lost_also_where_it_cannot_be_closed_either(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Pulled:
        uri, live, triggerable = "v4l2:///dev/video9", True, False

        def open(self) -> None:
            """Works."""

        def read(self, timeout: float) -> None:
            raise SourceLost("the cable was pulled")

        def trigger(self) -> None:
            raise AssertionError("is not triggerable")

        def close(self) -> None:
            raise OSError("no such device")

    with pytest.raises(SourceLost, match="the cable was pulled"):
        list(newest_frames(Pulled()))
    with running(Pulled):
        wait_until(lambda: "camera cam: the cable was pulled" in caplog.messages)
        time.sleep(0.5)  # some more attempts
    assert "no such device" not in caplog.text


def test_stop_while_the_camera_is_absent_and_before_start() -> None:
    with running(lambda: ffmpeg_source("rtsp://127.0.0.1:9/none")) as capture:
        wait_until(lambda: capture.status().state == "lost")
    assert Capture("never started", lambda: open_source("test://pattern"), CaptureSettings()).stop()


def test_what_was_captured_can_be_taken_after_stop() -> None:
    with running(lambda: open_source("test://pattern?size=64x64&fps=50"), policy="every") as capture:
        wait_until(lambda: capture.status().counts.waiting >= 3)
    waiting = capture.status().counts.waiting
    assert len([t for t in drain(capture) if isinstance(t, Frame)]) == waiting


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("make", RTSP)
def test_fifty_reconnects_leak_no_descriptor_and_no_thread(make: Callable[[str], Source]) -> None:
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    with RtspCamera(fps=50) as camera, running(lambda: make(camera.uri), patience=2.0) as capture:
        seen = []
        for _ in range(50):
            next_frame(capture, 10.0)
            camera.kill()
            wait_until(lambda: capture.status().state != "running")
            camera.start()
            wait_until(lambda: capture.status().state == "running")
            drain(capture)
            seen.append(held())
        assert capture.status().reconnects == 50
        assert balanced(capture.status())
    # the least of ten: a reconnect that is being closed holds some for a moment, a leak never lets go; of the early ones the
    # middle, since one that is looked at while it opens holds less than it will
    early, late = np.median(seen[5:15], axis=0), np.min(seen[-10:], axis=0)
    assert (late <= early + 1).all(), seen
    assert not [t for t in threading.enumerate() if t.name == "capture cam"]
