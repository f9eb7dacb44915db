"""Metrics against scikit-learn and against slow implementations that follow the definitions word by word."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from budget import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import auc, average_precision_score, f1_score, roc_auc_score

from dskd.train import metrics
from dskd.train.evaluate import Scored, figures

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
EIGHT = np.ones((3, 3), int)  # diagonal neighbours belong together


@st.composite
def labelled_scores(draw: st.DrawFn) -> tuple[Bools, Floats]:
    """A few labels and scores of which many are equal, some of them negative or huge."""
    count = draw(st.integers(1, 40))
    levels = draw(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5))
    labels = draw(arrays(np.bool_, count))
    return labels, draw(arrays(np.float32, count, elements=st.sampled_from(levels)))


def best_f1(labels: Bools, scores: Floats) -> float:
    return max(f1_score(labels, scores >= threshold, zero_division=0) for threshold in np.unique(scores))


@given(labelled_scores())
def test_image_metrics_are_scikit_learns(case: tuple[Bools, Floats]) -> None:
    labels, scores = case
    if labels.any() and not labels.all():
        assert metrics.auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    else:
        assert math.isnan(metrics.auroc(labels, scores))
    if labels.any():
        expected = average_precision_score(labels, scores)
        assert metrics.average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)
        assert metrics.f1_max(labels, scores) == pytest.approx(best_f1(labels, scores), abs=1e-12)
    else:
        assert math.isnan(metrics.average_precision(labels, scores))
        assert math.isnan(metrics.f1_max(labels, scores))


@pytest.mark.parametrize(
    ("labels", "scores", "auroc", "precision", "f1"),
    [
        pytest.param([1, 0], [1, 0], 1, 1, 1, id="two, told apart"),
        pytest.param([1, 0], [0, 1], 0, 0.5, 2 / 3, id="two, swapped"),
        pytest.param([1, 0, 0, 0], [3, 3, 3, 3], 0.5, 0.25, 0.4, id="constant"),
        pytest.param([1, 1, 0, 0], [2, 1, 1, 0], 0.875, 0.5 + 0.5 * 2 / 3, 0.8, id="a tie across the classes"),
    ],
)
def test_image_metrics_by_hand(labels: list[int], scores: list[int], auroc: float, precision: float, f1: float) -> None:
    flags, values = np.array(labels, np.bool_), np.array(scores, np.float32)
    assert metrics.auroc(flags, values) == pytest.approx(auroc)
    assert metrics.average_precision(flags, values) == pytest.approx(precision)
    assert metrics.f1_max(flags, values) == pytest.approx(f1)


def regions_of(mask: Bools) -> list[Bools]:
    labels, count = ndimage.label(mask, EIGHT)
    return [labels == label for label in range(1, count + 1)]


def slow_pro(masks: Bools, maps: Floats, limit: float) -> float:
    """Bergmann et al. word by word: threshold by threshold, region by region."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        flagged = maps >= threshold
        overlaps = [float(flagged[k][region].mean()) for k, mask in enumerate(masks) for region in regions_of(mask)]
        points.append((float(flagged[~masks].mean()), sum(overlaps) / len(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@st.composite
def masked_maps(draw: st.DrawFn) -> tuple[Bools, Floats]:
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    values = st.integers(0, draw(st.integers(0, 8))).map(float)
    return draw(arrays(np.bool_, shape)), draw(arrays(np.float32, shape, elements=values))


@settings(max_examples=cases(200))
@given(masked_maps(), st.sampled_from([0.05, 0.3, 1.0]))
def test_pro_is_the_definitions(case: tuple[Bools, Floats], limit: float) -> None:
    masks, maps = case
    if masks.any() and not masks.all():
        assert metrics.pro(masks, maps, limit) == pytest.approx(slow_pro(masks, maps, limit), abs=1e-6)
    else:
        assert math.isnan(metrics.pro(masks, maps, limit))


def test_pro_of_many_distinct_values_is_the_definitions() -> None:
    rng = np.random.default_rng(0)
    masks = ndimage.binary_dilation(rng.random((4, 15, 20)) < 0.02, iterations=1)
    maps = (rng.random(masks.shape) + 0.7 * masks).astype(np.float32)
    assert 0.3 < slow_pro(masks, maps, 0.3) < 0.9  # a case that says something
    assert metrics.pro(masks, maps) == pytest.approx(slow_pro(masks, maps, 0.3), abs=1e-6)


@settings(max_examples=cases(200))
@given(masked_maps())
def test_maps_that_come_one_by_one_give_the_figures_of_all_at_once(case: tuple[Bools, Floats]) -> None:
    masks, maps = case
    ranking = metrics.PixelRanking(masks.size)
    for mask, anomaly_map in zip(masks, maps, strict=True):
        ranking.add(mask, anomaly_map)
    expected = (metrics.auroc(masks.ravel(), maps.ravel()), metrics.pro(masks, maps))
    np.testing.assert_array_equal(ranking.areas(), expected)


def test_pro_takes_diagonal_neighbours_as_one_region() -> None:
    masks = np.zeros((1, 4, 4), np.bool_)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 1, 2] = masks[0, 1, 3] = True
    maps = np.where(masks, 0, 1).astype(np.float32)
    maps[0, 0, 0] = 2  # one of the region's four pixels is found before any false alarm; all else comes after them
    assert metrics.pro(masks, maps) == pytest.approx(0.25)


def test_pro_counts_small_and_large_regions_alike_and_good_images_only_as_alarms() -> None:
    masks = np.zeros((2, 8, 8), np.bool_)
    masks[0, 0, 0] = True
    masks[0, 4:, 4:] = True
    found = masks.astype(np.float32)
    assert metrics.pro(masks, found) == pytest.approx(1)
    found[0, 0, 0] = -1  # the small one is missed altogether
    assert metrics.pro(masks, found) == pytest.approx(0.5)
    found = masks.astype(np.float32)
    found[1] = 2  # every pixel of the good image is a false alarm first: over half of all good pixels
    assert metrics.pro(masks, found) == pytest.approx(0)


@pytest.mark.parametrize("value", [False, True], ids=["no defects", "all defect"])
def test_pro_without_one_class_is_nan(value: bool) -> None:
    masks, maps = np.full((2, 5, 5), value), np.random.default_rng(0).random((2, 5, 5)).astype(np.float32)
    assert math.isnan(metrics.pro(masks, maps))
    assert math.isnan(metrics.pro_rd(masks, maps))


def slow_pro_rd(masks: Bools, maps: Floats) -> float:
    """Section 9 of the method specification, sentence by sentence."""
    areas = []
    for mask, anomaly_map in zip(masks, maps, strict=True):
        if not mask.any():
            continue
        points = []
        for threshold in np.linspace(anomaly_map.min(), anomaly_map.max(), 200, endpoint=False, dtype=np.float64):
            flagged = anomaly_map > threshold
            overlap = np.mean([flagged[region].mean() for region in regions_of(mask)])
            points.append((flagged[~mask].mean(), overlap))
        kept = [(rate, overlap) for rate, overlap in points if rate < 0.3]
        largest = max(rate for rate, _ in kept)
        areas.append(auc([rate / largest for rate, _ in kept], [overlap for _, overlap in kept]))
    return float(np.mean(areas))


@pytest.mark.parametrize("seed", range(4))
def test_pro_rd_is_the_description(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = ndimage.binary_dilation(rng.random((5, 16, 24)) < 0.01, iterations=2)
    masks[0] = False  # normal images never enter
    maps = (rng.random(masks.shape) + rng.uniform(0, 1) * masks).astype(np.float32)
    assert metrics.pro_rd(masks, maps) == pytest.approx(slow_pro_rd(masks, maps), abs=1e-9)
    assert metrics.pro_rd(masks[1:], maps[1:]) == metrics.pro_rd(masks, maps)
    assert metrics.pro_rd(masks, maps) != pytest.approx(metrics.pro(masks, maps), abs=1e-3)


def test_figures_are_of_the_right_images_and_pixels() -> None:
    rng = np.random.default_rng(3)
    defects = ["good", "good", "crack", "blob", "crack", "good"]
    labels = np.array([name != "good" for name in defects])
    masks = np.zeros((6, 12, 16), np.bool_)
    masks[2, 2:5, 3:9] = masks[3, 7:9, 1:4] = masks[4, 0:2, 10:] = True
    maps = (rng.random(masks.shape) + 0.5 * masks).astype(np.float32)
    scores = rng.random(6).astype(np.float32)
    found = figures(Scored(scores, maps), defects, masks)
    assert found.image_auroc == pytest.approx(roc_auc_score(labels, scores))
    assert found.image_ap == pytest.approx(average_precision_score(labels, scores))
    assert found.image_f1_max == pytest.approx(best_f1(labels, scores))
    assert found.pixel_auroc == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()))
    assert found.pro == pytest.approx(slow_pro(masks, maps, 0.3), abs=1e-6)
    assert found.pro_rd == pytest.approx(slow_pro_rd(masks, maps))
    assert list(found.per_defect) == ["blob", "crack"]
    crack = found.per_defect["crack"]
    chosen = [0, 1, 2, 4, 5]
    assert crack["images"] == 2
    assert crack["image_auroc"] == pytest.approx(roc_auc_score(labels[chosen], scores[chosen]))
    assert crack["pixel_auroc"] == pytest.approx(roc_auc_score(masks[chosen].ravel(), maps[chosen].ravel()))
    assert crack["pro"] == pytest.approx(slow_pro(masks[chosen], maps[chosen], 0.3), abs=1e-6)


def test_figures_without_masks_are_none_in_json() -> None:
    maps = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32)
    found = figures(Scored(np.array([0, 1], np.float32), maps), ["good", "crack"], np.zeros((2, 8, 8), np.bool_))
    fields = found.as_dict()
    assert fields["image_auroc"] == 1.0
    assert fields["pixel_auroc"] is fields["pro"] is fields["pro_rd"] is None
    assert fields["per_defect"]["crack"]["pro"] is None  # type: ignore[index]


