"""URIs become pipelines as written for Jetson; wrong options are refused by name; passwords are never shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pytest
from budget import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from station_files import wait_for, write_station

from dskd.runtime.capture.image_files import write_image
from dskd.runtime.capture.sources import open_source, pipelines
from dskd.runtime.capture.sources.pipelines import quoted
from dskd.runtime.configuration.uri import hidden_in, without_password
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.station.check import check
from dskd.runtime.station.load import load_station, read_station
from dskd.runtime.station.station import Station

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


@pytest.mark.parametrize(
    ("offered", "option", "expected"),
    [
        (["video/x-raw", "image/jpeg"], "", "video/x-raw, width=(int)640 ! videoconvert"),
        (["image/jpeg"], "", "image/jpeg, width=(int)640 ! jpegdec ! videoconvert"),
        (["video/x-raw", "image/jpeg"], "&format=jpeg", "image/jpeg, width=(int)640 ! jpegdec ! videoconvert"),
        ([], "", "do-timestamp=true ! decodebin ! nvvidconv ! video/x-raw, format=(string)BGRx ! videoconvert"),
    ],
)
def test_v4l2_on_a_jetson_names_what_the_camera_has(offered: list[str], option: str, expected: str) -> None:
    """Its decodebin takes the hardware's JPEG decoder, which refuses some cameras and keeps pictures to itself."""
    assert expected in pipelines.v4l2(f"v4l2:///dev/video0?width=640{option}", offered, jetson=True)


@pytest.mark.parametrize(
    ("pipeline", "fetched"),
    [
        ("filesrc location=a ! decodebin", True), ("uridecodebin uri=file:///a", True), ("nvarguscamerasrc", True),
        ("x ! video/x-raw(memory:NVMM), width=8", True), ("videotestsrc", False), ("decodebin ! nvvidconv", False),
        ("decodebin ! videoconvert", False),
    ],
)  # fmt: skip
def test_gst_on_a_jetson_fetches_what_a_decoder_leaves_on_the_gpu(pipeline: str, fetched: bool) -> None:
    assert ("BGRx" in pipelines.gst(f"gst://{pipeline}", jetson=True)) == fetched
    assert "BGRx" not in pipelines.gst(f"gst://{pipeline}")


REFUSED = {
    "csi://0?fps=60&exposure=20000": "longer than a frame of fps=60",
    "csi://": "names no sensor",
    "csi://front": "names no sensor",
    "csi://0?widht=3": "did you mean width",
    "csi://0?width=1&width=2": "twice",
    "csi://0?width=1e9": "whole number",
    "csi://0?width=9999999": "from 16 to 16384",
    "csi://0?exposure=-1": "whole number",
    "csi://0?gain=nan": "number from",
    "csi://0?gain=": "does not take",
    "rtsp://": "no camera's address",
    "rtsp:///path": "no camera's address",
    "rtsp://host:99999/": "no camera's address",
    "rtsp://[::1": "no camera's address",
    "rtsp://host/s#codec=vp9": "only codec",
    "gige://": "names no camera",
    "gige://1.2.3.4?exposure=fast": "must be a number",
    "gige://1.2.3.4?pixel=a b": "does not take",
    "gst://": "names no pipeline",
    "test://card": "test://pattern",
    "test://pattern?size=1x1": "size",
    "test://pattern?fps=0": "number from",
    "test://pattern?colour=3": "there are size, fps, seed",
    "v4l2:///dev/video0?depth=3": "does not have",
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


# Any text that a person may have for a password, however it is written into the address.
SECRET = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=5, max_size=16).map(
    lambda text: f"Q{text}Z"
)
SPELLINGS = (
    str,
    lambda text: quote(text, safe=""),
    lambda text: quote(text),
    lambda text: quote(text, safe="").lower(),
)
NAME = st.one_of(
    st.sampled_from(
        ["user", "pass", "PASSWORD", "loginuse", "loginpas", "usr", "auth", "key", "width", "channel", "t"]
    ),
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=9),
)
FORMS = (
    "{scheme}://admin:{secret}@10.0.0.5/stream",
    "{scheme}://{secret}@10.0.0.5:554/stream",
    "{scheme}://{secret}:{secret}@[fe80::1]/",
    "{scheme}://admin:{secret}@10.0.0.5/stream?{name}={secret}#{name}={secret}",
    "{scheme}://10.0.0.5/stream?{name}={secret}",
    "{scheme}://10.0.0.5/stream?{name}={name}&{name}2={secret}",
    "{scheme}://10.0.0.5/stream?a=1;{name}={secret}",
    "{scheme}://10.0.0.5/stream?{secret}",
    "{scheme}://10.0.0.5/stream#{secret}",
    "{scheme}://10.0.0.5/{name}={secret}&channel=1/s",
    "{scheme}://10.0.0.5/stream%3F{name}%3D{secret}",
    " {scheme}://admin:{secret}@10.0.0.5/stream",
    "{scheme}:/admin:{secret}@10.0.0.5/stream",
    "admin:{secret}@10.0.0.5/stream",
    "admin:{secret}@{scheme}://10.0.0.5/stream",
)
SCHEMES = ("rtsp", "RTSP", "rtsps", "mqtt", "gige", "no-such-kind", "csi", "test", "http", "v4l2")


