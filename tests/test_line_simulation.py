"""The simulated line against what can be reckoned."""

from __future__ import annotations

import numpy as np
import pytest

from dskd.benchmarks.lab.station.line_simulation import simulate


def test_a_camera_alone_waits_for_the_engine_only() -> None:
    seen = simulate(1, 5.0, lambda batch: 0.010, most=8)
    assert (seen.batch, seen.dropped) == (1.0, 0.0)
    assert seen.p50 == pytest.approx(10.0) == seen.p99


@pytest.mark.parametrize("load", [0.5, 0.9])
def test_below_what_the_engine_bears_nothing_is_lost(load: float) -> None:
    seen = simulate(100, 5.0, lambda batch: batch * load / 500, most=8)
    assert seen.dropped == seen.worst == 0
    assert seen.p99 < 200


def test_beyond_it_all_batches_are_full_and_cameras_lose_alike_what_is_too_much() -> None:
    seen = simulate(100, 5.0, lambda batch: batch * 1.25 / 500, most=8)
    assert seen.batch > 7.9
    assert seen.dropped == pytest.approx(1 - 1 / 1.25, abs=0.01)
    assert seen.worst < seen.dropped + 0.05


def test_batches_that_cost_little_more_than_a_frame_bear_more() -> None:
    """A start of 8 ms for every batch and 1 ms for each frame: 111 frames a second alone, 500 in batches of eight."""
    alone, together = (simulate(60, 5.0, lambda batch: 0.008 + 0.001 * batch, most=most) for most in (1, 8))
    assert alone.dropped == pytest.approx(1 - 1 / 0.009 / 300, abs=0.01)
    assert together.dropped == 0


def test_waits_are_those_of_a_queue_of_random_arrivals() -> None:
    """Many slow cameras arrive at random: in an M/D/1 queue at a load of 0.6 the mean is 1.75 times the engine's time."""
    medians = [simulate(2000, 0.25, lambda batch: 0.0012, most=1, frames=20, seed=seed).p50 for seed in range(3)]
    assert 1.2 < np.mean(medians) < 1.75 * 1.2  # half of the frames wait less than the mean
