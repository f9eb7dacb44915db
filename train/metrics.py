"""Detection metrics on scores and maps. Larger scores mean more anomalous; labels are true for anomalous."""

from __future__ import annotations

from math import exp, lgamma, log, log1p

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
PRO_FPR_LIMIT = 0.3
GOOD_PIXELS_OVER = 0.05  # share of good images' pixels over the threshold at which masks are filled
HALO = 16  # network pixels around a defect


def _cumulative(scores: Floats, *weights: NDArray[np.generic]) -> list[NDArray[np.float64]]:
    """Sums of each weight over all samples at or above each distinct score, from the largest score down."""
    order = np.argsort(scores, kind="stable")[::-1]
    ranked = scores[order]
    last_of_ties = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    return [np.cumsum(w[order], dtype=np.float64)[last_of_ties] for w in weights]


def _trapezoid(y: Floats, x: Floats) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def _area(hits: Floats, weights: Floats, ranked: Floats, limit: float = 1.0) -> float:
    """Area under the weighted share of ``hits`` over a threshold against that of ``ranked`` alarms, from 0 to ``limit``.

    Only the scores of alarms are ever sorted, so that millions of pixels cost little more memory than they take. Between
    the thresholds just over and just under a score the curve is straight, as trapezoids have it.
    """
    over = len(ranked) - np.searchsorted(ranked, hits, side="right")
    reached = len(ranked) - np.searchsorted(ranked, hits, side="left")
    end = limit * len(ranked)
    tied = np.maximum(reached - over, 1)
    cut = np.square(np.maximum(end - over, 0)) / (2 * tied)  # the limit lies within the tie
    counted = np.where(reached <= end, end - (reached + over) / 2, cut)
    return float((weights * counted).sum() / len(ranked) / weights.sum())


def auroc(labels: Bools, scores: Floats) -> float:
    """Area under the ROC curve; NaN where only one class is present."""
    if labels.all() or not labels.any():
        return float("nan")
    hits = scores[labels]
    return _area(hits, np.ones(len(hits)), np.sort(scores[~labels]))


def average_precision(labels: Bools, scores: Floats) -> float:
    """Area under the precision-recall steps (no interpolation); NaN without positives."""
    if not labels.any():
        return float("nan")
    hits, alarms = _cumulative(scores, labels, ~labels)
    return float(np.sum(np.diff(hits / hits[-1], prepend=0) * hits / (hits + alarms)))


def f1_max(labels: Bools, scores: Floats) -> float:
    """Best F1 over all thresholds; NaN without positives."""
    if not labels.any():
        return float("nan")
    hits, alarms = _cumulative(scores, labels, ~labels)
    return float(np.max(2 * hits / (hits + alarms + hits[-1])))


def _components(mask: Bools) -> tuple[int, NDArray[np.int32]]:
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return count - 1, np.asarray(labels, np.int32)


class PixelRanking:
    """Pixel AUROC and PRO of maps that come one by one; kept are the values of ``pixels`` at most, in float32."""

    def __init__(self, pixels: int) -> None:
        self._outside, self._count = np.empty(pixels, np.float32), 0
        self._inside: list[Floats] = []
        self._weights: list[Floats] = []

    def add(self, mask: Bools, anomaly_map: Floats) -> None:
        """One image's mask and map [H, W]."""
        anomaly_map = np.asarray(anomaly_map, np.float32)
        outside = anomaly_map[~mask]
        self._outside[self._count : self._count + len(outside)] = outside
        self._count += len(outside)
        _, labels = _components(mask)
        self._inside.append(anomaly_map[mask])
        self._weights.append(1.0 / np.bincount(labels.ravel())[labels[mask]])  # each region counts as one

    def areas(self, limit: float = PRO_FPR_LIMIT) -> tuple[float, float]:
        """(pixel AUROC, PRO) of all maps so far; NaN without pixels on both sides."""
        ranked, hits = self._outside[: self._count], np.concatenate(self._inside)
        if not len(ranked) or not len(hits):
            return float("nan"), float("nan")
        ranked.sort()  # in place: no second copy of every pixel
        each_pixel = _area(hits, np.ones(len(hits)), ranked)
        return each_pixel, _area(hits, np.concatenate(self._weights), ranked, limit) / limit


