"""Whether a captured picture can be one of the part: not frozen, black, over-exposed, blank, blurred or of a wrong size."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dskd.runtime.reason import NotInspected, Reason
from dskd.runtime.result import Image

_SAMPLES = 96  # rows and columns looked at; every other figure here is about these pixels
_STILL_RUN = 25  # nearly equal frames in a row before a picture counts as frozen: a second of most cameras
_STILL_SHARE = 0.002  # share of samples that differ by more than a grey level; a sensor's noise moves far more
_TILE = 160  # pixels: sharpness is measured at full resolution, so on tiles
_FLAT = 1  # grey levels between the 1st and 99th percentile of a picture that a decoder or driver made up


@dataclass(frozen=True)
class HealthLimits:
    """What a sound frame is. A limit of 0 (``bright``: 255) and ``size`` None switch a check off.

    ``black``: 95 % of the picture are darker. ``bright``: 95 % are brighter. ``blur``: the variance of the Laplacian in
    the sharpest tile is less. ``size``: (width, height); None takes that of the first frame.
    """

    frozen: bool = True
    black: int = 8
    bright: int = 247
    blur: float = 0.0
    size: tuple[int, int] | None = None


class FrameHealth:
    """Judges the frames of one camera in order, across reconnects."""

    def __init__(self, limits: HealthLimits | None = None, size: tuple[int, int] | None = None) -> None:
        """``size``: what the camera gave before, where the limits name none."""
        self.limits = limits or HealthLimits()
        self._size = self.limits.size or size
        self._last: Image | None = None
        self._last_samples: NDArray[np.uint8] | None = None
        self._still = 0

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) that frames must have; None before the first sound one."""
        return self._size

    def fault(self, image: Image, live: bool = True) -> NotInspected | None:
        """Why ``image`` [H, W, 3] must not be inspected, what is seen and what to do; None where it is sound.

        ``live`` False leaves out what compares with the frame before: files may repeat.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            detail = f"{image.dtype} {list(image.shape)} is no 8-bit colour picture; check the camera's format"
            return NotInspected(Reason.SIZE, detail)
        size = (image.shape[1], image.shape[0])
        if self._size is not None and size != self._size:
            detail = (
                f"{size[0]}x{size[1]} instead of {self._size[0]}x{self._size[1]}; check which camera it is, or name the "
                f"size where it is right: health.size [{size[0]}, {size[1]}]"
            )
            return NotInspected(Reason.SIZE, detail)
        samples = samples_of(image)
        fault = self._frozen(image, samples) if live and self.limits.frozen else None
        fault = fault or self._exposure(samples) or self._blurred(image)
        if fault is None and live:
            self._size = size  # a sound frame says what this camera gives
        return fault

    def _frozen(self, image: Image, samples: NDArray[np.uint8]) -> NotInspected | None:
        last, last_samples = self._last, self._last_samples
        self._last, self._last_samples = image, samples
        if last is None or last_samples is None or last.shape != image.shape:
            self._still = 0
            return None
        moved = np.count_nonzero(cv2.absdiff(samples, last_samples) > 1)
        if moved == 0 and np.array_equal(samples, last_samples) and np.array_equal(image, last):
            detail = "the same picture as before, bit for bit; restart the camera"  # no sensor is free of noise
            return NotInspected(Reason.FROZEN, detail)
        self._still = self._still + 1 if moved <= _STILL_SHARE * samples.size else 0
        if self._still < _STILL_RUN:
            return None
        return NotInspected(Reason.FROZEN, f"hardly anything changed over {self._still} frames; restart the camera")

    def _exposure(self, samples: NDArray[np.uint8]) -> NotInspected | None:
        first, low, high, last = np.percentile(samples, (1, 5, 95, 99))
        if high < self.limits.black:
            detail = f"95 % of the picture are darker than {self.limits.black} of 255; check light, lens and cable"
            return NotInspected(Reason.BLACK, detail)
        if low > self.limits.bright:
            detail = f"95 % of the picture are brighter than {self.limits.bright} of 255; expose shorter"
            return NotInspected(Reason.OVER_EXPOSED, detail)
        flat = last - first <= _FLAT or all(np.ptp(np.percentile(c, (1, 99))) <= _FLAT for c in cv2.split(samples))
        return NotInspected(Reason.BLANK, "one even colour; check the camera") if flat else None

    def _blurred(self, image: Image) -> NotInspected | None:
        if not self.limits.blur:
            return None
        sharpest = sharpness(image)
        if sharpest >= self.limits.blur:
            return None
        detail = f"sharpness {sharpest:.0f} is under {self.limits.blur:g}; clean the lens, check focus and light"
        return NotInspected(Reason.BLURRED, detail)


def samples_of(image: Image) -> Image:
    """Some of the pixels, evenly spread: enough to judge exposure by."""
    return image[_grid(image.shape[0])][:, _grid(image.shape[1])]


def sharpness(image: Image) -> float:
    """Of the sharpest tile: variance of the Laplacian, in grey levels squared."""
    grey = (cv2.cvtColor(tile, cv2.COLOR_BGR2GRAY) for tile in _tiles(image))
    return max(float(cv2.Laplacian(tile, cv2.CV_16S).var()) for tile in grey)


def _grid(length: int) -> slice:
    return slice(None, None, max(1, length // _SAMPLES))


def _tiles(image: Image) -> list[Image]:
    """Nine tiles spread over the picture: a part rarely fills it, and its sharpest edge tells the focus."""
    height, width = image.shape[:2]
    rows = {max(0, int((height - _TILE) * share)) for share in (0.1, 0.5, 0.9)}
    columns = {max(0, int((width - _TILE) * share)) for share in (0.1, 0.5, 0.9)}
    return [image[y : y + _TILE, x : x + _TILE] for y in sorted(rows) for x in sorted(columns)]
