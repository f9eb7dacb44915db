"""docs/scaling.md is what the command prints; the ceilings are what a data sheet allows."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import ROOT

from dskd.benchmarks.lab.station.load_sizes import measure
from dskd.benchmarks.lab.station.scaling import Load, Peak, page

NUMBER = re.compile(r"\d+(?:\.\d+)?")


def test_the_page_is_what_the_command_prints() -> None:
    """Word for word; figures within a tenth, because other versions of libraries pack a little differently."""
    printed, written = page(5.0, (0.1, 0.4)), (ROOT / "docs" / "scaling.md").read_text()
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", written)
    found, told = (np.array([float(number) for number in NUMBER.findall(text)]) for text in (printed, written))
    np.testing.assert_allclose(told, found, rtol=0.1, atol=0.011)


def test_a_ceiling_is_the_lower_of_compute_and_memory() -> None:
    peak = Peak("made up", int8=2.0, bandwidth=1.0)  # 10^12 MAC/s at INT8, half of it at FP16; 10^9 bytes/s
    few = Load(macs=10**12, weights=1000, constants=0, activations=0)
    assert few.ceiling(peak, "INT8", 1) == (1.0, "compute")
    assert few.ceiling(peak, "FP16", 1) == (0.5, "compute")
    many = Load(macs=1, weights=10**9, constants=10**9 // 4, activations=10**9)
    assert many.ceiling(peak, "INT8", 1) == (pytest.approx(1 / 3), "memory")
    assert many.ceiling(peak, "FP16", 2) == (pytest.approx(1 / (1.5 + 2)), "memory")
    halves = Load(macs=1, weights=0, constants=0, activations=0, halves=10**9)  # two bytes each in every precision
    assert halves.ceiling(peak, "INT8", 1) == halves.ceiling(peak, "FP16", 1) == (pytest.approx(0.5), "memory")


def test_sizes_are_of_what_was_written() -> None:
    sizes = measure()
    assert 100 < sizes.answer < sizes.inspection < sizes.stored
    assert sizes.png > 1024 * 1024 / 2  # noise does not compress
    assert 0 < sizes.jpeg < sizes.png
    assert sizes.page > 20 * sizes.series
