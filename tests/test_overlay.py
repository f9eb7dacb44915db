"""Heat over a picture: it shows where to look, and the defect below it stays visible."""

from __future__ import annotations

import cv2
import numpy as np

from dskd.runtime.inspection.overlay import heat_layer, heat_map

STRIPES = np.tile(np.repeat(np.array([90, 160], np.uint8), 4), (64, 8))[..., None].repeat(3, 2)  # [64, 64, 3]
WHOLE = (0, 0, 64, 64)


def contrast(image: np.ndarray) -> float:
    """Of the stripes, in grey levels, away from the borders where the line around the heat is drawn."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(float)[8:-8]
    bright = STRIPES[8:-8, :, 0] == 160
    bright[:, :8] = False
    return float(grey[bright].mean() - grey[:, 8:-8][STRIPES[8:-8, 8:-8, 0] == 90].mean())


def test_what_lies_below_the_strongest_heat_is_seen() -> None:
    hot = heat_map(STRIPES, np.full((64, 64), 100.0, np.float32), 1.0, WHOLE)
    assert contrast(hot) > 0.55 * contrast(STRIPES)  # the defect
    assert np.abs(hot[8:-8, 8:-8].astype(int) - STRIPES[8:-8, 8:-8]).max() > 25  # and the heat


def test_there_is_no_heat_where_nothing_is_unusual_and_more_of_it_the_more_unusual() -> None:
    calm = np.full((64, 64), 0.5, np.float32)
    assert np.array_equal(heat_map(STRIPES, calm, 1.0, WHOLE), STRIPES)
    strength = heat_layer(np.linspace(0.5, 1.25, 30, dtype=np.float32)[None], 1.0)[0, :, 3].astype(int)
    assert strength[0] == 0
    assert (np.diff(strength) >= 0).all()
    assert 60 < strength[-1] < 128
