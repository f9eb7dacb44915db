"""Brightness, contrast and sharpness of a camera's pictures over the last day: lamps age, and lenses gather dust."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from dskd.runtime.capture.frame_health import samples_of, sharpness
from dskd.runtime.result import Image

PERIOD = 60.0  # seconds between two pictures that are measured
KEPT = 24 * 60


class Quality(NamedTuple):
    """One picture, captured ``at`` seconds since the epoch.

    ``brightness``: the median grey level. ``contrast``: grey levels between its 5th and 95th percentile. ``sharpness``:
    as ``health.blur`` in the station file has it, so that a limit can be read from what is usual.
    """

    at: float
    brightness: float
    contrast: float
    sharpness: float


class PictureQuality:
    """Of one camera, since the station started. One thread measures, any may read."""

    def __init__(self) -> None:
        self._kept: deque[Quality] = deque(maxlen=KEPT)

    def look(self, image: Image, at: float) -> None:
        """Measures ``image`` [H, W, 3] where the last one was measured ``PERIOD`` ago, or the clock was set back."""
        if self._kept and 0 <= at - self._kept[-1].at < PERIOD:
            return
        low, middle, high = np.percentile(samples_of(image), (5, 50, 95))
        self._kept.append(Quality(at, float(middle), float(high - low), sharpness(image)))

    def measured(self) -> list[Quality]:
        """Oldest first."""
        return list(self._kept)
