"""Pictures for people: the frame with its heat map, regions and verdict."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dskd.runtime.result import Found, Image, Region, Verdict

COLOURS = {Verdict.PASS: (70, 174, 139), Verdict.REVIEW: (40, 170, 245), Verdict.REJECT: (98, 86, 255)}  # BGR
ALPHA = 0.35  # of the heat at its strongest: the defect below stays visible
FAINTEST, STRONGEST = 0.5, 1.25  # multiples of the reject threshold between which the heat grows
NARROWEST = 160  # pixels that the banner needs
SCALE_SHARE = 4  # the banner's colour scale takes one part in so many of its width
WHITE = (255, 255, 255)


def heat_map(
    image: Image, anomaly_map: NDArray[np.float32], threshold: float, crop: tuple[int, int, int, int]
) -> Image:
    """Lays the map [H, W] over the frame [H, W, 3], and a line around what is over ``threshold``.

    ``crop`` (x, y, width, height) is what the map covers, in frame pixels. Clear up to half the threshold.
    """
    x, y, width, height = crop
    fine = np.asarray(cv2.resize(anomaly_map, (width, height)), np.float32)
    layer = heat_layer(fine, threshold)
    colours, alpha = layer[..., :3], layer[..., 3:].astype(np.float32) / 255
    drawn: Image = image.copy()
    part = drawn[y : y + height, x : x + width]
    part[:] = np.rint(part * (1 - alpha) + colours * alpha).astype(np.uint8)
    over = (fine > threshold).astype(np.uint8)
    outlines, _ = cv2.findContours(over, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    lined = np.ascontiguousarray(part)
    cv2.drawContours(lined, outlines, -1, COLOURS[Verdict.REJECT], line_width(image.shape[1]))
    part[:] = lined
    return drawn


def heat_layer(anomaly_map: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """The map [H, W] as BGRA colours [H, W, 4] to lay over a picture: clear up to half the threshold, red from it on."""
    strength = np.clip(anomaly_map / (STRONGEST * max(threshold, 1e-12)), 0, 1)
    faintest = FAINTEST / STRONGEST
    alpha = ALPHA * np.clip((strength - faintest) / (1 - faintest), 0, 1) ** 0.5
    return np.dstack([_colours(strength), np.rint(255 * alpha).astype(np.uint8)])


def _colours(strength: NDArray[np.floating]) -> NDArray[np.uint8]:
    """0 to 1 as BGR [H, W, 3]."""
    return np.asarray(cv2.applyColorMap((255 * strength).astype(np.uint8), cv2.COLORMAP_TURBO), np.uint8)


def side_by_side(image: Image, drawn: Image) -> Image:
    """The frame [H, W, 3] as it was taken, to the left of the picture that ``annotate`` made of it."""
    plain = np.zeros((drawn.shape[0], image.shape[1], 3), np.uint8)
    plain[drawn.shape[0] - image.shape[0] :] = image
    return np.asarray(np.hstack([plain, drawn]), np.uint8)


def line_width(width: int) -> int:
    """Pixels of a line in a picture of that width."""
    return max(1, width // 400)


def banner(width: int) -> int:
    """Height of the banner that ``annotate`` puts above a picture; ``width`` is that of the whole."""
    return max(24, width // 16)


def annotate(
    image: Image,
    verdict: Verdict,
    score: float,
    threshold: float,
    regions: tuple[Region, ...],
    found: Found | None = None,
) -> Image:
    """Draws region boxes, where the part was found, and above the frame a banner.

    The banner says verdict and score over reject threshold, and shows what the heat's colours mean.
    """
    width = max(image.shape[1], NARROWEST)
    height = banner(width)
    drawn = np.zeros((image.shape[0] + height, width, 3), np.uint8)
    drawn[height:, : image.shape[1]] = image
    drawn[:height] = COLOURS[verdict]
    if found is not None:
        outline = np.rint(np.array(found.corners)).astype(np.int32)
        below = drawn[height:, : image.shape[1]]  # what leaves the picture is not drawn over the banner
        cv2.polylines(below, [outline], True, COLOURS[verdict], line_width(width), cv2.LINE_AA)
    for region in regions:
        x, y, box_width, box_height = region.box
        corner = (x + box_width - 1, y + height + box_height - 1)
        cv2.rectangle(drawn, (x, y + height), corner, COLOURS[Verdict.REJECT], line_width(width))
    ratio = f"  {score / threshold:.2f}x" if threshold > 0 else ""
    _write(drawn, f"{verdict.value}{ratio}", (int(8 * height / 32), int(height * 0.72)), height / 32)
    if width >= 2 * NARROWEST:
        _draw_scale(drawn[:height])
    return drawn


def _draw_scale(strip: Image) -> None:
    """The heat's colours at the right end of a banner, from half the reject threshold on, which is marked by a line."""
    height, width = strip.shape[:2]
    wide, edge = width // SCALE_SHARE, height // 4
    values = np.linspace(FAINTEST / STRONGEST, 1, wide)[None]
    bar = strip[edge : height - edge, width - wide - edge : width - edge]
    bar[:] = _colours(np.repeat(values, bar.shape[0], axis=0))
    at = round((1 - FAINTEST) / (STRONGEST - FAINTEST) * wide)
    bar[:, at : at + line_width(width)] = WHITE


def _write(picture: Image, text: str, place: tuple[int, int], scale: float) -> None:
    thick = max(1, round(1.6 * scale))
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.7 * scale, WHITE, thick, cv2.LINE_AA)
