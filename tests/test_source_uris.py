"""URIs become pipelines as written for Jetson; wrong options are refused by name; passwords are never shown."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dskd.runtime.capture.sources import open_source, pipelines
from dskd.runtime.capture.sources.pipelines import quoted
from dskd.runtime.configuration.uri import without_password
from dskd.runtime.errors import CallError, DskdError

TO_BGR = "videoconvert ! video/x-raw, format=(string)BGR ! appsink drop=true max-buffers=1 sync=false"


def test_csi_is_the_string_that_everybody_uses() -> None:
    assert pipelines.csi("csi://0") == (
        "nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM), width=(int)1280, height=(int)720, "
        "format=(string)NV12, framerate=(fraction)30/1 ! nvvidconv flip-method=0 ! "
        f"video/x-raw, format=(string)BGRx ! {TO_BGR}"
    )


def test_csi_with_fixed_exposure() -> None:
    pipeline = pipelines.csi("csi://1?width=1920&height=1080&fps=60&exposure=1000&gain=2&flip=2")
    assert pipeline.startswith(
        'nvarguscamerasrc sensor-id=1 exposuretimerange="1000000 1000000" gainrange="2 2" ispdigitalgainrange="1 1" '
        "aelock=true awblock=true ! video/x-raw(memory:NVMM), width=(int)1920, height=(int)1080, "
        "format=(string)NV12, framerate=(fraction)60/1 ! nvvidconv flip-method=2 ! "
    )


def test_rtsp_on_a_jetson() -> None:
    assert pipelines.rtsp("rtsp://10.0.0.5/stream?channel=1", jetson=True) == (
        'rtspsrc location="rtsp://10.0.0.5/stream?channel=1" protocols=tcp latency=0 drop-on-latency=true ! '
        "rtph264depay ! h264parse ! nvv4l2decoder enable-max-performance=1 ! "
        f"nvvidconv ! video/x-raw, format=(string)BGRx ! {TO_BGR}"
    )
    assert "rtph265depay ! h265parse ! nvv4l2decoder" in pipelines.rtsp("rtsp://h/s#codec=h265", jetson=True)


def test_rtsp_login_is_given_as_values_of_their_own() -> None:
    pipeline = pipelines.rtsp("rtsp://us%40er:p%22%20!%20filesink@10.0.0.5:8554/s", jetson=False)
    assert pipeline.startswith('rtspsrc location="rtsp://10.0.0.5:8554/s" user-id="us@er" user-pw="p\\" ! filesink" ')


def test_v4l2_with_a_size_takes_raw_and_jpeg() -> None:
    assert pipelines.v4l2("v4l2:///dev/video0") == (
        f'v4l2src device="/dev/video0" do-timestamp=true ! decodebin ! {TO_BGR}'
    )
    wanted = "width=(int)640, framerate=(fraction)30/1"
    assert f"video/x-raw, {wanted}; image/jpeg, {wanted} ! " in pipelines.v4l2("v4l2:///dev/video0?width=640&fps=30")


REFUSED = {
    "csi://": "names no sensor",
    "csi://front": "names no sensor",
    "csi://0?widht=3": "did you mean width",
    "csi://0?width=1&width=2": "twice",
    "csi://0?width=1e9": "whole number",
    "csi://0?width=9999999": "from 16 to 16384",
    "csi://0?exposure=-1": "whole number",
    "csi://0?gain=nan": "number from",
    "csi://0?gain=": "not what this option takes",
    "rtsp://": "no camera's address",
    "rtsp:///path": "no camera's address",
    "rtsp://host:99999/": "no camera's address",
    "rtsp://[::1": "no camera's address",
    "rtsp://host/s#codec=vp9": "only codec",
    "gige://": "names no camera",
    "gige://1.2.3.4?exposure=fast": "must be a number",
    "gige://1.2.3.4?pixel=a b": "not what this option takes",
    "gst://": "names no pipeline",
    "test://card": "test://pattern",
    "test://pattern?size=1x1": "size",
    "test://pattern?fps=0": "number from",
    "test://pattern?colour=3": "there are size, fps, seed",
    "v4l2:///dev/video0?depth=3": "has no option depth",
    "watch://": "names no path",
}


@pytest.mark.parametrize("uri", REFUSED)
def test_a_wrong_uri_is_refused_before_any_camera_is_touched(uri: str) -> None:
    with pytest.raises(CallError, match=REFUSED[uri]):
        open_source(uri)


def test_only_a_camera_with_a_line_can_be_triggered_by_it() -> None:
    with pytest.raises(CallError, match="input line"):
        open_source("test://pattern", "line")
    assert open_source("gige://10.0.0.1", "line").triggerable is False
    assert open_source("gige://10.0.0.1", "software").triggerable is True


SECRET = st.text(st.characters(codec="ascii", exclude_characters="/", min_codepoint=33), min_size=6, max_size=20).map(
    lambda text: "S" + text.replace("&", "x") + "T"
)


@given(secret=SECRET, where=st.sampled_from(["rtsp", "rtsps", "mqtt", "gige", "no-such-kind", "csi", "test"]))
def test_a_password_is_never_shown(secret: str, where: str) -> None:
    uri = f"{where}://admin:{secret}@10.0.0.5/stream"
    assert secret not in without_password(uri)
    try:
        shown = open_source(uri).uri
    except DskdError as error:
        shown = str(error)
    assert secret not in shown


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://u:p@h/s", "rtsp://h/s"),
        ("rtsp://h/s?user=u&password=p&channel=1", "rtsp://h/s?user=***&password=***&channel=1"),
        (
            'gst://rtspsrc location=rtsp://u:p@h/s user-pw="a b" ! x',
            "gst://rtspsrc location=rtsp://h/s user-pw=*** ! x",
        ),
        ("csi://0?gain=2", "csi://0?gain=2"),
    ],
)
def test_what_is_shown_of_a_uri(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


@given(st.text())
def test_any_text_is_one_value_in_a_pipeline_or_refused(text: str) -> None:
    try:
        value = quoted(text)
    except CallError:
        return
    inside = value[1:-1].replace("\\\\", "").replace('\\"', "")
    assert '"' not in inside
    assert "\\" not in inside


@given(st.text())
def test_any_options_are_taken_or_refused(text: str) -> None:
    for scheme in ("csi://0?", "gige://h?", "test://pattern?", "v4l2:///dev/video0?", "rtsp://", "gst://", ""):
        with suppress(DskdError):
            open_source(scheme + text)
