"""A video file, every frame of it."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np

from dskd.runtime.capture.pixel_limit import largest_pixels
from dskd.runtime.capture.sources.base import Source, SourceEnded
from dskd.runtime.errors import DskdError
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Frame


class VideoSource(Source):
    """Gives each frame of a file; the id is the frame's number from 0."""

    def __init__(self, uri: str, path: Path) -> None:
        self.uri, self.path = uri, path
        self._capture: cv2.VideoCapture | None = None
        self._number = self._announced = 0
        self._last = self._longest = 0.0

    def open(self) -> None:
        """Starts at the first frame. Raises DskdError where OpenCV cannot read the file."""
        self.close()
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise DskdError(
                f"source {self.uri}: is neither an image nor a video that OpenCV can read; convert it to MP4"
            )
        width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > largest_pixels():
            capture.release()
            raise DskdError(f"source {self.uri}: {width}x{height} pixels is over the limit; scale it down or raise it")
        self._capture, self._number = capture, 0
        self._last = self._longest = 0.0
        self._announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def read(self, timeout: float) -> Frame | Dropped:
        """Frames in order; one Dropped where the file breaks off.

        Raises SourceEnded after the last, DskdError where the file holds none.
        """
        read, image = self._capture.read() if self._capture else (False, None)
        if read:
            self._number += 1
            moment = self._capture.get(cv2.CAP_PROP_POS_MSEC) if self._capture else 0.0
            self._longest, self._last = max(self._longest, moment - self._last), moment
            return Frame(self.uri, str(self._number - 1), time.time(), np.asarray(image, np.uint8))
        number, broken_off = self._number, self._broken_off()
        self.close()
        if number == 0:
            raise DskdError(f"source {self.uri}: holds no frame that can be decoded; convert it to MP4")
        if broken_off:
            detail = f"source {self.uri}: ends after {number} of {self._announced} frames; the rest cannot be decoded"
            return Dropped(self.uri, str(number), time.time(), Reason.UNUSABLE, detail)
        raise SourceEnded(f"source {self.uri}: all {number} frames are read")

    def _broken_off(self) -> bool:
        """Whether frames are missing at the end.

        Containers without an index give no count: it is then the duration times the rate, which tells nothing where the
        rate varies. So the last frame must also be further from the end than any frame was from the next.
        """
        if self._capture is None or self._number >= self._announced - 1:  # containers may count one too many
            return False
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        if not rate > 0:
            return True
        left = 1000 * self._announced / rate - self._last  # the last frame's own time is part of it
        return left > max(2000 / rate, self._longest) + 1000 / rate

    def close(self) -> None:
        """Closes the file."""
        if self._capture is not None:
            self._capture.release()
        self._capture = None
