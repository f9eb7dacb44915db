"""A video file, every frame of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from runtime.errors import DskdError
from runtime.result import Dropped, Frame


class VideoSource:
    """Gives each frame of a file; the id is the frame's number from 0."""

    def __init__(self, uri: str, path: Path) -> None:
        self.uri, self.path = uri, path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise DskdError(f"source {uri}: is neither an image nor a video that OpenCV can read; convert it to MP4")

    def frames(self) -> Iterator[Frame | Dropped]:
        """Frames in order; one Dropped where the file breaks off. Raises DskdError where it holds no frame."""
        number, announced = 0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        try:
            while True:
                read, image = self._capture.read()
                if not read:
                    break
                yield Frame(self.uri, str(number), time.time(), np.asarray(image, np.uint8))
                number += 1
        finally:
            self._capture.release()
        if number == 0:
            raise DskdError(f"source {self.uri}: holds no frame that can be decoded; convert it to MP4")
        if number < announced - 1:  # containers may count one too many
            reason = f"source {self.uri}: ends after {number} of {announced} frames; the rest cannot be decoded"
            yield Dropped(self.uri, str(number), time.time(), reason)
