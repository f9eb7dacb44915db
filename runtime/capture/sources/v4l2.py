"""A USB or other V4L2 camera: through GStreamer where it is installed, else through OpenCV."""

from __future__ import annotations

import os

import cv2

from dskd.runtime.capture.sources import pipelines
from dskd.runtime.capture.sources.base import Source, SourceKind
from dskd.runtime.capture.sources.gstreamer import GStreamerSource, gstreamer, has_elements
from dskd.runtime.capture.sources.opencv_capture import OpenCvSource
from dskd.runtime.configuration.options import read_options
from dskd.runtime.configuration.uri import uri_path, without_password
from dskd.runtime.errors import CallError, MissingPart

_CLOSED = "is not a camera, or busy, or not yours to read; add yourself to group video"


def v4l2_source(uri: str) -> Source:
    """``v4l2:///dev/video0?width=&height=&fps=``. Raises CallError where the options are wrong."""
    device = str(uri_path(uri.partition("?")[0]))
    pipelines.v4l2(uri)
    if has_elements("v4l2src", "decodebin", "videoconvert", "jpegdec"):
        return GStreamerSource(uri, lambda: _checked(uri, device))
    return OpenCvSource(uri, lambda: _open(uri, device), _CLOSED)


def _checked(uri: str, device: str) -> str:
    _refuse_absent(uri, device)
    if not os.access(device, os.R_OK | os.W_OK):
        raise MissingPart(f"source {without_password(uri)}: {_CLOSED}")
    return pipelines.v4l2(uri, _offered(device, pipelines.v4l2_wanted(uri)), jetson=has_elements("nvvidconv"))


def _offered(device: str, wanted: str) -> list[str]:
    """Media types that the camera has among those of ``wanted``; none where it does not tell before it runs."""
    gst = gstreamer()
    source = gst.ElementFactory.make("v4l2src")
    source.set_property("device", device)
    try:
        if source.set_state(gst.State.READY) == gst.StateChangeReturn.FAILURE:
            return []
        caps = source.get_static_pad("src").query_caps(gst.Caps.from_string(wanted))
        return [caps.get_structure(k).get_name() for k in range(caps.get_size())]
    finally:
        source.set_state(gst.State.NULL)


def _open(uri: str, device: str) -> cv2.VideoCapture:
    _refuse_absent(uri, device)
    options = read_options(uri, pipelines.V4l2Options)[1]
    capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not the oldest in a queue
    sizes = ("width", options.width, cv2.CAP_PROP_FRAME_WIDTH), ("height", options.height, cv2.CAP_PROP_FRAME_HEIGHT)
    for key, asked, option in sizes:
        if asked is not None and capture.isOpened() and not capture.set(option, asked):
            capture.release()
            raise CallError(
                f"source {without_password(uri)}: the camera does not give {key}={asked}; v4l2-ctl --list-formats-ext"
            )
    if options.fps is not None:
        capture.set(cv2.CAP_PROP_FPS, options.fps)
    return capture


def _refuse_absent(uri: str, device: str) -> None:
    if not os.path.exists(device):
        raise MissingPart(
            f"source {without_password(uri)}: there is no {device}; plug the camera in (v4l2-ctl --list-devices shows it)"
        )


KIND = SourceKind("v4l2:///dev/video0", lambda uri, options, context: v4l2_source(uri), pipelines.V4l2Options)