def test_inside_recall_and_halo_by_hand() -> None:
    """Twenty good pixels in a hundred are over 0.5; a square of 4 pixels a side has a defect half found, half around it."""
    maps, masks = np.zeros((2, 40, 50), np.float32), np.zeros((2, 40, 50), np.bool_)
    maps[0].ravel()[:400] = 1.0  # 20 % of the good image
    masks[1, 10:14, 20:24] = True
    maps[1, 10:14, 20:22] = 2.0  # half of the defect
    maps[1, 10:14, 24] = 2.0  # a column just outside
    maps[1, 39, 49] = 2.0  # far away
    inside, halo = metrics.fill_and_halo(masks, maps, np.array([True, False]), share=0.2, reach=3)
    assert inside == pytest.approx(0.5)
    ring = ndimage.distance_transform_edt(~masks[1])
    assert halo == pytest.approx(4 / ((ring > 0) & (ring <= 3)).sum())
    # With a rate that lets no good pixel pass, the same map value is the threshold; with a lower one nothing is over it.
    assert metrics.fill_and_halo(masks, maps - (maps > 1), np.array([True, False]), share=0.1, reach=3) == (0.0, 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_inside_recall_and_halo_are_the_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = ndimage.binary_dilation(rng.random((6, 48, 64)) < 0.002, iterations=3)
    good = np.array([True, True, False, False, False, False])
    masks[good] = False
    masks[5] = False  # labelled defective, nothing marked: left out
    maps = (rng.random(masks.shape) + 0.4 * ndimage.gaussian_filter(masks.astype(float), (0, 3, 3))).astype(np.float32)
    values = np.sort(maps[good].ravel())[::-1]
    threshold = values[int(0.05 * len(values))]
    inside, halo = [], []
    for mask, found in zip(masks, maps, strict=True):
        if mask.any():
            distance = ndimage.distance_transform_edt(~mask)
            inside.append((found > threshold)[mask].mean())
            halo.append((found > threshold)[(distance > 0) & (distance <= 16)].mean())
    result = metrics.fill_and_halo(masks, maps, good)
    assert result == pytest.approx((np.mean(inside), np.mean(halo)), abs=1e-3)


def test_inside_recall_needs_good_images_and_masks() -> None:
    maps = np.zeros((2, 8, 8), np.float32)
    for masks, good in ((np.zeros((2, 8, 8), bool), [True, False]), (np.ones((2, 8, 8), bool), [False, False])):
        assert np.isnan(metrics.fill_and_halo(masks, maps, np.array(good))).all()
