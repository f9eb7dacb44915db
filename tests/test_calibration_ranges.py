"""Which pictures calibration looks at, and the ranges it takes from what it saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dskd.calibration.images import k_centre
from dskd.calibration.observed import RECIPE, Observed, read_observed, write_observed
from dskd.calibration.ranges import (
    METHODS,
    SMALLEST,
    Histogram,
    range_of,
)
from dskd.runtime.errors import DskdError


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=200), st.integers(1, 5))
def test_a_histogram_counts_every_value_once_however_it_comes(values: list[float], pieces: int) -> None:
    array = np.array(values, np.float32)
    histogram = Histogram.empty()
    for piece in np.array_split(array, min(pieces, len(array))):
        histogram.add(piece)
    if np.abs(array).min() > SMALLEST:
        assert histogram.counts.sum() == len(array)
    assert histogram.low == min(0, float(array.min()))
    assert histogram.high == max(0, float(array.max()))
    for method in METHODS:
        low, high = range_of(histogram, method)
        assert histogram.low <= low <= 0 <= high <= histogram.high


def histogram_of(values: NDArray[np.float32]) -> Histogram:
    histogram = Histogram.empty()
    histogram.add(values)
    return histogram


def test_methods_differ_where_a_few_values_lie_far_out() -> None:
    values = np.abs(np.random.default_rng(0).standard_normal(200_000)).astype(np.float32)
    values[:3] = 100
    limits = {method: range_of(histogram_of(values), method)[1] for method in METHODS}
    assert limits["minmax"] == 100
    assert limits["percentile"] == pytest.approx(np.quantile(values, 0.9999), rel=0.05)
    assert 2 < limits["entropy"] < 20  # three values in 200,000 carry no information
    assert 20 < limits["mse"] < 100  # but a large squared error


def test_least_squares_beats_every_other_method_at_its_own_measure() -> None:
    values = np.random.default_rng(1).exponential(1, 100_000).astype(np.float32)

    def loss(limit: float) -> float:
        step = limit / 127
        return float(((values - np.minimum(np.rint(values / step), 127) * step) ** 2).mean())

    losses = {method: loss(range_of(histogram_of(values), method)[1]) for method in METHODS}
    assert losses["mse"] <= min(losses.values()) * 1.02


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(DskdError, match="no finite number"):
        Histogram.empty().add(np.array([1, np.nan], np.float32))


def test_what_was_observed_comes_back_for_its_own_key_only(tmp_path: Path) -> None:
    file, kept = tmp_path / "o.json", {"a": histogram_of(np.arange(100, dtype=np.float32)), "b": Histogram.empty()}
    write_observed(file, Observed(["a1", "b2"], {"x": np.array([0.25, 3.0])}, kept), "key")
    found = read_observed(file, "key")
    assert found is not None
    assert found.chosen == ["a1", "b2"]
    np.testing.assert_array_equal(found.largest["x"], [0.25, 3.0])
    for name, histogram in kept.items():
        again = found.histograms[name]
        assert (again.low, again.high, again.limit) == (histogram.low, histogram.high, histogram.limit)
        np.testing.assert_array_equal(again.counts, histogram.counts)
    assert read_observed(file, "other") is None
    for damaged in (file.read_text().replace(f'"recipe":{RECIPE}', '"recipe":1'), "{", "[]", '{"recipe": 3}'):
        file.write_text(damaged)
        assert read_observed(file, "key") is None


def test_k_centre_takes_the_odd_ones_first() -> None:
    features = np.zeros((50, 3), np.float32)
    features[7], features[31] = [10, 0, 0], [0, 9, 0]
    chosen = k_centre(features + np.random.default_rng(0).normal(0, 0.01, features.shape).astype(np.float32), 4)
    assert {7, 31} <= set(chosen)
    assert len(set(chosen)) == 4
