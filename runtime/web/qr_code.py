"""A QR code for a terminal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

QUIET = 4  # light modules around the code, which readers need
BLOCKS = " ▄▀█"  # two modules a character, one above the other: dark ones are drawn
BLACK_ON_WHITE, PLAIN = "\x1b[38;5;16;48;5;231m", "\x1b[0m"  # whatever colours the terminal has


def qr_code(text: str) -> str:
    """Lines to print, empty where this OpenCV makes no codes (before 4.5.5, or built without)."""
    import cv2

    try:
        image = np.asarray(cv2.QRCodeEncoder.create().encode(text))
    except (AttributeError, cv2.error):
        return ""
    dark = np.pad(_without_margin(image < 128), QUIET)
    if len(dark) % 2:
        dark = np.pad(dark, ((0, 1), (0, 0)))
    pairs = 2 * dark[::2].astype(int) + dark[1::2]
    return "\n".join(f"{BLACK_ON_WHITE}{''.join(BLOCKS[pair] for pair in row)}{PLAIN}" for row in pairs)


def _without_margin(dark: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    return dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
