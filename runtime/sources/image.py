"""One image file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import one_line
from runtime.images import BadImage, read_image
from runtime.result import Dropped, Frame


class ImageSource:
    """Gives one frame."""

    def __init__(self, uri: str, path: Path) -> None:
        self.uri, self.path = uri, path

    def frames(self) -> Iterator[Frame | Dropped]:
        """The image, or why it cannot be read."""
        yield read_frame(self.uri, self.path.name, self.path)


def read_frame(source: str, frame_id: str, path: Path) -> Frame | Dropped:
    """Reads a file as a frame; a bad file is a dropped frame. The id is made printable: sinks take text only."""
    now = time.time()
    frame_id = one_line(frame_id)
    try:
        return Frame(source, frame_id, now, read_image(path))
    except BadImage as error:
        return Dropped(source, frame_id, now, one_line(str(error)))
