"""Whether intervals can tell a slower build from the same one, on generated samples."""

from __future__ import annotations

import numpy as np
import pytest

from dskd.benchmarks import (
    memory,
)
from dskd.benchmarks.intervals import RESOLUTION, Launches, changed, judge, paired_ratio, told_beyond
from dskd.benchmarks.saturated import Camera, counted
from dskd.runtime.inspection.decision import Settings


def samples(seed: int, scale: float = 1.0, machine: float = 1.0) -> tuple[Launches, Launches]:
    """Medians of 3 launches of 7 rounds, and the yardstick's: both slowed alike by a noisy, drifting machine."""
    random = np.random.default_rng(seed)
    busy = machine * np.exp(np.abs(random.normal(0, 0.2, (3, 7))) + np.linspace(0, 0.3, 21).reshape(3, 7))
    launch = np.exp(random.normal(0, 0.005, (3, 1)))
    own = 20 * scale * launch * busy * np.exp(random.normal(0, 0.015, (3, 7)))
    return own.tolist(), (5 * busy * np.exp(random.normal(0, 0.015, (3, 7)))).tolist()


def test_a_machine_that_got_slower_is_not_taken_for_a_slower_build() -> None:
    """Generated samples: the second run on a machine that takes 1.6 times as long for everything."""
    for seed in range(40):
        (before, stick), (after, later) = samples(seed), samples(seed + 1000, machine=1.6)
        assert judge(changed(before, after, stick, later)) == "not distinguishable"


def test_ten_per_cent_are_found_either_way() -> None:
    """Generated samples."""
    for seed in range(40):
        (before, stick), (after, later) = samples(seed), samples(seed + 1000, scale=1.1)
        assert judge(changed(before, after, stick, later)) == "slower"
        assert judge(changed(after, before, later, stick)) == "faster"


def test_an_interval_holds_the_true_ratio_and_says_nothing_below_the_resolution() -> None:
    """Generated samples: of 95 % intervals some miss, half of them would not be intervals."""
    held = 0
    for seed in range(60):
        (before, stick), (after, later) = samples(seed), samples(seed + 1000, scale=1 + RESOLUTION / 2)
        found = changed(before, after, stick, later)
        held += found.low <= 1 + RESOLUTION / 2 <= found.high
        assert judge(found) == "not distinguishable"
    assert held >= 45
    with pytest.raises(ValueError, match="do not fit"):
        paired_ratio([[1.0, 2.0]], [[1.0]])


def test_the_smallest_change_that_would_have_been_told() -> None:
    """Generated samples: the same samples, scaled to either side of it."""
    for seed in range(10):
        (before, stick), (after, later) = samples(seed), samples(seed + 1000)
        found = changed(before, after, stick, later)
        for limit, judged in zip(told_beyond(found), ("faster", "slower"), strict=True):
            for more, wanted in ((0.999, "not distinguishable"), (1.001, judged)):
                scale = (limit / found.median) * (more if judged == "slower" else 1 / more)
                scaled = [[value * scale for value in launch] for launch in after]
                assert judge(changed(before, scaled, stick, later)) == wanted


def test_ten_bytes_a_frame_are_found_in_a_hundred_thousand() -> None:
    """Memory comes in pages."""
    frames = 100_000

    def held(leak: float) -> list[float]:
        looks = [(k + 1) * frames // memory.LOOKS for k in range(memory.LOOKS)]
        return [200 + leak * inspected // 4096 * 4096 / 1e6 for inspected in looks]

    assert memory.growth(held(10)) > memory.FLAT > memory.growth(held(5))


def test_growth_is_that_of_the_least_that_is_held() -> None:
    jagged = [100 + (k % 7) for k in range(100)]
    assert memory.growth(jagged) == 0
    assert memory.growth([held + 0.1 * k for k, held in enumerate(jagged)]) == pytest.approx(5, abs=0.5)


def test_cameras_are_counted_between_two_batches() -> None:
    cameras = [Camera(name, [], Settings(1, 1)) for name in ("left", "right")]
    for batch in range(20):
        for camera in cameras:
            camera.judgements.append(0.1 * batch)
            camera.waits.append(0.1)
    found = counted(cameras, stopped=1.85)
    assert found["rate"] == pytest.approx(20.0)
    assert found["counts"] == [15, 15]
