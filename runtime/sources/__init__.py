"""Where frames come from. Each kind of source is one file; ``open_source`` picks it by URI."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from runtime.errors import CallError, one_line
from runtime.images import is_image_name
from runtime.sources.base import Source, SourceEnded, SourceLost, frames
from runtime.sources.folder import FolderSource
from runtime.sources.image import ImageSource
from runtime.sources.v4l2 import V4l2Source
from runtime.sources.video import VideoSource

FORMS = "a path, folder:///PATH, file://PATH (image or video), v4l2:///dev/video0"


def open_source(uri: str) -> Source:
    """The source that ``uri`` names. Raises CallError where there is no such kind or path."""
    if not uri:
        raise CallError(f"source: is empty; use {FORMS}")
    if "://" not in uri:
        return _by_path(one_line(uri), Path(uri))
    scheme, path, uri = uri_scheme(uri), uri_path(uri), one_line(uri)
    if scheme == "folder":
        return FolderSource(uri, path)
    if scheme == "file":
        return _by_path(uri, path)
    if scheme == "v4l2":
        return V4l2Source(uri, path)
    raise CallError(f"source {uri}: no kind of source is called {scheme!r}; use {FORMS}")


def uri_scheme(uri: str) -> str:
    """What stands before ``://``, empty where there is none."""
    return uri.partition("://")[0].lower() if "://" in uri else ""


def uri_path(uri: str) -> Path:
    """The path in a URI; ``file://clip.mp4`` is relative, ``file:///clip.mp4`` absolute.

    ``?`` and ``#`` are part of the path, as in a shell. Raises CallError where there is none or it holds a NUL byte.
    """
    path = unquote(uri.partition("://")[2])
    if not path or "\0" in path:
        raise CallError(f"{uri}: names no path; write SCHEME:///absolute/path or SCHEME://relative/path")
    return Path(path)


def _by_path(uri: str, path: Path) -> Source:
    if os.path.isdir(path):  # os.path's tests never raise, whatever the path holds
        return FolderSource(uri, path)
    if not os.path.exists(path):
        raise CallError(f"source {uri}: there is no such file or folder; use {FORMS}")
    if not os.path.isfile(path):
        raise CallError(f"source {uri}: is a device or pipe, not a file; a camera is v4l2://{path.resolve()}")
    return ImageSource(uri, path) if is_image_name(path.name) else VideoSource(uri, path)


__all__ = ["FORMS", "Source", "SourceEnded", "SourceLost", "frames", "open_source", "uri_path", "uri_scheme"]
