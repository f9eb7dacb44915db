"""From score and map to regions and verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.inspection.decision import Decision, Settings, decide
from dskd.runtime.result import Verdict

Map = NDArray[np.float32]
SPEC = InputSpec(height=32, width=64)
FRAME = (32, 64)
CLEAN = 0.1


def map_with(*spots: tuple[slice, slice, float], size: tuple[int, int] = FRAME) -> Map:
    anomaly_map = np.full(size, CLEAN, np.float32)
    for rows, columns, value in spots:
        anomaly_map[rows, columns] = value
    return anomaly_map


def judge(anomaly_map: Map, settings: Settings, frame: tuple[int, int] = FRAME, spec: InputSpec = SPEC) -> Decision:
    return decide(float(anomaly_map.max()), lambda: anomaly_map, frame, spec, settings)


def spot(y: int, x: int, height: int, width: int, value: float) -> tuple[slice, slice, float]:
    return slice(y, y + height), slice(x, x + width), value


@pytest.mark.parametrize(
    ("score", "verdict"),
    [
        (0.0, Verdict.PASS),
        (0.5, Verdict.PASS),
        (math.nextafter(0.5, 1), Verdict.REVIEW),
        (0.75, Verdict.REVIEW),
        (math.nextafter(0.75, 1), Verdict.REJECT),
        (3.0, Verdict.REJECT),
    ],
)
def test_a_score_at_a_threshold_is_within_it(score: float, verdict: Verdict) -> None:
    anomaly_map = np.full(FRAME, min(score, CLEAN))  # float64, so that the next number after a threshold exists
    anomaly_map[3, 5] = score
    decision = judge(anomaly_map, Settings(0.5, 0.75))  # type: ignore[arg-type]
    assert decision.verdict is verdict
    assert decision.score == score
    assert len(decision.regions) == (verdict is not Verdict.PASS)


def test_the_map_is_not_fetched_when_the_score_passes() -> None:
    def fetch() -> Map:
        raise AssertionError("fetched")

    decision = decide(0.5, fetch, FRAME, SPEC, Settings(0.5, 0.75))
    assert decision == Decision(Verdict.PASS, 0.5, ())
    with pytest.raises(AssertionError, match="fetched"):
        decide(0.51, fetch, FRAME, SPEC, Settings(0.5, 0.75))


@pytest.mark.parametrize("equal", [0.5, 0.0, -1.0])
def test_review_may_equal_reject(equal: float) -> None:
    decision = judge(map_with(spot(0, 0, 2, 2, 0.6), size=FRAME), Settings(equal, equal))
    assert decision.verdict is Verdict.REJECT


@pytest.mark.parametrize(
    ("frame", "crop", "expected"),
    [
        pytest.param((32, 64), None, (10, 4, 6, 8), id="frame of map size"),
        pytest.param((64, 128), None, (20, 8, 12, 16), id="twice"),
        pytest.param((96, 64), None, (10, 12, 6, 24), id="higher only"),
        pytest.param((320, 64), None, (10, 40, 6, 80), id="ten times higher"),
        pytest.param((200, 300), (100, 50, 64, 32), (110, 54, 6, 8), id="crop"),
        pytest.param((200, 300), (100, 50, 192, 64), (130, 58, 18, 16), id="crop, scaled unevenly"),
        pytest.param((16, 32), None, (5, 2, 3, 4), id="frame smaller than the map"),
    ],
)
def test_boxes_and_areas_are_in_frame_pixels(
    frame: tuple[int, int], crop: tuple[int, int, int, int] | None, expected: tuple[int, int, int, int]
) -> None:
    spec = InputSpec(height=32, width=64, crop=crop)
    (region,) = judge(map_with(spot(4, 10, 8, 6, 0.9)), Settings(0.5, 0.75), frame, spec).regions
    assert region.box == expected
    assert region.area == expected[2] * expected[3]
    assert region.peak == pytest.approx(0.9)


def test_an_odd_shape_has_its_own_area_not_its_boxes() -> None:
    anomaly_map = map_with(spot(4, 10, 1, 9, 0.9), spot(4, 10, 7, 1, 0.8))  # an L of 15 cells
    (region,) = judge(anomaly_map, Settings(0.5, 0.75), (64, 128)).regions
    assert region.box == (20, 8, 18, 14)
    assert region.area == 15 * 4


def test_diagonal_neighbours_are_one_region_and_separate_spots_are_two() -> None:
    touching = map_with(spot(4, 4, 1, 1, 0.9), spot(5, 5, 1, 1, 0.8))
    assert len(judge(touching, Settings(0.5, 0.75)).regions) == 1
    apart = map_with(spot(4, 4, 1, 1, 0.9), spot(6, 6, 1, 1, 0.8))
    assert len(judge(apart, Settings(0.5, 0.75)).regions) == 2


def test_regions_come_worst_first_with_their_own_peaks() -> None:
    spots = [spot(1, 1, 2, 2, 0.6), spot(1, 20, 3, 3, 0.95), spot(20, 40, 4, 4, 0.7), spot(21, 41, 1, 1, 0.8)]
    decision = judge(map_with(*spots), Settings(0.5, 0.9))
    assert [r.peak for r in decision.regions] == pytest.approx([0.95, 0.8, 0.6])
    assert [r.box for r in decision.regions] == [(20, 1, 3, 3), (40, 20, 4, 4), (1, 1, 2, 2)]
    assert [r.area for r in decision.regions] == [9, 16, 4]
    assert decision.verdict is Verdict.REJECT


@example(31, 63, 16, 16)
@given(st.integers(0, 31), st.integers(0, 63), st.integers(16, 400), st.integers(16, 400))
def test_a_region_never_leaves_the_frame_and_covers_its_cell(row: int, column: int, height: int, width: int) -> None:
    (region,) = judge(map_with(spot(row, column, 1, 1, 0.9)), Settings(0.5, 0.75), (height, width)).regions
    x, y, box_width, box_height = region.box
    assert 0 <= x < x + box_width <= width
    assert 0 <= y < y + box_height <= height
    centre_x, centre_y = (column + 0.5) * width / 64, (row + 0.5) * height / 32
    assert x - 0.5 <= centre_x <= x + box_width + 0.5
    assert y - 0.5 <= centre_y <= y + box_height + 0.5


@pytest.mark.parametrize(
    ("min_area", "verdict", "regions"),
    [
        (0, Verdict.REJECT, 2),
        (16, Verdict.REJECT, 2),
        (17, Verdict.REVIEW, 1),
        (48, Verdict.REVIEW, 1),
        (49, Verdict.PASS, 0),
    ],
)
def test_regions_smaller_than_min_area_do_not_count(min_area: int, verdict: Verdict, regions: int) -> None:
    anomaly_map = map_with(spot(2, 2, 2, 2, 0.9), spot(10, 20, 3, 4, 0.6))  # 16 and 48 pixels of a doubled frame
    decision = judge(anomaly_map, Settings(0.5, 0.75, min_area), (64, 128))
    assert decision.verdict is verdict
    assert len(decision.regions) == regions


def roi_of(size: tuple[int, int], rows: slice, columns: slice) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.bool_)
    mask[rows, columns] = True
    return mask


@pytest.mark.parametrize(
    ("rows", "columns", "verdict", "score"),
    [
        pytest.param(slice(0, 64), slice(0, 128), Verdict.REJECT, 0.9, id="whole frame"),
        pytest.param(slice(0, 64), slice(0, 60), Verdict.REJECT, 0.9, id="defect inside"),
        pytest.param(slice(0, 64), slice(60, 128), Verdict.REVIEW, 0.6, id="only the weaker defect inside"),
        pytest.param(slice(40, 64), slice(0, 128), Verdict.PASS, 0.1, id="both outside"),
        pytest.param(slice(11, 12), slice(13, 14), Verdict.REJECT, 0.9, id="one pixel on the defect"),
        pytest.param(slice(12, 13), slice(13, 14), Verdict.PASS, 0.1, id="one pixel below the defect"),
    ],
)
def test_only_the_region_of_interest_counts(rows: slice, columns: slice, verdict: Verdict, score: float) -> None:
    anomaly_map = map_with(spot(2, 5, 4, 3, 0.9), spot(4, 50, 3, 3, 0.6))  # rows 4-11, columns 10-15 of the frame
    settings = Settings(0.5, 0.75, roi=roi_of((64, 128), rows, columns))
    decision = judge(anomaly_map, settings, (64, 128))
    assert decision.verdict is verdict
    assert decision.score == pytest.approx(score)


@pytest.mark.parametrize(
    "frame",
    [(32, 64), (3000, 4000), (9000, 12000), (3000, 40), (20, 6000), (20, 40)],
    ids=["map size", "large", "huge", "tall", "wide", "small"],
)
def test_a_map_cell_that_touches_one_pixel_of_the_region_counts(frame: tuple[int, int]) -> None:
    """However large the frame: a share of a cell must not be rounded away, and no pixel be skipped."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        y, x = int(rng.integers(frame[0])), int(rng.integers(frame[1]))
        row, column = y * 32 // frame[0], x * 64 // frame[1]  # the cell that holds the pixel's first corner
        roi = roi_of(frame, slice(y, y + 1), slice(x, x + 1))
        anomaly_map = map_with(spot(row, column, 1, 1, 0.9))
        assert judge(anomaly_map, Settings(0.5, 0.75, roi=roi), frame).verdict is Verdict.REJECT
        far = map_with(spot((row + 16) % 32, (column + 32) % 64, 1, 1, 0.9))
        assert judge(far, Settings(0.5, 0.75, roi=roi), frame).verdict is Verdict.PASS


