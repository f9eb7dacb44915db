"""All images below a folder."""

from __future__ import annotations

from pathlib import Path

from dskd.runtime.capture.image_files import list_images
from dskd.runtime.capture.sources.base import Reader, Source, SourceContext, SourceEnded, SourceKind
from dskd.runtime.capture.sources.image import read_frame
from dskd.runtime.configuration.uri import uri_path
from dskd.runtime.errors import CallError, one_line
from dskd.runtime.result import Dropped, Frame


class FolderSource(Source):
    """Gives the images of a folder and its subfolders, sorted by name; the id is the relative path."""

    def __init__(self, uri: str, path: Path, reader: Reader | None = None) -> None:
        self.uri, self.path, self._reader = uri, path, reader
        self._files = list_images(path)
        if not self._files:
            raise CallError(f"source {uri}: holds no image (png, jpg, bmp, tif, webp, pgm, ppm); name another folder")
        self._next = 0

    def open(self) -> None:
        """Starts at the first file."""
        self._next = 0

    def read(self, timeout: float) -> Frame | Dropped:
        """One frame per file. Raises SourceEnded after the last."""
        if self._next == len(self._files):
            raise SourceEnded(f"source {self.uri}: all {len(self._files)} images are read")
        file = self._files[self._next]
        self._next += 1
        return read_frame(self.uri, file.relative_to(self.path).as_posix(), file, self._reader)


def _opened(uri: str, options: object, context: SourceContext) -> FolderSource:
    return FolderSource(one_line(uri), uri_path(uri), context.reader)


KIND = SourceKind("folder:///PATH", _opened)
