"""All images below a folder, once, or again and again like a camera."""

from __future__ import annotations

import re
import time
from pathlib import Path

from pydantic import Field

from dskd.runtime.capture.image_files import list_images
from dskd.runtime.capture.sources.base import Reader, Source, SourceContext, SourceEnded, SourceKind
from dskd.runtime.capture.sources.image import read_frame
from dskd.runtime.configuration.options import read_options
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.configuration.uri import uri_path
from dskd.runtime.errors import CallError, one_line
from dskd.runtime.result import Dropped, Frame

_OPTIONS = re.compile(r"\?(?:(?:loop|fps)=[^/&=?]*)(?:&(?:loop|fps)=[^/&=?]*)*$")


class FolderOptions(Strict):
    """How the images come."""

    loop: int = Field(0, ge=0, le=1, description="1: begin again after the last image")
    fps: float | None = Field(
        None, ge=0.01, le=1000, description="images per second (default: as fast as they are taken)"
    )


class FolderSource(Source):
    """Gives the images of a folder and its subfolders, sorted by name; the id is the relative path.

    With ``fps`` they come in their own time, as a camera's do.
    """

    def __init__(
        self, uri: str, path: Path, reader: Reader | None = None, options: FolderOptions | None = None
    ) -> None:
        options = options or FolderOptions()
        self.uri, self.path, self._reader = uri, path, reader
        self._fps, self.live, self.endless = options.fps, options.fps is not None, bool(options.loop)
        self._files = list_images(path)
        if not self._files:
            raise CallError(f"source {uri}: holds no image (png, jpg, bmp, tif, webp, pgm, ppm); name another folder")
        self._next, self._due = 0, 0.0

    def open(self) -> None:
        """Starts at the first file."""
        self._next, self._due = 0, time.monotonic()

    def read(self, timeout: float) -> Frame | Dropped | None:
        """One frame per file, None where the next is not due within ``timeout`` seconds. Raises SourceEnded."""
        if self._next == len(self._files):
            if not self.endless:
                raise SourceEnded(f"source {self.uri}: all {len(self._files)} images are read")
            self._next = 0
        if self._fps is not None and not self._wait(self._fps, timeout):
            return None
        file = self._files[self._next]
        self._next += 1
        return read_frame(self.uri, file.relative_to(self.path).as_posix(), file, self._reader)

    def _wait(self, fps: float, timeout: float) -> bool:
        """Until the next image is due; a slow reader gets it late and none is left out."""
        left = self._due - time.monotonic()
        time.sleep(min(max(0.0, left), timeout))
        if left > timeout:
            return False
        self._due = max(self._due + 1 / fps, time.monotonic())
        return True


def _opened(uri: str, options: object, context: SourceContext) -> FolderSource:
    path, shown = uri_path(uri), one_line(uri)
    found = _OPTIONS.search(uri)
    if found is None or path.is_dir():  # a folder may be called so
        return FolderSource(shown, path, context.reader)
    address = uri[: found.start()]
    _, chosen = read_options(address.replace("?", "%3F") + found[0], FolderOptions)
    return FolderSource(shown, uri_path(address), context.reader, chosen)


KIND = SourceKind("folder:///PATH?loop=1&fps=2", _opened, told=FolderOptions)
