"""All images below a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runtime.errors import CallError
from runtime.images import list_images
from runtime.result import Dropped, Frame
from runtime.sources.image import read_frame


class FolderSource:
    """Gives the images of a folder and its subfolders, sorted by name; the id is the relative path."""

    def __init__(self, uri: str, path: Path) -> None:
        self.uri, self.path = uri, path
        self._files = list_images(path)
        if not self._files:
            raise CallError(f"source {uri}: holds no image (png, jpg, bmp, tif, webp, pgm, ppm); name another folder")

    def frames(self) -> Iterator[Frame | Dropped]:
        """One frame per file."""
        for file in self._files:
            yield read_frame(self.uri, file.relative_to(self.path).as_posix(), file)
