"""GStreamer pipelines as text: what stands between a camera and pictures in BGR. No GStreamer needed to write them."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import Field

from dskd.runtime.configuration.options import read_options
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.configuration.uri import misplaced_login, without_password
from dskd.runtime.errors import CallError

# The newest frame only; ``sync=false``: the display time of a frame means nothing to an inspection.
SINK = "video/x-raw, format=(string)BGR ! appsink drop=true max-buffers=1 sync=false"
TO_BGR = f"videoconvert ! {SINK}"
RAW, JPEG = "video/x-raw", "image/jpeg"
JETSON_TO_BGR = f"nvvidconv ! video/x-raw, format=(string)BGRx ! {TO_BGR}"


class CsiOptions(Strict):
    """A Jetson's camera through its ISP."""

    width: int = Field(1280, ge=16, le=16384, description="pixels")
    height: int = Field(720, ge=16, le=16384, description="pixels")
    fps: int = Field(30, ge=1, le=1000, description="frames per second")
    exposure: int | None = Field(
        None, ge=1, le=1_000_000, description="microseconds, fixed; white balance is then locked too"
    )
    gain: float | None = Field(None, ge=1, le=256, description="fixed; white balance is then locked too")
    flip: int = Field(0, ge=0, le=7, description="nvvidconv's flip-method")


class V4l2Options(Strict):
    """A USB or other V4L2 camera."""

    width: int | None = Field(None, ge=16, le=16384, description="pixels")
    height: int | None = Field(None, ge=16, le=16384, description="pixels")
    fps: int | None = Field(None, ge=1, le=1000, description="frames per second")
    format: Literal["raw", "jpeg"] | None = Field(None, description="where the camera has both; default: raw")


def csi(uri: str) -> str:
    """``csi://0``: a Jetson's camera. Where exposure or gain is fixed white balance is locked with them: a score must not
    follow the light's automatic control.
    """
    address, options = read_options(uri, CsiOptions)
    if not re.fullmatch(r"\d{1,2}", address):
        raise CallError(f"source {without_password(uri)}: names no sensor; write csi://0")
    exposure, gain = options.exposure, options.gain
    if exposure is not None and exposure * options.fps > 1_000_000:
        raise CallError(
            f"source {without_password(uri)}: exposure={exposure} is longer than a frame of fps={options.fps} "
            f"({1_000_000 // options.fps} microseconds)"
        )
    fixed = "" if exposure is None else f' exposuretimerange="{1000 * exposure} {1000 * exposure}"'  # nanoseconds
    fixed += "" if gain is None else f' gainrange="{gain:g} {gain:g}" ispdigitalgainrange="1 1"'
    fixed += " aelock=true awblock=true" if fixed else ""
    return (
        f"nvarguscamerasrc sensor-id={int(address)}{fixed} ! "
        f"video/x-raw(memory:NVMM), width=(int){options.width}, height=(int){options.height}, format=(string)NV12, "
        f"framerate=(fraction){options.fps}/1 ! nvvidconv flip-method={options.flip} ! "
        f"video/x-raw, format=(string)BGRx ! {TO_BGR}"
    )


def v4l2(uri: str, offered: Collection[str] = (), jetson: bool = False) -> str:
    """``v4l2:///dev/video0``: raw or JPEG by name where the camera has it at that size.

    ``offered``: media types that it has (``v4l2_wanted``); raw is first where none is chosen. What else it gives goes
    through decodebin, which on a Jetson (``jetson``) leaves pictures in the GPU's memory. JPEG is decoded by the CPU there
    too: the Jetson's decoder refuses some cameras.
    """
    address, options = read_options(uri, V4l2Options)
    wanted, source = _size(options), f"v4l2src device={quoted(unquote(address))} do-timestamp=true"
    if options.format == "raw" or (options.format is None and RAW in offered):
        return f"{source} ! {RAW}{wanted} ! {TO_BGR}"
    if options.format == "jpeg" or JPEG in offered:
        return f"{source} ! {JPEG}{wanted} ! jpegdec ! {TO_BGR}"
    filtered = f"{RAW}{wanted}; {JPEG}{wanted} ! " if wanted and not jetson else ""
    return f"{source} ! {filtered}decodebin ! {JETSON_TO_BGR if jetson else TO_BGR}"


def v4l2_wanted(uri: str) -> str:
    """The media types that a camera is asked for, at the size asked for, as GStreamer's caps."""
    wanted = _size(read_options(uri, V4l2Options)[1])
    return f"{RAW}{wanted}; {JPEG}{wanted}"


def _size(options: V4l2Options) -> str:
    wanted = "" if options.width is None else f", width=(int){options.width}"
    wanted += "" if options.height is None else f", height=(int){options.height}"
    return wanted if options.fps is None else f"{wanted}, framerate=(fraction){options.fps}/1"


def rtsp(uri: str, jetson: bool) -> str:
    """``rtsp://USER:PASSWORD@HOST/PATH``; ``#codec=h265`` or ``#codec=other`` where a Jetson's is not H.264.

    ``jetson``: decode by its hardware. Elsewhere the decoder is found by what the camera sends.
    """
    parts = checked_rtsp(uri)
    plain, _, fragment = uri.partition("#")
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
    if not named or misplaced_login(uri):
        raise CallError(
            f"source {without_password(uri)}: is no camera's address; write rtsp://USER:PASSWORD@HOST/PATH "
            "(in a password: @ as %40, / as %2F, ? as %3F, # as %23, a blank as %20)"
        )
    return parts


def gst(uri: str, jetson: bool = False) -> str:
    """``gst://PIPELINE``: any pipeline; pictures are converted and taken at its end, or at its own appsink.

    ``jetson``: what a decoder at its end leaves in the GPU's memory is fetched from there.
    """
    pipeline = uri.partition("://")[2].strip()
    if not pipeline:
        raise CallError("source gst://: names no pipeline; write gst://videotestsrc is-live=true")
    if re.search(r"\bappsink\b", pipeline):
        return pipeline
    last = pipeline.rpartition("!")[2].strip()
    on_gpu = jetson and re.match(r"(uri)?decodebin|nv(?!vidconv)|video/x-raw\(memory:NVMM\)", last)
    return f"{pipeline} ! {JETSON_TO_BGR if on_gpu else TO_BGR}"


def quoted(text: str) -> str:
    """``text`` as one value in a pipeline, whatever it holds. Raises CallError for control characters."""
    if not text.isprintable():
        raise CallError("a camera's address, user or password holds a character that cannot be printed")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
