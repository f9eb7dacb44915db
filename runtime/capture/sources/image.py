"""One image file."""

from __future__ import annotations

import time
from pathlib import Path

from dskd.runtime.capture.image_files import BadImage, MemoryShort, read_image
from dskd.runtime.capture.sources.base import Reader, Source, SourceEnded
from dskd.runtime.errors import one_line
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Frame


class ImageSource(Source):
    """Gives one frame."""

    def __init__(self, uri: str, path: Path, reader: Reader | None = None) -> None:
        self.uri, self.path, self._reader = uri, path, reader
        self._done = False

    def open(self) -> None:
        """The image is to be read once more."""
        self._done = False

    def read(self, timeout: float) -> Frame | Dropped:
        """The image, or why it cannot be read. Raises SourceEnded the second time."""
        if self._done:
            raise SourceEnded(f"source {self.uri}: is read")
        self._done = True
        return read_frame(self.uri, self.path.name, self.path, self._reader)


def read_frame(source: str, frame_id: str, path: Path, reader: Reader | None = None) -> Frame | Dropped:
    """Reads a file as a frame; one that cannot be read is a dropped frame. The id is made printable: sinks take text only."""
    try:
        return read_frame_or_wait(source, frame_id, path, reader)
    except MemoryShort as error:
        return Dropped(source, one_line(frame_id), time.time(), Reason.UNUSABLE, one_line(str(error)))


def read_frame_or_wait(source: str, frame_id: str, path: Path, reader: Reader | None = None) -> Frame | Dropped:
    """The same for a source that can read the file later: raises MemoryShort."""
    now = time.time()
    frame_id = one_line(frame_id)
    try:
        return Frame(source, frame_id, now, (reader or read_image)(path))
    except BadImage as error:
        return Dropped(source, frame_id, now, Reason.UNUSABLE, one_line(str(error)))
