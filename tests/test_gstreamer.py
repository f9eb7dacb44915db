"""GStreamer for real: H.264 from its RTSP server, the pipelines of a Jetson over stand-in elements, any pipeline."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from capture_threads import next_frame, running, wait_until
from conftest import ROOT

from dskd.runtime.capture.sources import Source, SourceEnded, SourceLost, frames, open_source, pipelines
from dskd.runtime.capture.sources import gstreamer as gstreamer_module
from dskd.runtime.capture.sources.gstreamer import has_elements
from dskd.runtime.capture.sources.opencv_capture import opencv_pipeline
from dskd.runtime.capture.sources.rtsp import ffmpeg_source
from dskd.runtime.capture.sources.system_gi import typelib
from dskd.runtime.errors import CallError, MissingPart
from dskd.runtime.result import Frame

needs_gstreamer = pytest.mark.skipif(
    not has_elements("rtspsrc", "openh264dec", "videotestsrc", "v4l2src", "pngdec"),
    reason="needs apt install python3-gi gir1.2-gstreamer-1.0 gstreamer1.0-plugins-base, -good and -bad",
)


def has_server() -> bool:
    try:
        typelib("GstRtspServer", "1.0", "gir1.2-gst-rtsp-server-1.0")
    except MissingPart:
        return False
    return has_elements("x264enc", "rtph264pay", "alawenc")


needs_server = pytest.mark.skipif(
    not has_server(), reason="needs apt install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly"
)
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}


@contextmanager
def server(*login: str, port: str = "0") -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, str(ROOT / "tests" / "rtsp_server.py"), port, *login]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def stand_ins(uri: str, wanted: int, **environment: str) -> dict[str, object]:
    command = [sys.executable, str(ROOT / "tests" / "jetson_elements.py"), uri, str(wanted)]
    variables = {**ENVIRONMENT, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return told


@needs_gstreamer
def test_the_csi_pipeline_of_a_jetson_runs_as_written() -> None:
    told = stand_ins("csi://0?width=640&height=360&fps=30&exposure=1000&gain=1", 10)
    assert told["pipeline"] == pipelines.csi("csi://0?width=640&height=360&fps=30&exposure=1000&gain=1")
    assert (told["frames"], told["shapes"]) == (10, [[360, 640, 3]])
    upper_left, lower_right = told["corners"]  # type: ignore[misc]
    assert upper_left > lower_right + 10


@needs_gstreamer
def test_flip_turns_the_picture() -> None:
    upper_left, lower_right = stand_ins("csi://0?width=640&height=360&flip=2", 3)["corners"]  # type: ignore[misc]
    assert lower_right > upper_left + 10


@needs_gstreamer
def test_an_exposure_that_the_camera_refuses_is_an_error_and_no_warning() -> None:
    """NVIDIA's element prints a line and goes on with automatic exposure."""
    with pytest.raises(AssertionError) as caught:
        stand_ins("csi://0?width=640&height=360&fps=1&exposure=900000", 1)
    said = str(caught.value)
    assert "CallError: source csi://0?width=640&height=360&fps=1&exposure=900000: the camera refuses" in said
    assert "it says that it takes exposure 13 to 683709 microseconds, gain 1.0 to 16.0" in said


@needs_gstreamer
def test_a_usb_camera_with_jpeg_is_decoded_by_name_on_a_jetson() -> None:
    told = stand_ins("v4l2:///dev/null?width=320&height=240", 3, USB_CAMERA="yes")
    assert "image/jpeg, width=(int)320, height=(int)240 ! jpegdec ! videoconvert" in str(told["pipeline"])
    assert (told["frames"], told["shapes"]) == (3, [[240, 320, 3]])
    assert told["corners"][0] > told["corners"][1] + 100  # type: ignore[index]


@needs_gstreamer
def test_what_decodebin_leaves_in_the_gpus_memory_is_fetched_on_a_jetson() -> None:
    told = stand_ins("gst://v4l2src ! decodebin", 3, USB_CAMERA="yes")
    assert str(told["pipeline"]).startswith("v4l2src ! decodebin ! nvvidconv ! video/x-raw, format=(string)BGRx ! ")
    assert (told["frames"], told["shapes"]) == (3, [[240, 320, 3]])


@needs_gstreamer
@needs_server
def test_the_rtsp_pipeline_of_a_jetson_runs_as_written() -> None:
    with server() as (_, port):
        uri = f"rtsp://127.0.0.1:{port}/cam"
        told = stand_ins(uri, 10)
        assert told["pipeline"] == pipelines.rtsp(uri, jetson=True)
        assert (told["frames"], told["shapes"]) == (10, [[240, 322, 3]])


MAKERS = [pytest.param(open_source, marks=needs_gstreamer, id="gstreamer"), pytest.param(ffmpeg_source, id="ffmpeg")]


@needs_server
@pytest.mark.parametrize("make", MAKERS)
def test_h264_with_sound_beside_it_behind_a_login(
    make: Callable[[str], Source], capfd: pytest.CaptureFixture[str]
) -> None:
    with server("line", "gehe im@3") as (_, port):
        source = make(f"rtsp://line:gehe%20im%403@127.0.0.1:{port}/cam")
        try:
            source.open()
            seen = [f for f in (source.read(3.0) for _ in range(10)) if isinstance(f, Frame)]
        finally:
            source.close()
        assert {frame.image.shape for frame in seen} == {(240, 322, 3)}
        assert max(int(frame.image.max()) for frame in seen) > 200  # the ball
        assert "line" not in seen[0].source
        wrong = make(f"rtsp://line:wr0ng-secret@127.0.0.1:{port}/cam")
        try:
            with pytest.raises((SourceLost, MissingPart)) as refused:
                read_until_it_fails(wrong)
        finally:
            wrong.close()
    written = str(refused.value) + "".join(capfd.readouterr())
    assert "wr0ng-secret" not in written
    assert "gehe" not in written
    assert re.search(r"nauthorized|login", str(refused.value))


