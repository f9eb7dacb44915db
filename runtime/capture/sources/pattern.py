"""A camera that needs no camera: a part on a belt, with sensor noise."""

from __future__ import annotations

import time

import cv2
import numpy as np
from pydantic import Field

from dskd.runtime.capture.sources.base import Source, SourceContext, SourceKind, SourceLost
from dskd.runtime.configuration.options import read_options
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.configuration.uri import without_password
from dskd.runtime.errors import CallError
from dskd.runtime.result import Frame, Image

_NOISE = 2.0  # standard deviation in grey levels, as a small sensor has


class PatternOptions(Strict):
    """A part on a belt."""

    size: str = Field("640x480", pattern=r"^\d{2,4}x\d{2,4}$", description="width x height in pixels")
    fps: float = Field(10.0, ge=0.01, le=1000, description="frames per second")
    seed: int = Field(0, ge=0, le=999_999_999, description="same seed, same frames")


class PatternSource(Source):
    """``test://pattern?size=640x480&fps=10&seed=0``: frame n is the same in every run with the same seed.

    A slow reader misses frames, as with a camera: the id is the number of the exposure. Triggered, it exposes when
    asked and not before.
    """

    live = True

    def __init__(self, uri: str, triggered: bool = False) -> None:
        self.uri, self.triggerable = without_password(uri), triggered
        address, options = read_options(uri, PatternOptions)
        self._width, self._height = (int(side) for side in options.size.split("x"))
        self._fps, self._seed = options.fps, options.seed
        if address != "pattern" or min(self._width, self._height) < 16:
            raise CallError(f"source {self.uri}: write test://pattern?size=640x480&fps=10&seed=0")
        self._started: float | None = None
        self._next = self._asked = 0

    def open(self) -> None:
        """The first exposure is now."""
        self._started, self._next, self._asked = time.monotonic(), 0, 0

    def read(self, timeout: float) -> Frame | None:
        """The next exposure's frame, None where it is not due within ``timeout`` seconds."""
        if self._started is None:
            raise SourceLost(f"source {self.uri}: is not open")
        if self.triggerable:
            if not self._asked:
                time.sleep(timeout)
                return None
            self._asked -= 1
        elif not self._wait(self._started, timeout):
            return None
        number, self._next = self._next, self._next + 1
        return Frame(self.uri, str(number), time.time(), self._image(number), number / self._fps)

    def trigger(self) -> None:
        """Exposes once."""
        self._asked += 1

    def close(self) -> None:
        """Ends it."""
        self._started = None

    def _wait(self, started: float, timeout: float) -> bool:
        elapsed = time.monotonic() - started
        self._next = max(self._next, int(elapsed * self._fps))  # what nobody read in time is gone
        due = self._next / self._fps - elapsed
        time.sleep(min(max(0.0, due), timeout))
        return due <= timeout

    def _image(self, number: int) -> Image:
        """uint8 BGR [H, W, 3]: a bright disc that travels over a grey belt."""
        random = np.random.default_rng([self._seed, number])
        noise = random.normal(0.0, _NOISE, (self._height, self._width, 1)).astype(np.float32)
        picture = np.full((self._height, self._width, 3), 70, np.uint8)
        radius = min(self._width, self._height) // 4
        centre = (number * max(1, self._width // 40) % self._width, self._height // 2)
        cv2.circle(picture, centre, radius, (180, 190, 200), -1, cv2.LINE_AA)
        cv2.circle(picture, centre, radius // 3, (70, 70, 70), -1, cv2.LINE_AA)
        return np.asarray(np.clip(picture + noise, 0, 255), np.uint8)


def _opened(uri: str, options: object, context: SourceContext) -> PatternSource:
    return PatternSource(uri, triggered=context.trigger == "software")


KIND = SourceKind("test://pattern", _opened, PatternOptions)
