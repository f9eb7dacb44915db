"""Pictures for people: the frame with its heat map, regions and verdict."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dskd.runtime.result import Found, Image, Region, Verdict

COLOURS = {Verdict.PASS: (70, 174, 139), Verdict.REVIEW: (40, 170, 245), Verdict.REJECT: (98, 86, 255)}  # BGR
ALPHA = 0.5
NARROWEST = 160  # pixels that the banner needs


def heat_map(
    image: Image, anomaly_map: NDArray[np.float32], threshold: float, crop: tuple[int, int, int, int]
) -> Image:
    """Lays the map over the frame [H, W, 3]: clear up to half the threshold, red from it on. ``crop`` is what it covers."""
    x, y, width, height = crop
    layer = heat_layer(np.asarray(cv2.resize(anomaly_map, (width, height)), np.float32), threshold)
    colours, alpha = layer[..., :3], layer[..., 3:].astype(np.float32) / 255
    drawn: Image = image.copy()
    part = drawn[y : y + height, x : x + width]
    part[:] = np.rint(part * (1 - alpha) + colours * alpha).astype(np.uint8)
    return drawn


def heat_layer(anomaly_map: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """The map [H, W] as BGRA colours [H, W, 4] to lay over a picture: clear up to half the threshold, red from it on."""
    strength = np.clip(anomaly_map / (1.25 * max(threshold, 1e-12)), 0, 1)
    colours = cv2.applyColorMap((255 * strength).astype(np.uint8), cv2.COLORMAP_JET)
    alpha = ALPHA * np.clip(2.5 * strength - 1, 0, 1)
    return np.dstack([colours, np.rint(255 * alpha).astype(np.uint8)])


def banner(width: int) -> int:
    """Height of the banner that ``annotate`` puts above a picture; ``width`` is that of the whole."""
    return max(24, width // 16)


def annotate(
    image: Image, verdict: Verdict, score: float, regions: tuple[Region, ...], found: Found | None = None
) -> Image:
    """Draws region boxes, where the part was found, and a banner with verdict and score above the frame."""
    colour = COLOURS[verdict]
    width = max(image.shape[1], NARROWEST)
    banner_height = banner(width)
    drawn = np.zeros((image.shape[0] + banner_height, width, 3), np.uint8)
    drawn[banner_height:, : image.shape[1]] = image
    drawn[:banner_height] = colour
    if found is not None:
        outline = np.rint(np.array(found.corners)).astype(np.int32)
        below = drawn[banner_height:, : image.shape[1]]  # what leaves the picture is not drawn over the banner
        cv2.polylines(below, [outline], True, colour, max(1, width // 400), cv2.LINE_AA)
    for region in regions:
        x, y, box_width, box_height = region.box
        corner = (x + box_width - 1, y + banner_height + box_height - 1)
        cv2.rectangle(drawn, (x, y + banner_height), corner, COLOURS[Verdict.REJECT], max(1, width // 400))
    scale = banner_height / 32
    text = f"{verdict.value}  {score:.3f}"
    place = (int(8 * scale), int(banner_height * 0.72))
    cv2.putText(
        drawn,
        text,
        place,
        cv2.FONT_HERSHEY_SIMPLEX,
        0.7 * scale,
        (255, 255, 255),
        max(1, round(1.6 * scale)),
        cv2.LINE_AA,
    )
    return drawn
