"""Where frames come from. Each kind of source is one file; ``open_source`` picks it by URI."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from runtime.errors import CallError
from runtime.images import is_image_name
from runtime.sources.base import Source
from runtime.sources.folder import FolderSource
from runtime.sources.image import ImageSource
from runtime.sources.v4l2 import V4l2Source
from runtime.sources.video import VideoSource

FORMS = "a path, folder:///PATH, file://PATH (image or video), v4l2:///dev/video0"


def open_source(uri: str) -> Source:
    """The source that ``uri`` names. Raises CallError where there is no such kind or path."""
    if "://" not in uri:
        return _by_path(uri, Path(uri))
    scheme, path = urlsplit(uri).scheme, uri_path(uri)
    if scheme == "folder":
        return FolderSource(uri, path)
    if scheme == "file":
        return _by_path(uri, path)
    if scheme == "v4l2":
        return V4l2Source(uri, path)
    raise CallError(f"source {uri}: no kind of source is called {scheme!r}; use {FORMS}")


def uri_path(uri: str) -> Path:
    """The path in a URI; ``file://clip.mp4`` is relative, ``file:///clip.mp4`` absolute."""
    parts = urlsplit(uri)
    return Path(unquote(parts.netloc + parts.path))


def _by_path(uri: str, path: Path) -> Source:
    try:
        if path.is_dir():
            return FolderSource(uri, path)
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise CallError(f"source {uri!r}: cannot be opened ({error}); name a file or folder") from error
    if not exists:
        raise CallError(f"source {uri}: there is no such file or folder; use {FORMS}")
    return ImageSource(uri, path) if is_image_name(path.name) else VideoSource(uri, path)


__all__ = ["FORMS", "Source", "open_source", "uri_path"]