def pro(masks: Bools, maps: Floats, limit: float = PRO_FPR_LIMIT) -> float:
    """Per-region overlap by MVTec's definition (Bergmann et al., IJCV 2021).

    One threshold sweep over the whole set [N, H, W]: false-positive rate over all pixels outside defects, overlap
    averaged over all connected regions, integrated to ``limit`` and divided by it. NaN without defects.
    """
    ranking = PixelRanking(masks.size)
    for mask, anomaly_map in zip(masks, maps, strict=True):
        ranking.add(mask, anomaly_map)
    return ranking.areas(limit)[1]


def pro_rd(masks: Bools, maps: Floats, limit: float = PRO_FPR_LIMIT, steps: int = 200) -> float:
    """Per-region overlap as the RD family computes it (RD4AD's code); not comparable with ``pro``.

    Each defective image on its own: ``steps`` thresholds between its smallest and largest map value, points under
    ``limit`` kept, the rate axis divided by the largest kept rate, mean over defective images.
    """
    areas = []
    for mask, anomaly_map in zip(masks, maps, strict=True):
        count, labels = _components(mask)
        if not count or mask.all():
            continue
        low, high = float(anomaly_map.min()), float(anomaly_map.max())
        thresholds = low + (high - low) / steps * np.arange(steps)
        outside = np.sort(anomaly_map[~mask])
        fpr = 1 - np.searchsorted(outside, thresholds, side="right") / len(outside)
        values = (np.sort(anomaly_map[labels == label]) for label in range(1, count + 1))
        overlap = np.mean([1 - np.searchsorted(v, thresholds, side="right") / len(v) for v in values], axis=0)
        kept = fpr < limit
        if kept.sum() > 1 and fpr[kept].max() > 0:
            x = fpr[kept][::-1] / fpr[kept].max()
            areas.append(_trapezoid(overlap[kept][::-1], x))
    return float(np.mean(areas)) if areas else float("nan")


def fill_and_halo(
    masks: Bools, maps: Floats, good: Bools, share: float = GOOD_PIXELS_OVER, reach: int = HALO
) -> tuple[float, float]:
    """(inside-recall, halo) at one threshold: how much of a defect shows, and how much around it does.

    The threshold is the map value that ``share`` of all pixels of the ``good`` images exceed. Inside-recall is the
    share of an image's marked pixels over it; halo the share over it among the pixels that are not marked and lie at
    most ``reach`` pixels from one that is. Both are means over the images with a mask; [N, H, W] and [N]. NaN where
    there are no good images or no masks.
    """
    marked = [k for k, mask in enumerate(masks) if mask.any()]
    if not good.any() or not marked:
        return float("nan"), float("nan")
    threshold = np.quantile(maps[good], 1 - share, method="higher")
    inside, around = [], []
    for k in marked:
        over = maps[k] > threshold
        distance = cv2.distanceTransform((~masks[k]).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        inside.append(float(over[masks[k]].mean()))
        ring = (distance > 0) & (distance <= reach)
        if ring.any():
            around.append(float(over[ring].mean()))
    return float(np.mean(inside)), float(np.mean(around)) if around else float("nan")


def binomial(count: int, total: int, rate: float) -> float:
    """Probability of exactly ``count`` of ``total``, each with a probability of ``rate``, which is over 0 and under 1."""
    ways = lgamma(total + 1) - lgamma(count + 1) - lgamma(total - count + 1)
    return exp(ways + count * log(rate) + (total - count) * log1p(-rate))