@pytest.mark.budget
@settings(max_examples=cases(1000))
@given(SECRET, NAME, st.sampled_from(FORMS), st.sampled_from(SCHEMES), st.sampled_from(SPELLINGS))
def test_nothing_of_user_and_query_is_ever_shown(
    secret: str, name: str, form: str, scheme: str, spelt: Callable[[str], str]
) -> None:
    written = spelt(secret)
    uri = form.format(scheme=scheme, name=name, secret=written)
    shown = [without_password(uri)]
    try:
        shown.append(open_source(uri).uri)
    except DskdError as error:
        shown.append(str(error))
    shown.append(hidden_in(f"could not open {uri}", uri))
    for text in shown:
        assert "\n" not in text
        for piece in (f"Q{secret[1:4]}", f"{secret[-4:-1]}Z", written[:5], written[-5:]):
            assert piece not in text, (uri, text)


@pytest.mark.parametrize("password", ["a/b", "a?b", "a#b", "12/34", "12?34", "12#34", "a@b/c", "#", "12?3#4/5"])
def test_a_password_that_ends_the_host_too_early_is_refused_with_its_spelling(password: str, tmp_path: Path) -> None:
    """Without that, ``rtsp://admin:12?34@10.0.0.5/s`` asks port 12 of a machine called admin."""
    uri = f"rtsp://admin:{password}@10.0.0.5/s"
    with pytest.raises(CallError, match=r"/ as %2F, \? as %3F, # as %23"):
        open_source(uri)
    config, faults = read_station(write_station(tmp_path, cameras={"top": {"source": uri, "recipe": "good"}}))
    assert config is None
    (fault,) = faults
    assert re.search("NAME}:.*@ and set the variables", str(fault))
    assert f":{password}@" not in str(fault)


@pytest.mark.parametrize(
    "uri", ["rtsp://h/s?mail=a@b", "rtsp://h:554/s?a=1;b=c@d", "rtsp://${U}:${P}@h/s?x=a@b#codec=h265", "gst://x a=b@c"]
)
def test_an_at_in_options_of_a_path_is_left_alone(uri: str, tmp_path: Path) -> None:
    _, faults = read_station(write_station(tmp_path, cameras={"top": {"source": uri, "recipe": "good"}}))
    assert [fault for fault in faults if "behind the host" in str(fault)] == []


@pytest.mark.budget
@settings(max_examples=cases(500))
@given(SECRET)
def test_a_login_is_the_hosts_or_refused(secret: str) -> None:
    """However a password is written, no other machine is asked."""
    parts = pipelines.checked_rtsp(f"rtsp://admin:{quote(secret, safe='')}@10.0.0.5/s")
    assert (parts.hostname, unquote(parts.password or "")) == ("10.0.0.5", secret)
    with suppress(CallError):
        assert pipelines.checked_rtsp(f"rtsp://admin:{secret}@10.0.0.5/s").hostname == "10.0.0.5"


