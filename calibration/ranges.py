"""Ranges of activations from histograms of good images: one pass, flat memory, every method from the same histograms.

onnxruntime's calibrators keep every intermediate of every image (13 MB of it per image and megapixel is not the worst),
know no squared-error method, and their entropy search has one candidate at its defaults, so it equals min-max.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from dskd.export.graph.session import open_session
from dskd.runtime.errors import DskdError
from dskd.runtime.result import Image

Method = Literal["entropy", "percentile", "minmax", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
BINS = 2048
LEVELS = 128  # of a signed eight-bit number on one side
PERCENTILE = 99.99
SMALLEST = 1e-30  # a tensor that never exceeds this is all zeros


@dataclass
class Histogram:
    """How often each size of |x| was met: ``counts`` [BINS] over 0 to ``limit``; and the true extremes."""

    low: float
    high: float
    limit: float
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls) -> Histogram:
        """Of nothing yet."""
        return cls(0.0, 0.0, 0.0, np.zeros(BINS, np.int64))

    def add(self, values: NDArray[np.float32]) -> None:
        """Counts ``values``; the limit doubles, two bins becoming one, until it holds the largest."""
        low, high = float(values.min()), float(values.max())
        largest = max(-low, high)
        if not np.isfinite(largest):
            raise DskdError("an activation is no finite number on a calibration image; export the bundle again")
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.limit == 0 and largest > SMALLEST:
            self.limit = largest
        if self.limit == 0:
            return
        while self.limit < largest:
            self.counts = np.concatenate((self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)))
            self.limit *= 2
        bins = np.minimum(np.abs(values).ravel() * (BINS / self.limit), BINS - 1).astype(np.int32)
        self.counts += np.bincount(bins, minlength=BINS)


def observe(model: onnx.ModelProto, tensors: Iterable[str], images: Iterable[Image]) -> dict[str, Histogram]:
    """Histograms of ``tensors`` over network inputs [H, W, 3], one image at a time."""
    names = list(tensors)
    session = open_session(model, names, fused=False)  # fusing would take away tensors that are asked for
    histograms = {name: Histogram.empty() for name in names}
    for image in images:
        for name, values in zip(names, session.run(names, {"image": image[None]}), strict=True):
            histograms[name].add(values)
    return histograms


def range_of(histogram: Histogram, method: Method) -> tuple[float, float]:
    """(lowest, highest) value that is still told apart; 0 always lies inside."""
    if histogram.limit == 0:
        return 0.0, 0.0
    limit = {
        "minmax": lambda: max(-histogram.low, histogram.high),
        "percentile": lambda: _percentile(histogram),
        "mse": lambda: _least_squares(histogram),
        "entropy": lambda: _entropy(histogram),
    }[method]()
    return max(histogram.low, -limit), min(histogram.high, limit)


def _percentile(histogram: Histogram) -> float:
    share = np.cumsum(histogram.counts) / max(histogram.counts.sum(), 1)
    return float((np.searchsorted(share, PERCENTILE / 100) + 1) * histogram.limit / BINS)


def _candidates(histogram: Histogram) -> range:
    """Numbers of bins that a range may keep."""
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1 if histogram.counts.any() else LEVELS
    return range(LEVELS, max(used, LEVELS) + 1)


def _least_squares(histogram: Histogram) -> float:
    """The limit whose rounding and clipping together lose the least squared error."""
    centres = (np.arange(BINS) + 0.5) * histogram.limit / BINS
    best, least = histogram.limit, np.inf
    for kept in _candidates(histogram)[::8]:
        limit = kept * histogram.limit / BINS
        step = limit / (LEVELS - 1)
        rounded = np.minimum(np.rint(centres / step), LEVELS - 1) * step
        error = float((histogram.counts * (centres - rounded) ** 2).sum())
        if error < least:
            best, least = limit, error
    return best


def _entropy(histogram: Histogram) -> float:
    """The limit whose 128-level version of the distribution loses the least information (Migacz 2017, TensorRT)."""
    counts = histogram.counts.astype(np.float64)
    counts[0] = 0  # exact zeros of a ReLU are told apart by any range
    best, least = histogram.limit, np.inf
    for kept in _candidates(histogram):
        reference = counts[:kept].copy()
        groups = np.arange(kept) * LEVELS // kept
        sums = np.bincount(groups, reference, LEVELS)
        filled = np.bincount(groups, reference > 0, LEVELS)
        spread = np.where(reference > 0, (sums / np.maximum(filled, 1))[groups], 0)
        reference[-1] += counts[kept:].sum()
        if not spread.any():
            continue
        p, q = reference / reference.sum(), spread / spread.sum()
        both = (p > 0) & (q > 0)
        if (p[~both] > 0.01).any():  # much of the distribution would be clipped where nothing is left to say it
            continue
        divergence = float((p[both] * np.log(p[both] / q[both])).sum())
        if divergence < least:
            best, least = kept * histogram.limit / BINS, divergence
    return best
