"""Where frames come from. Each kind of source is one file; ``open_source`` picks it by URI."""

from __future__ import annotations

import os
from pathlib import Path

from dskd.runtime.capture.image_files import is_image_name
from dskd.runtime.capture.sources.base import Source, SourceEnded, SourceLost, Trigger, frames
from dskd.runtime.capture.sources.folder import FolderSource
from dskd.runtime.capture.sources.image import ImageSource, Reader
from dskd.runtime.capture.sources.video import VideoSource
from dskd.runtime.capture.sources.watched_folder import WatchedFolderSource
from dskd.runtime.configuration.uri import uri_path, uri_scheme, without_password
from dskd.runtime.errors import CallError, one_line

FORMS = (
    "a path, folder:///PATH, file://PATH (image or video), watch://FOLDER, v4l2:///dev/video0, csi://0, rtsp://HOST/PATH, "
    "gige://ADDRESS, gst://PIPELINE, test://pattern"
)


def open_source(uri: str, trigger: Trigger = "free", reader: Reader | None = None) -> Source:
    """The source that ``uri`` names; no camera is touched before its ``open``.

    ``reader`` decodes picture files (default: in this process). ``trigger``: what starts an exposure, where a camera can be told. Raises CallError where there is no such kind or
    path, or an option is wrong.
    """
    if not uri:
        raise CallError(f"source: is empty; use {FORMS}")
    if "://" not in uri:
        return _by_path(one_line(uri), Path(uri), without_password(uri), reader)
    scheme = uri_scheme(uri)
    if trigger == "line" and scheme != "gige":
        raise CallError(f"source {without_password(uri)}: only gige:// cameras have an input line; use another trigger")
    if scheme in ("folder", "file", "watch"):
        return _of_files(scheme, one_line(uri), uri_path(uri), reader)
    return _camera(scheme, uri, trigger)


def _of_files(scheme: str, uri: str, path: Path, reader: Reader | None) -> Source:
    if scheme == "folder":
        return FolderSource(uri, path, reader)
    return (
        WatchedFolderSource(uri, path, reader)
        if scheme == "watch"
        else _by_path(uri, path, without_password(uri), reader)
    )


def _camera(scheme: str, uri: str, trigger: Trigger) -> Source:
    """Each kind is imported where it is asked for: a program that starts for one picture waits for none of them."""
    match scheme:
        case "v4l2":
            from dskd.runtime.capture.sources.v4l2 import v4l2_source

            return v4l2_source(uri)
        case "csi" | "gst":
            return _pipeline(uri, scheme)
        case "rtsp" | "rtsps":
            from dskd.runtime.capture.sources.rtsp import rtsp_source

            return rtsp_source(uri)
        case "gige":
            from dskd.runtime.capture.sources.gige import GigeSource

            return GigeSource(uri, trigger)
        case "test":
            from dskd.runtime.capture.sources.pattern import PatternSource

            return PatternSource(uri, triggered=trigger == "software")
    shown = without_password(uri)
    raise CallError(f"source {shown}: there is no such kind of source; use {FORMS}")


def _pipeline(uri: str, scheme: str) -> Source:
    from dskd.runtime.capture.sources import pipelines
    from dskd.runtime.capture.sources.gstreamer import GStreamerSource, has_elements
    from dskd.runtime.capture.sources.opencv_capture import opencv_pipeline

    pipeline = pipelines.csi(uri) if scheme == "csi" else pipelines.gst(uri)
    if has_elements("appsink"):
        return GStreamerSource(uri, lambda: pipeline, finite=scheme == "gst")
    return opencv_pipeline(uri, lambda: pipeline)


def _by_path(uri: str, path: Path, shown: str, reader: Reader | None) -> Source:
    """``shown``: for a path that is none, but an address without its scheme."""
    if os.path.isdir(path):  # os.path's tests never raise, whatever the path holds
        return FolderSource(uri, path, reader)
    if not os.path.exists(path):
        raise CallError(f"source {shown}: there is no such file or folder; use {FORMS}")
    if not os.path.isfile(path):
        raise CallError(f"source {uri}: is a device or pipe, not a file; a camera is v4l2://{path.resolve()}")
    return ImageSource(uri, path, reader) if is_image_name(path.name) else VideoSource(uri, path)


__all__ = [
    "FORMS",
    "Source",
    "SourceEnded",
    "SourceLost",
    "Trigger",
    "frames",
    "open_source",
    "uri_path",
    "uri_scheme",
    "without_password",
]
