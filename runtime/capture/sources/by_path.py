"""A file or folder by its path: one image, a video, or all images below a folder."""

from __future__ import annotations

import os
from pathlib import Path

from dskd.runtime.capture.image_files import is_image_name
from dskd.runtime.capture.sources.base import Reader, Source, SourceContext, SourceKind
from dskd.runtime.configuration.uri import uri_path, without_password
from dskd.runtime.errors import CallError, one_line


def by_path(uri: str, path: Path, reader: Reader | None) -> Source:
    """The source that a path is. Raises CallError where it is none."""
    if os.path.isdir(path):  # os.path's tests never raise, whatever the path holds
        from dskd.runtime.capture.sources.folder import FolderSource

        return FolderSource(one_line(uri), path, reader)
    if not os.path.exists(path):
        raise CallError(f"source {without_password(uri)}: there is no such file or folder; name another, or a camera")
    uri = one_line(uri)
    if not os.path.isfile(path):
        raise CallError(f"source {uri}: is a device or pipe, not a file; a camera is v4l2://{path.resolve()}")
    if is_image_name(path.name):
        from dskd.runtime.capture.sources.image import ImageSource

        return ImageSource(uri, path, reader)
    from dskd.runtime.capture.sources.video import VideoSource

    return VideoSource(uri, path)


def _opened(uri: str, options: object, context: SourceContext) -> Source:
    return by_path(uri, uri_path(uri), context.reader)


KIND = SourceKind("file://PATH (image or video)", _opened)
