"""From a score and an anomaly map to regions and a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.bundle import InputSpec
from runtime.errors import CallError
from runtime.result import Region, Verdict

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """What counts as a defect. Scores over ``review`` need a look, over ``reject`` the part goes out.

    ``min_area`` is in frame pixels; smaller regions do not count. ``roi`` is a bool mask [H, W] in frame
    coordinates; nothing outside it counts.
    """

    review: float
    reject: float
    min_area: int = 0
    roi: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if not np.isfinite([self.review, self.reject]).all() or self.review > self.reject:
            raise CallError(f"thresholds: review {self.review} must be a number not over reject {self.reject}")
        if self.min_area < 0:
            raise CallError(f"min-area {self.min_area} must not be negative")
        if self.roi is not None and not self.roi.any():
            raise CallError(
                "region of interest: the mask is empty, so every part would pass; paint it white where to look"
            )


@dataclass(frozen=True)
class Decision:
    """Verdict, the score inside the region of interest, and the regions that count."""

    verdict: Verdict
    score: float
    regions: tuple[Region, ...]


def decide(
    score: float, fetch_map: Callable[[], Map], frame_size: tuple[int, int], spec: InputSpec, settings: Settings
) -> Decision:
    """Judges one frame of (height, width) pixels.

    The score is the map's maximum, so a score within the review threshold passes without the map being fetched.
    """
    if score <= settings.review:
        return Decision(Verdict.PASS, score, ())
    anomaly_map = fetch_map()
    if settings.roi is not None:
        anomaly_map = np.where(_roi_on_map(settings.roi, frame_size, spec), anomaly_map, -np.inf)
        score = float(anomaly_map.max())
    regions = tuple(r for r in _regions(anomaly_map, frame_size, spec, settings) if r.area >= settings.min_area)
    if not regions:
        return Decision(Verdict.PASS, score, ())
    worst = max(region.peak for region in regions)
    return Decision(Verdict.REJECT if worst > settings.reject else Verdict.REVIEW, score, regions)


def crop_box(frame_size: tuple[int, int], spec: InputSpec) -> tuple[int, int, int, int]:
    """The part of the frame that the map covers, as (x, y, width, height)."""
    return spec.crop or (0, 0, frame_size[1], frame_size[0])


def _roi_on_map(roi: NDArray[np.bool_], frame_size: tuple[int, int], spec: InputSpec) -> NDArray[np.bool_]:
    if roi.shape != frame_size:
        raise CallError(
            f"region of interest: the mask is {roi.shape[1]}x{roi.shape[0]}, the frame {frame_size[1]}x{frame_size[0]}; "
            "paint it on a frame of this camera"
        )
    x, y, width, height = crop_box(frame_size, spec)
    part = roi[y : y + height, x : x + width].astype(np.uint8) * 255
    share = cv2.resize(part, (spec.width, spec.height), interpolation=cv2.INTER_AREA)
    return share > 0  # a map cell that touches the region counts: rather look once too often


def _regions(anomaly_map: Map, frame_size: tuple[int, int], spec: InputSpec, settings: Settings) -> list[Region]:
    """Connected parts over the review threshold, worst first, in frame pixels."""
    flagged = (anomaly_map > settings.review).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(flagged, connectivity=8)
    x0, y0, crop_width, crop_height = crop_box(frame_size, spec)
    across, down = crop_width / spec.width, crop_height / spec.height
    regions = []
    for label in range(1, count):
        left, top, width, height, area = stats[label].tolist()
        inside = labels[top : top + height, left : left + width] == label
        peak = float(anomaly_map[top : top + height, left : left + width][inside].max())
        x, y = x0 + round(left * across), y0 + round(top * down)
        right, bottom = x0 + round((left + width) * across), y0 + round((top + height) * down)
        box = (x, y, max(right - x, 1), max(bottom - y, 1))
        regions.append(Region(box, max(round(area * across * down), 1), peak))
    return sorted(regions, key=lambda region: -region.peak)
