"""From a score and an anomaly map to regions and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import isfinite

import cv2
import numpy as np
from numpy.typing import NDArray

from dskd.runtime.bundle.manifest import InputSpec, Thresholds
from dskd.runtime.errors import CallError
from dskd.runtime.inspection.fixture.pose import Pose
from dskd.runtime.reason import NotInspected, Reason
from dskd.runtime.result import Region, Verdict

Map = NDArray[np.float32]
_CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])  # of a cell: row and column
FEW = 5  # labels, nothing's among them: to seek each one's cells is then cheaper than OpenCV's table of all


@dataclass(frozen=True)
class Settings:
    """What counts as a defect. Scores over ``review`` need a look, over ``reject`` the part goes out.

    ``min_area`` is in frame pixels; smaller regions do not count. ``roi`` is a bool mask [H, W] in frame coordinates, or
    where a fixture finds the part in those of the picture that it cuts out; nothing outside it counts.
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
    score: float, fetch_map: Callable[[], Map], frame_size: tuple[int, int], spec: InputSpec, settings: Settings,
    pose: Pose | None = None,
) -> Decision:  # fmt: skip
    """Judges one frame of (height, width) pixels. ``pose``: where the part that the map shows was found in it.

    The score is the map's maximum, so a score within the review threshold passes without the map being fetched.
    """
    seen = frame_size if pose is None else (pose.height, pose.width)
    if settings.roi is not None:
        _check_roi(settings.roi, seen, spec)
    if score <= settings.review:
        return Decision(Verdict.PASS, score, ())
    anomaly_map = fetch_map()
    if not (isfinite(anomaly_map.min()) and isfinite(anomaly_map.max())):  # what is no number is passed on by both
        raise NotInspected(Reason.MAP, "holds values that are no finite numbers; check the engine and the device")
    flagged = anomaly_map > settings.review
    if not flagged.any():  # score and map differ by a rounding just at the threshold
        return Decision(Verdict.REVIEW, score, ())
    if settings.roi is not None:
        within = _roi_on_map(settings.roi, anomaly_map.shape, seen, spec)
        flagged &= within
        score = float(anomaly_map[within].max())
    found = _regions(anomaly_map, flagged, seen, spec, None if pose is None else partial(pose.box_around, frame_size))
    regions = tuple(region for region in found if region.area >= settings.min_area)
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
        seen, mend = "the frame", "paint it on a frame of this camera"
        if spec.fixture is not None:
            seen, mend = "the part as the fixture cuts it out", "paint it on such a picture (aligned.png of the run)"
        detail = f"the mask is {roi.shape[1]}x{roi.shape[0]}, {seen} {frame_size[1]}x{frame_size[0]}; {mend}"
        raise MaskMisfit(Reason.ROI, detail)
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
    anomaly_map: Map, flagged: NDArray[np.bool_], frame_size: tuple[int, int], spec: InputSpec,
    box_around: Callable[[NDArray[np.float64]], tuple[int, int, int, int]] | None,
) -> list[Region]:  # fmt: skip
    """Connected parts of what is flagged, worst first, in frame pixels.

    ``box_around`` gives the box in the frame around places (x, y) on the picture that the map shows, where that is not a
    part of the frame itself.
    """
    first, above, columns, rows = cv2.boundingRect(flagged.view(np.uint8))  # labels cost a pixel each
    if not rows:
        return []
    flagged = flagged[above : above + rows, first : first + columns]
    seen = anomaly_map[above : above + rows, first : first + columns]
    x0, y0, crop_width, crop_height = crop_box(frame_size, spec)
    across, down = crop_width / anomaly_map.shape[1], crop_height / anomaly_map.shape[0]
    regions = []
    for left, top, inside, peak in _parts(seen, flagged):
        left, top = left + first, top + above
        height, width = inside.shape
        area = int(np.count_nonzero(inside))
        x = x0 + min(round(left * across), crop_width - 1)
        y = y0 + min(round(top * down), crop_height - 1)
        right, bottom = x0 + round((left + width) * across), y0 + round((top + height) * down)
        box = (x, y, max(right - x, 1), max(bottom - y, 1))
        if box_around is not None:
            corners = (np.argwhere(inside)[:, None] + _CORNERS).reshape(-1, 2)[:, ::-1] + (left, top)
            box = box_around(corners * (across, down) - 0.5)
        regions.append(Region(box, max(round(area * across * down), 1), peak))
    return sorted(regions, key=lambda region: -region.peak)


def _parts(seen: Map, flagged: NDArray[np.bool_]) -> Iterator[tuple[int, int, NDArray[np.bool_], float]]:
    """Left, top, cells [h, w] within the box that begins there, and peak of each connected part."""
    count, labels = cv2.connectedComponents(flagged.view(np.uint8), connectivity=8)
    if count <= FEW:
        for label in range(1, count):
            inside = labels == label
            left, top, width, height = cv2.boundingRect(inside.view(np.uint8))
            yield left, top, inside[top : top + height, left : left + width], _peak(seen, inside)
        return
    _, labels, stats, _ = cv2.connectedComponentsWithStats(flagged.view(np.uint8), connectivity=8)
    for label in range(1, count):
        left, top, width, height, _ = stats[label].tolist()
        inside = labels[top : top + height, left : left + width] == label
        yield left, top, inside, _peak(seen[top : top + height, left : left + width], inside)


def _peak(seen: Map, where: NDArray[np.bool_]) -> float:
    """OpenCV's, because numpy first copies what is to be compared."""
    return float(cv2.minMaxLoc(seen, where.view(np.uint8))[1])