def test_the_region_of_interest_is_cropped_like_the_frame() -> None:
    spec = InputSpec(height=32, width=64, crop=(100, 50, 64, 32))
    anomaly_map = map_with(spot(4, 10, 2, 2, 0.9))  # frame pixels 110-111, 54-55
    for columns, verdict in ((slice(110, 112), Verdict.REJECT), (slice(112, 160), Verdict.PASS)):
        settings = Settings(0.5, 0.75, roi=roi_of((200, 300), slice(54, 56), columns))
        assert judge(anomaly_map, settings, (200, 300), spec).verdict is verdict


def test_a_region_of_interest_outside_the_crop_is_refused() -> None:
    spec = InputSpec(height=32, width=64, crop=(100, 50, 64, 32))
    settings = Settings(0.5, 0.75, roi=roi_of((200, 300), slice(0, 40), slice(0, 90)))
    with pytest.raises(CallError, match="region of interest"):
        judge(map_with(spot(4, 10, 2, 2, 0.9)), settings, (200, 300), spec)


def test_a_region_of_interest_of_another_size_is_refused() -> None:
    settings = Settings(0.5, 0.75, roi=np.ones((32, 60), np.bool_))
    with pytest.raises(CallError, match="the mask is 60x32, the frame 64x32"):
        judge(map_with(spot(0, 0, 1, 1, 0.9)), settings)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"review": 0.8, "reject": 0.5}, "must be a number not over reject"),
        ({"review": math.nan, "reject": 0.5}, "must be a number"),
        ({"review": 0.5, "reject": math.inf}, "must be a number"),
        ({"review": 0.1, "reject": 0.5, "min_area": -1}, "must not be negative"),
        ({"review": 0.1, "reject": 0.5, "roi": np.zeros((4, 4), np.bool_)}, "every part would pass"),
    ],
    ids=["review over reject", "nan", "inf", "negative area", "empty roi"],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(CallError, match=message):
        Settings(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_a_map_that_is_no_number_is_not_judged(value: float) -> None:
    """A backend that breaks down must not let the part pass."""
    with pytest.raises(DskdError, match="map"):
        decide(0.9, lambda: map_with(spot(3, 3, 1, 1, value)), FRAME, SPEC, Settings(0.5, 0.75))


def test_a_score_without_a_place_on_the_map_is_looked_at() -> None:
    """Score and map may differ by a rounding at the threshold; the part does not pass for it."""
    decision = decide(0.5001, lambda: map_with(spot(3, 3, 2, 2, 0.4999)), FRAME, SPEC, Settings(0.5, 0.75))
    assert decision == Decision(Verdict.REVIEW, 0.5001, ())


LEVELS = st.sampled_from([float(np.float32(level)) for level in (0.0, 0.3, 0.5, 0.55, 0.75, 0.8, 2.0)])
maps = arrays(np.float32, FRAME, elements=LEVELS, fill=st.just(float(np.float32(0.1))))
RANK = {Verdict.PASS: 0, Verdict.REVIEW: 1, Verdict.REJECT: 2}


@given(maps, maps)
def test_verdict_never_falls_when_the_score_rises(one: Map, other: Map) -> None:
    first, second = sorted((judge(m, Settings(0.5, 0.75)) for m in (one, other)), key=lambda d: d.score)
    assert RANK[first.verdict] <= RANK[second.verdict]


@given(maps, st.integers(0, 12), st.booleans())
def test_a_verdict_is_that_of_its_worst_region(anomaly_map: Map, min_area: int, masked: bool) -> None:
    roi = roi_of(FRAME, slice(0, 16), slice(0, 64)) if masked else None
    decision = judge(anomaly_map, Settings(0.5, 0.75, min_area, roi))
    peaks = [region.peak for region in decision.regions]
    expected = Verdict.PASS if not peaks else Verdict.REJECT if max(peaks) > 0.75 else Verdict.REVIEW
    assert decision.verdict is expected
    assert all(0.5 < peak <= decision.score for peak in peaks)
    assert all(region.area >= min_area for region in decision.regions)
    assert peaks == sorted(peaks, reverse=True)


def flooded(flagged: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """Cells of each connected part, found cell by cell."""
    left, parts = set(zip(*map(np.ndarray.tolist, flagged.nonzero()), strict=True)), []
    while left:
        part = [left.pop()]
        for row, column in part:
            near = {(row + down, column + across) for down in (-1, 0, 1) for across in (-1, 0, 1)} & left
            left -= near
            part += near
        parts.append(part)
    return parts


@given(maps, st.booleans())
def test_regions_are_what_a_flood_finds(anomaly_map: Map, masked: bool) -> None:
    roi = roi_of(FRAME, slice(0, 16), slice(0, 64)) if masked else None
    expected = []
    for part in flooded((anomaly_map > 0.5) & (roi if roi is not None else True)):
        rows, columns = [row for row, _ in part], [column for _, column in part]
        box = (min(columns), min(rows), max(columns) - min(columns) + 1, max(rows) - min(rows) + 1)
        expected.append((box, len(part), max(float(anomaly_map[cell]) for cell in part)))
    found = judge(anomaly_map, Settings(0.5, 0.75, 0, roi)).regions
    assert sorted((region.box, region.area, region.peak) for region in found) == sorted(expected)