@pytest.mark.budget
@settings(max_examples=cases(200))
@given(SECRET.filter(lambda text: '"' not in text and "\\" not in text))
def test_nothing_of_a_pipelines_properties_is_shown(secret: str) -> None:
    for form in (
        'gst://rtspsrc location=rtsp://h/s user-pw="{}" ! fakesink', "gst://rtspsrc user-pw='{}' ! fakesink",
        'gst://rtspsrc location="rtsp://u:{}@h/s" ! appsink', 'gst://souphttpsrc cookies="a={}" ! appsink',
        "gst://rtspsrc user-pw={} ! x",
    ):  # fmt: skip
        assert secret[:4] not in without_password(form.format(secret)), form
        assert secret not in hidden_in(f'could not set "{secret}"', form.format(secret))


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://u:p@h/s", "rtsp://h/s"),
        ("rtsp://10.0.0.5:554/Streaming/Channels/101", "rtsp://10.0.0.5:554/Streaming/Channels/101"),
        ("rtsp://h/s?user=u&password=p&channel=1", "rtsp://h/s?..."),
        ("rtsp://h/s#codec=h265", "rtsp://h/s#codec=h265"),
        ("rtsp://[fe80::1]:554/s", "rtsp://[fe80::1]:554/s"),
        ('gst://rtspsrc location=rtsp://u:p@h/s user-pw="a b" ! x', "gst://rtspsrc ..."),
        ("csi://0?gain=2", "csi://0?gain=2"),
        ("csi://0?gain=2&x=y", "csi://0?gain=2&..."),
        ("v4l2:///dev/v4l/by-path/pci-0000:00:14.0-usb-0:1:1.0-video-index0?width=640", None),
        ("parts/img@2x.png", None),
        ("folder:///data/a=b & c/d?e", None),
        ("Photo 10:30 @ line.png", "***@ line.png"),
    ],
)
def test_what_is_shown_of_a_uri(uri: str, shown: str | None) -> None:
    assert without_password(uri) == (shown or uri)


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


def test_a_station_shows_no_secret_in_status_log_and_config_check(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("LOGIN", "hunter?2 #x")
    cameras = {
        "a": {"source": "rtsp://${LOGIN}:${LOGIN}@127.0.0.1:9/live?loginpas=${LOGIN}", "recipe": "good"},
        "b": {"source": "rtsp://127.0.0.1:9/live?usr=hunter&auth=hunter", "recipe": "good"},
    }
    file = write_station(tmp_path, cameras=cameras)
    caplog.set_level("DEBUG")
    station = Station(load_station(file))
    station.start()
    try:
        wait_for(lambda: all(camera.status.health == "fault" for camera in station.status().cameras))
        shown = str(station.status()) + caplog.text
    finally:
        station.stop()
    assert check(file) == 0
    shown += capsys.readouterr().out + caplog.text
    assert "rtsp://127.0.0.1:9/live" in shown
    assert "hunter" not in shown


def test_a_folder_may_be_shown_again_and_again_in_its_own_time(tmp_path: Path) -> None:
    for k in range(2):
        write_image(tmp_path / "some" / f"{k}.png", np.full((8, 8, 3), 90 * k + 40, np.uint8))
    source = open_source(f"folder://{tmp_path}/some?loop=1&fps=1000")
    assert (source.live, source.endless) == (True, True)
    source.open()
    assert [source.read(1.0).id for _ in range(5)] == ["0.png", "1.png", "0.png", "1.png", "0.png"]  # type: ignore[union-attr]
    slow = open_source(f"folder://{tmp_path}/some?fps=0.01")
    assert (slow.live, slow.endless) == (True, False)
    slow.open()
    assert slow.read(0.0) is not None
    assert slow.read(0.0) is None  # not due yet


def test_a_folder_whose_name_looks_like_options_is_a_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "some?loop=1" / "0.png", np.full((8, 8, 3), 90, np.uint8))
    source = open_source(f"folder://{tmp_path}/some?loop=1")
    source.open()
    assert source.read(1.0).id == "0.png"  # type: ignore[union-attr]
    assert not source.endless
    write_image(tmp_path / "some" / "0.png", np.full((8, 8, 3), 90, np.uint8))
    with pytest.raises(CallError, match=r"some\?fps=0: fps must be a number from 0\.01 to 1000"):
        open_source(f"folder://{tmp_path}/some?fps=0")
