"""A GigE Vision camera through Aravis, against Aravis's own fake camera on loopback."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from capture_threads import balanced, next_frame, running, wait_until

from dskd.runtime.capture.frame_health import FrameHealth
from dskd.runtime.capture.sources import SourceLost, open_source
from dskd.runtime.capture.sources.gige import PACKAGE
from dskd.runtime.capture.sources.pixel_formats import to_bgr
from dskd.runtime.capture.sources.system_gi import typelib
from dskd.runtime.errors import DskdError, MissingPart
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Frame

CAMERA = shutil.which("arv-fake-gv-camera-0.8")
try:
    typelib("Aravis", "0.8", PACKAGE)
    MISSING = "" if CAMERA else "needs apt install aravis-tools"
except MissingPart as missing:
    MISSING = str(missing)
real = pytest.mark.skipif(bool(MISSING), reason=MISSING)

URI = "gige://127.0.0.1?width=512&height=512&pixel=Mono8"  # larger ones lose packets on loopback


class FakeCamera:
    def __init__(self, *options: str) -> None:
        self.options = options
        self.start()

    def start(self) -> None:
        command = [str(CAMERA), "-i", "127.0.0.1", "-s", "GVCAM01", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: "0100007F:0F74" in Path("/proc/net/udp").read_text())  # GVCP's port on 127.0.0.1

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def camera() -> Iterator[FakeCamera]:
    fake = FakeCamera()
    yield fake
    fake.kill()


@real
def test_free_run_gives_frames_in_order_with_the_cameras_clock(camera: FakeCamera) -> None:
    source = open_source(f"{URI}&fps=25&exposure=2000&gain=1")
    try:
        source.open()
        frames = [source.read(2.0) for _ in range(15)]
    finally:
        source.close()
        source.close()
    whole = [frame for frame in frames if isinstance(frame, Frame)]
    assert len(whole) >= 12
    assert {frame.image.shape for frame in whole} == {(512, 512, 3)}
    numbers = [int(frame.id) for frame in frames if frame]
    assert numbers == list(range(numbers[0], numbers[0] + 15))
    clock = [frame.device_time or 0.0 for frame in whole]
    assert clock == sorted(set(clock))


@real
@pytest.mark.parametrize("pixel", ["Mono8", "Mono16", "RGB8", "BayerRG8", "BayerGB8"])
def test_pixel_formats(camera: FakeCamera, pixel: str) -> None:
    source = open_source(f"gige://127.0.0.1?width=256&height=256&pixel={pixel}")
    try:
        source.open()
        frame = next(f for f in (source.read(2.0) for _ in range(10)) if isinstance(f, Frame))
    finally:
        source.close()
    assert frame.image.shape == (256, 256, 3)
    assert np.ptp(frame.image) > 50  # its picture is a ramp


@real
def test_each_software_trigger_gives_its_part_one_frame(camera: FakeCamera) -> None:
    make = lambda: open_source(URI, "software")  # noqa: E731
    with running(make, triggered=True, policy="every", health=FrameHealth(), depth=30) as capture:
        wait_until(lambda: capture.status().state == "running")
        assert capture.take(0.5) is None
        for number in range(15):
            capture.trigger(str(number))
            time.sleep(0.1)  # a camera takes no trigger while it reads out the frame before
        taken = [capture.take(3.0) for _ in range(15)]
        assert capture.take(0.3) is None
        assert balanced(capture.status())
    assert sorted(int(t.part or -1) for t in taken if t) == list(range(15))
    assert sum(isinstance(t, Frame) for t in taken) >= 13


@real
def test_a_buffer_that_is_given_back_empty_is_no_frame(camera: FakeCamera) -> None:
    """Seen once on a loaded machine, with number 0 before the first trigger; cannot be brought about at will."""
    source = open_source(URI, "software")
    try:
        source.open()
        stream = vars(source)["_stream"]
        given = [typelib("Aravis", "0.8", PACKAGE).Buffer.new_allocate(512 * 512)]
        vars(source)["_stream"] = SimpleNamespace(
            timeout_pop_buffer=lambda _: given.pop(), push_buffer=stream.push_buffer
        )
        assert source.read(0.1) is None
        vars(source)["_stream"] = stream
        for _ in range(5):  # loopback may lose a packet
            source.trigger()
            frame = source.read(3.0)
            if isinstance(frame, Frame):
                break
        assert isinstance(frame, Frame)
    finally:
        source.close()


@real
def test_a_camera_killed_under_a_trigger_answers_its_part_and_comes_back(camera: FakeCamera) -> None:
    with running(lambda: open_source(URI, "software"), triggered=True, policy="every") as capture:
        wait_until(lambda: capture.status().state == "running")
        camera.kill()
        capture.trigger("unlucky")
        told = capture.take(6.0)
        assert isinstance(told, Dropped)
        assert (told.part, told.reason) == ("unlucky", Reason.CAMERA_LOST)
        camera.start()
        wait_until(lambda: capture.status().state == "running")
        answers = []
        for number in range(5):  # loopback may lose a packet; no trigger stays without its answer
            capture.trigger(f"lucky {number}")
            answers.append(capture.take(6.0))
            if isinstance(answers[-1], Frame):
                break
        assert [answer.part for answer in answers if answer] == [f"lucky {number}" for number in range(len(answers))]
        assert isinstance(answers[-1], Frame)


@real
def test_an_idle_triggered_camera_that_dies_is_told_by_its_heartbeat(camera: FakeCamera) -> None:
    with running(lambda: open_source(URI, "software"), triggered=True) as capture:
        wait_until(lambda: capture.status().state == "running")
        camera.kill()
        assert wait_until(lambda: capture.status().state == "lost", 15.0) < 12
        with pytest.raises(DskdError, match="not ready"):
            capture.trigger("p")


@real
def test_a_camera_that_stalls_is_told_and_comes_back(camera: FakeCamera) -> None:
    with running(lambda: open_source(URI), patience=1.0) as capture:
        next_frame(capture)
        camera.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: capture.status().state == "lost")
        camera.process.send_signal(signal.SIGCONT)
        wait_until(lambda: capture.status().state == "running", 25.0)
        next_frame(capture)
        assert balanced(capture.status())


@real
def test_lost_packets_make_dropped_frames_that_are_never_handed_out() -> None:
    fake = FakeCamera("-r", "3")  # of a thousand packets; a frame has some 180
    try:
        with running(lambda: open_source(URI), policy="every", depth=200) as capture:
            wait_until(lambda: capture.status().counts.captured > 40, 30.0)
        counts = capture.status().counts
        assert counts.drops.get(Reason.INCOMPLETE, 0) > 3
        assert balanced(capture.status())
        taken = [capture.take() for _ in range(counts.captured)]
        assert sum(isinstance(t, Dropped) for t in taken) == counts.drops[Reason.INCOMPLETE]
        whole = [t.image for t in taken if isinstance(t, Frame)]
        assert len(whole) == counts.captured - counts.dropped
        assert all(image.any(axis=(1, 2)).all() for image in whole)  # no row of zeros
    finally:
        fake.kill()


@real
def test_a_second_controller_is_told_so(camera: FakeCamera) -> None:
    first, second = open_source(URI), open_source(URI)
    try:
        first.open()
        with pytest.raises(DskdError, match="another program controls"):
            second.open()
        assert first.read(2.0) is not None
    finally:
        second.close()
        first.close()


@real
def test_wrong_settings_and_absent_cameras_are_told(camera: FakeCamera) -> None:
    for uri in ("gige://127.0.0.1?pixel=Mono9000", "gige://127.0.0.99"):
        source = open_source(uri)
        with pytest.raises((SourceLost, MissingPart), match=r"gige://127"):
            source.open()
        source.close()


@pytest.mark.parametrize(
    ("pixel", "data", "expected"),
    [
        (0x01080001, [7], [7, 7, 7]),
        (0x02180014, [1, 2, 3], [3, 2, 1]),
        (0x02180015, [1, 2, 3], [1, 2, 3]),
        (0x01100003, [0xFF, 0x03], [255] * 3),  # 1023 of 10 bits
        (0x01100005, [0xFF, 0x0F], [255] * 3),
        (0x01100007, [0x00, 0x80], [128] * 3),
    ],
)
def test_every_pixel_of_a_format(pixel: int, data: list[int], expected: list[int]) -> None:
    image = to_bgr(np.array(data * 16, np.uint8), 4, 4, pixel)
    assert image is not None
    assert image.reshape(-1, 3).tolist() == [expected] * 16


@pytest.mark.parametrize("pixel", [0x01080008, 0x01080009, 0x0108000A, 0x0108000B])
def test_bayer_red_is_red(pixel: int) -> None:
    letters = {0x01080008: "GRBG", 0x01080009: "RGGB", 0x0108000A: "GBRG", 0x0108000B: "BGGR"}[pixel]
    cell = np.array([200 if letter == "R" else 0 for letter in letters], np.uint8).reshape(2, 2)
    image = to_bgr(np.tile(cell, (8, 8)).ravel(), 16, 16, pixel)
    assert image is not None
    blue, green, red = image[4:-4, 4:-4].reshape(-1, 3).mean(axis=0)
    assert red > 150 > 50 > max(blue, green)


def test_unknown_formats_and_short_buffers_are_refused() -> None:
    assert to_bgr(np.zeros(64, np.uint8), 8, 8, 0x12345678) is None
    assert to_bgr(np.zeros(63, np.uint8), 8, 8, 0x01080001) is None
