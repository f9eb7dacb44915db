"""GStreamer pipelines as text: what stands between a camera and pictures in BGR. No GStreamer needed to write them."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote, urlsplit

from dskd.runtime.configuration.uri import Options, without_password
from dskd.runtime.errors import CallError

# The newest frame only; ``sync=false``: the display time of a frame means nothing to an inspection.
SINK = "video/x-raw, format=(string)BGR ! appsink drop=true max-buffers=1 sync=false"
TO_BGR = f"videoconvert ! {SINK}"
JETSON_TO_BGR = f"nvvidconv ! video/x-raw, format=(string)BGRx ! {TO_BGR}"


def csi(uri: str) -> str:
    """``csi://0?width=1280&height=720&fps=30&exposure=1000&gain=2&flip=0``: a Jetson's camera through its ISP.

    ``exposure`` (microseconds) and ``gain`` are fixed where given, and white balance is then locked with them: a score
    must not follow the light's automatic control. ``flip`` is nvvidconv's flip-method, 0 to 7.
    """
    options = Options(uri)
    if not re.fullmatch(r"\d{1,2}", options.address):
        raise CallError(f"source {options.uri}: names no sensor; write csi://0")
    width, height = options.whole("width", 16, 16384) or 1280, options.whole("height", 16, 16384) or 720
    fps = options.whole("fps", 1, 1000) or 30
    exposure, gain = options.whole("exposure", 1, 1_000_000), options.number("gain", 1, 256)
    flip = options.whole("flip", 0, 7) or 0
    options.end()
    fixed = "" if exposure is None else f' exposuretimerange="{1000 * exposure} {1000 * exposure}"'  # nanoseconds
    fixed += "" if gain is None else f' gainrange="{gain:g} {gain:g}" ispdigitalgainrange="1 1"'
    fixed += " aelock=true awblock=true" if fixed else ""
    return (
        f"nvarguscamerasrc sensor-id={int(options.address)}{fixed} ! "
        f"video/x-raw(memory:NVMM), width=(int){width}, height=(int){height}, format=(string)NV12, "
        f"framerate=(fraction){fps}/1 ! nvvidconv flip-method={flip} ! video/x-raw, format=(string)BGRx ! {TO_BGR}"
    )


def v4l2(uri: str) -> str:
    """``v4l2:///dev/video0?width=&height=&fps=``: raw or JPEG, whatever the camera has at that size."""
    options = Options(uri)
    width, height = options.whole("width", 16, 16384), options.whole("height", 16, 16384)
    fps = options.whole("fps", 1, 1000)
    options.end()
    wanted = "" if width is None else f", width=(int){width}"
    wanted += "" if height is None else f", height=(int){height}"
    wanted += "" if fps is None else f", framerate=(fraction){fps}/1"
    filtered = f"video/x-raw{wanted}; image/jpeg{wanted} ! " if wanted else ""
    device = quoted(unquote(options.address))
    return f"v4l2src device={device} do-timestamp=true ! {filtered}decodebin ! {TO_BGR}"


def rtsp(uri: str, jetson: bool) -> str:
    """``rtsp://USER:PASSWORD@HOST/PATH``; ``#codec=h265`` or ``#codec=other`` where a Jetson's is not H.264.

    ``jetson``: decode by its hardware. Elsewhere the decoder is found by what the camera sends.
    """
    plain, _, fragment = uri.partition("#")
    parts = checked_rtsp(plain)
    codec = fragment.removeprefix("codec=") or "h264"
    if fragment not in ("", "codec=h264", "codec=h265", "codec=other"):
        raise CallError(f"source {without_password(uri)}: after # only codec=h264, codec=h265 or codec=other may stand")
    location = plain.replace(f"{parts.netloc.rpartition('@')[0]}@", "", 1) if "@" in parts.netloc else plain
    login = "" if parts.username is None else f" user-id={quoted(unquote(parts.username))}"
    login += "" if parts.password is None else f" user-pw={quoted(unquote(parts.password))}"
    source = f"rtspsrc location={quoted(location)}{login} protocols=tcp latency=0 drop-on-latency=true"
    if not jetson or codec == "other":
        to_bgr = JETSON_TO_BGR if jetson else TO_BGR
        return f"{source} ! application/x-rtp, media=(string)video ! decodebin ! {to_bgr}"
    decoder = f"rtp{codec}depay ! {codec}parse ! nvv4l2decoder enable-max-performance=1"
    return f"{source} ! {decoder} ! {JETSON_TO_BGR}"


def checked_rtsp(uri: str) -> SplitResult:
    """The parts of an RTSP address. Raises CallError where it names no host."""
    try:
        parts = urlsplit(uri)
        named = parts.hostname and (parts.port or 1)
    except ValueError:
        named = None
    if not named or "@" in parts.path:
        raise CallError(
            f"source {without_password(uri)}: is no camera's address; write rtsp://USER:PASSWORD@HOST/PATH "
            "(in a password: @ as %40, / as %2F, ? as %3F, # as %23, a blank as %20)"
        )
    return parts


def gst(uri: str) -> str:
    """``gst://PIPELINE``: any pipeline; pictures are converted and taken at its end, or at its own appsink."""
    pipeline = uri.partition("://")[2].strip()
    if not pipeline:
        raise CallError("source gst://: names no pipeline; write gst://videotestsrc is-live=true")
    return pipeline if re.search(r"\bappsink\b", pipeline) else f"{pipeline} ! {TO_BGR}"


def quoted(text: str) -> str:
    """``text`` as one value in a pipeline, whatever it holds. Raises CallError for control characters."""
    if not text.isprintable():
        raise CallError("a camera's address, user or password holds a character that cannot be printed")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
