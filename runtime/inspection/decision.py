"""From a score and an anomaly map to regions and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite

import cv2
import numpy as np
from numpy.typing import NDArray

from dskd.runtime.bundle.manifest import InputSpec, Thresholds
from dskd.runtime.errors import CallError
from dskd.runtime.reason import NotInspected, Reason
from dskd.runtime.result import Region, Verdict

Map = NDArray[np.float32]
FEW = 5  # labels, nothing's among them: to seek each one's cells is then cheaper than OpenCV's table of all


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

    @classmethod
    def of(cls, thresholds: Thresholds) -> Settings:
        """A graph's own thresholds, nothing else."""
        return cls(thresholds.review.score, thresholds.reject.score)

    def changed(
        self, reject: float | None, review: float | None, min_area: int, roi: NDArray[np.bool_] | None
    ) -> Settings:
        """The same with other values. A lower reject threshold takes the review threshold along.

        Raises CallError where they make no sense together.
        """
        highest = self.reject if reject is None else reject
        if review is not None and reject is None and review > highest:
            raise CallError(f"review threshold {review} is over the bundle's reject threshold {highest}; give both")
        return Settings(min(self.review, highest) if review is None else review, highest, min_area, roi)

    def __post_init__(self) -> None:
        if not np.isfinite([self.review, self.reject]).all() or self.review > self.reject:
            raise CallError(f"thresholds: review {self.review} must be a number not over reject {self.reject}")
        if self.min_area < 0:
            raise CallError(f"min-area {self.min_area} must not be negative")
        if self.roi is not None and not self.roi.any():
            raise CallError(
                "region of interest: the mask is empty, so every part would pass; paint it white where to look"
            )


class MaskMisfit(NotInspected, CallError):
    """The region of interest is no mask for this frame: the station file or the call is wrong."""


@dataclass(frozen=True)
class Decision:
    """Verdict, score, and the regions that count.

    The score is that of the region of interest where the whole frame's is over the review threshold, else the whole
    frame's: its map is not looked at then.
    """

    verdict: Verdict
    score: float
    regions: tuple[Region, ...]


def decide(
    score: float, fetch_map: Callable[[], Map], frame_size: tuple[int, int], spec: InputSpec, settings: Settings
) -> Decision:
    """Judges one frame of (height, width) pixels.

    The score is the map's maximum, so a score within the review threshold passes without the map being fetched.
    """
    if settings.roi is not None:
        _check_roi(settings.roi, frame_size, spec)
    if score <= settings.review:
        return Decision(Verdict.PASS, score, ())
    anomaly_map = fetch_map()
    if not (isfinite(anomaly_map.min()) and isfinite(anomaly_map.max())):  # what is no number is passed on by both
        raise NotInspected(Reason.MAP, "holds values that are no finite numbers; check the engine and the device")
    flagged = anomaly_map > settings.review
    if not flagged.any():  # score and map differ by a rounding just at the threshold
        return Decision(Verdict.REVIEW, score, ())
    if settings.roi is not None:
        within = _roi_on_map(settings.roi, anomaly_map.shape, frame_size, spec)
        flagged &= within
        score = float(anomaly_map[within].max())
    regions = tuple(r for r in _regions(anomaly_map, flagged, frame_size, spec) if r.area >= settings.min_area)
    if not regions:
        return Decision(Verdict.PASS, score, ())
    worst = max(region.peak for region in regions)
    return Decision(Verdict.REJECT if worst > settings.reject else Verdict.REVIEW, score, regions)


def crop_box(frame_size: tuple[int, int], spec: InputSpec) -> tuple[int, int, int, int]:
    """The part of the frame that the map covers, as (x, y, width, height)."""
    return spec.crop or (0, 0, frame_size[1], frame_size[0])


def _check_roi(roi: NDArray[np.bool_], frame_size: tuple[int, int], spec: InputSpec) -> None:
    """Every frame is held against the mask, also one that passes: a mask that does not fit must not go unseen."""
    if roi.shape != frame_size:
        raise MaskMisfit(
            Reason.ROI,
            f"the mask is {roi.shape[1]}x{roi.shape[0]}, the frame {frame_size[1]}x{frame_size[0]}; "
            "paint it on a frame of this camera",
        )
    x, y, width, height = crop_box(frame_size, spec)
    if not roi[y : y + height, x : x + width].any():
        raise MaskMisfit(
            Reason.ROI,
            f"the mask is black inside the crop {[x, y, width, height]}, so every part would pass; "
            "paint it white where to look",
        )


def _roi_on_map(
    roi: NDArray[np.bool_], cells: tuple[int, ...], frame_size: tuple[int, int], spec: InputSpec
) -> NDArray[np.bool_]:
    x, y, width, height = crop_box(frame_size, spec)
    before = cv2.integral(roi[y : y + height, x : x + width].astype(np.uint8))  # pixels of the region above and left
    top, bottom = _cell_edges(height, cells[0])
    left, right = _cell_edges(width, cells[1])
    within = before[bottom][:, right] - before[top][:, right] - before[bottom][:, left] + before[top][:, left]
    return np.asarray(within > 0)  # a map cell that touches the region counts: rather look once too often


def _cell_edges(pixels: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel that each of ``cells`` touches, and the first one after it that it does not."""
    cell = np.arange(cells)
    return cell * pixels // cells, -(-(cell + 1) * pixels // cells)


def _regions(
    anomaly_map: Map, flagged: NDArray[np.bool_], frame_size: tuple[int, int], spec: InputSpec
) -> list[Region]:
    """Connected parts of what is flagged, worst first, in frame pixels."""
    first, above, columns, rows = cv2.boundingRect(flagged.view(np.uint8))  # labels cost a pixel each
    if not rows:
        return []
    flagged = flagged[above : above + rows, first : first + columns]
    seen = anomaly_map[above : above + rows, first : first + columns]
    x0, y0, crop_width, crop_height = crop_box(frame_size, spec)
    across, down = crop_width / anomaly_map.shape[1], crop_height / anomaly_map.shape[0]
    regions = []
    for left, top, width, height, area, peak in _parts(seen, flagged):
        left, top = left + first, top + above
        x = x0 + min(round(left * across), crop_width - 1)
        y = y0 + min(round(top * down), crop_height - 1)
        right, bottom = x0 + round((left + width) * across), y0 + round((top + height) * down)
        box = (x, y, max(right - x, 1), max(bottom - y, 1))
        regions.append(Region(box, max(round(area * across * down), 1), peak))
    return sorted(regions, key=lambda region: -region.peak)


def _parts(seen: Map, flagged: NDArray[np.bool_]) -> Iterator[tuple[int, int, int, int, int, float]]:
    """Left, top, width, height, cells and peak of each connected part."""
    count, labels = cv2.connectedComponents(flagged.view(np.uint8), connectivity=8)
    if count <= FEW:
        for label in range(1, count):
            inside = labels == label
            left, top, width, height = cv2.boundingRect(inside.view(np.uint8))
            yield left, top, width, height, int(np.count_nonzero(inside)), _peak(seen, inside)
        return
    _, labels, stats, _ = cv2.connectedComponentsWithStats(flagged.view(np.uint8), connectivity=8)
    for label in range(1, count):
        left, top, width, height, area = stats[label].tolist()
        inside = labels[top : top + height, left : left + width] == label
        yield left, top, width, height, area, _peak(seen[top : top + height, left : left + width], inside)


def _peak(seen: Map, where: NDArray[np.bool_]) -> float:
    """OpenCV's, because numpy first copies what is to be compared."""
    return float(cv2.minMaxLoc(seen, where.view(np.uint8))[1])
