"""A network camera by RTSP: through GStreamer where it is installed, else through OpenCV's FFmpeg."""

from __future__ import annotations

import cv2

from dskd.runtime.capture.sources import pipelines
from dskd.runtime.capture.sources.base import Source, SourceKind
from dskd.runtime.capture.sources.gstreamer import GStreamerSource, has_elements
from dskd.runtime.capture.sources.opencv_capture import OpenCvSource

_OPEN_MS, _READ_MS = 5000, 3000  # FFmpeg's own are 30 seconds: too long to hear that a camera is gone


def rtsp_source(uri: str) -> Source:
    """``rtsp://USER:PASSWORD@HOST/PATH``, by TCP. Raises CallError where the address is none."""
    pipelines.rtsp(uri, jetson=False)
    if has_elements("nvv4l2decoder", "nvvidconv", "rtspsrc"):
        return GStreamerSource(uri, lambda: pipelines.rtsp(uri, jetson=True))
    if has_elements("rtspsrc", "decodebin") and (has_elements("avdec_h264") or has_elements("openh264dec")):
        return GStreamerSource(uri, lambda: pipelines.rtsp(uri, jetson=False))
    return ffmpeg_source(uri)


def ffmpeg_source(uri: str) -> OpenCvSource:
    """The same without GStreamer. A reader that is slower than the camera falls behind: capture it in a thread."""
    address = uri.partition("#")[0]
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
    return OpenCvSource(
        uri,
        lambda: cv2.VideoCapture(address, cv2.CAP_FFMPEG, timeouts),
        "does not answer, or refuses the login; check address, user, password and cable",
    )


KIND = SourceKind("rtsp://USER:PASSWORD@HOST/PATH", lambda uri, options, context: rtsp_source(uri))
KIND_TLS = SourceKind("rtsps://USER:PASSWORD@HOST/PATH", lambda uri, options, context: rtsp_source(uri))
