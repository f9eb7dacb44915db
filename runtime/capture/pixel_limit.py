"""The most pixels that a picture may have: what is larger is refused before memory is taken for it."""

from __future__ import annotations

import os

from dskd.runtime.errors import CallError

# 67 million pixels: over the largest common industrial sensors (9344 x 7000). Decoding takes up to 11 bytes a pixel
# (a progressive CMYK JPEG), most files take 6: at most 0.74 GB, which a device of 4 GB can spare.
MEGAPIXELS = 64
MOST_MEGAPIXELS = 1024  # OpenCV's own limit
BYTES_PER_PIXEL = 12  # that decoding takes at most, rounded up
VARIABLE = "DSKD_MAX_MEGAPIXELS"


class _Limit:
    """The most pixels of one picture; one for the process, since its memory is."""

    pixels: int | None = None  # None: what the environment says


def limit_megapixels(megapixels: int) -> None:
    """Sets the most megapixels (of 2^20 pixels) that a picture of this process may have."""
    _Limit.pixels = megapixels << 20


def largest_pixels() -> int:
    """The most pixels of one picture. Raises CallError where the environment holds no sensible number."""
    if _Limit.pixels is None:
        said = os.environ.get(VARIABLE) or str(MEGAPIXELS)
        if not (said.isdecimal() and 1 <= int(said[:9]) <= MOST_MEGAPIXELS):
            raise CallError(f"{VARIABLE} {said!r}: must be a whole number from 1 to {MOST_MEGAPIXELS}")
        _Limit.pixels = int(said) << 20
    return _Limit.pixels