def read_until_it_fails(source: Source) -> None:
    source.open()
    for _ in range(20):
        source.read(0.5)


def rtsp_at(port: int) -> Callable[[], Source]:
    return lambda: open_source(f"rtsp://127.0.0.1:{port}/cam")


@needs_server
@needs_gstreamer
def test_a_server_that_freezes_or_is_killed_is_told_and_found_again() -> None:
    with server() as (process, port), running(rtsp_at(port), patience=1.0) as capture:
        next_frame(capture)
        process.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: capture.status().state == "lost") < 6
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: capture.status().state == "running", 20)
        process.kill()
        assert wait_until(lambda: capture.status().state == "lost") < 6
        time.sleep(0.5)
        with server(port=str(port)):
            wait_until(lambda: capture.status().state == "running", 20)
            next_frame(capture)


@needs_gstreamer
def test_rows_are_unpadded_and_colours_in_order() -> None:
    uri = "gst://videotestsrc is-live=true pattern=blue ! video/x-raw,width=33,height=20,framerate=50/1"
    source = open_source(uri)
    assert source.live
    try:
        source.open()
        frame = source.read(3.0)
    finally:
        source.close()
    assert isinstance(frame, Frame)
    assert frame.image.shape == (20, 33, 3)
    assert (frame.image == np.array([255, 0, 0])).all()


@needs_gstreamer
def test_a_pipeline_that_reads_a_file_gives_all_of_it_and_ends() -> None:
    uri = "gst://videotestsrc num-buffers=40 pattern=ball ! video/x-raw,width=64,height=64,framerate=10/1"
    seen = [frame for frame in frames(open_source(uri)) if isinstance(frame, Frame)]
    assert [frame.id for frame in seen] == [str(number) for number in range(40)]
    assert [frame.device_time for frame in seen] == [number / 10 for number in range(40)]


@needs_gstreamer
def test_an_appsink_of_ones_own_is_taken() -> None:
    uri = "gst://videotestsrc num-buffers=3 ! videoconvert ! video/x-raw,format=BGR ! appsink sync=false"
    assert len(list(frames(open_source(uri)))) == 3


def what_it_raises(uri: str, kind: type[Exception]) -> str:
    source = open_source(uri)
    try:
        with pytest.raises(kind) as refused:
            read_until_it_fails(source)
    finally:
        source.close()
    said = str(refused.value)
    del refused  # its traceback holds the pipeline
    return said


BROKEN: dict[str, type[Exception]] = {
    "gst://no-such-element": MissingPart,
    "gst://videotestsrc ! !": CallError,
    "gst://videotestsrc num-buffers=3 ! appsink": CallError,  # not BGR
    "gst://filesrc location=/nowhere.mp4 ! decodebin": MissingPart,
    "gst://videotestsrc ! fakesink name=appsink": CallError,
    "csi://0": MissingPart,
    "v4l2:///dev/null": MissingPart,
    "v4l2:///dev/video77?width=640": MissingPart,
    "rtsp://127.0.0.1:9/none": MissingPart,
}


@needs_gstreamer
@pytest.mark.parametrize("uri", BROKEN)
def test_a_broken_pipeline_is_told_in_one_line_and_leaves_nothing(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    held: list[int] = []
    for _ in range(6):
        said = what_it_raises(uri, BROKEN[uri])
        assert len(said) > 30
        assert "\n" not in said
        assert capfd.readouterr().err == ""
        held.append(len(os.listdir("/proc/self/fd")))
    assert held[-1] <= held[1]


def test_without_pygobject_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: str) -> None:
        raise MissingPart("Gst 1.0 is not installed; apt install gir1.2-gstreamer-1.0")

    monkeypatch.setattr(gstreamer_module, "typelib", missing)
    assert not has_elements("appsink")
    source = opencv_pipeline("csi://0", lambda: pipelines.csi("csi://0"))
    with pytest.raises(MissingPart, match=r"apt install|does not start"):
        source.open()
    with pytest.raises(MissingPart, match="apt install"):
        open_source("csi://0").open()
    assert open_source("rtsp://10.0.0.1/x").uri == "rtsp://10.0.0.1/x"


@needs_gstreamer
def test_only_pygobject_is_taken_from_the_system() -> None:
    program = (
        "import sys; sys.path.append('.'); from dskd.runtime.capture.sources.gstreamer import gstreamer; gstreamer(); "
        "import gi; print(gi.__file__); print('/usr/lib/python3/dist-packages' in sys.path)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    where, in_path = done.stdout.split()
    assert Path(where).parent.name == "gi"
    assert in_path == str("/usr/lib/python3/dist-packages" in sys.path)


@needs_gstreamer
def test_reading_a_closed_source_is_told() -> None:
    source = open_source("gst://videotestsrc num-buffers=1")
    with pytest.raises(SourceLost):
        source.read(0.1)
    with pytest.raises(SourceEnded):
        read_until_it_fails(source)
    source.close()
