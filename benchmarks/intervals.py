"""What a list of times says: quantiles, a ratio with its interval, and whether two runs differ.

Samples come as launches of rounds: a launch is a process of its own (where it put its memory stays with it), a round
is a turn in which all contenders ran one after another, so that what slows the machine slows all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Launches = Sequence[Sequence[float]]  # one figure for each round of each launch
Judgement = Literal["faster", "slower", "not distinguishable"]

RESAMPLES = 4000
CONFIDENCE = 0.95
RESOLUTION = 0.03  # less is not called a difference: launches of one build differ by where their memory came to lie


@dataclass(frozen=True)
class Interval:
    """A ratio, and where it lies with 95 % confidence."""

    median: float
    low: float
    high: float


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """median, p10, p90, p99 and max. Raises ValueError where there are no values."""
    found = np.percentile(np.asarray(values, float), [50, 10, 90, 99, 100])
    return dict(zip(("median", "p10", "p90", "p99", "max"), map(float, found), strict=True))


def paired_ratio(of: Launches, to: Launches) -> Interval:
    """``of`` over ``to``, which ran in the same rounds. Raises ValueError where the rounds do not fit."""
    return _interval(_logs(of, to), None)


def changed(before: Launches, after: Launches, before_yardstick: Launches, after_yardstick: Launches) -> Interval:
    """``after`` over ``before``, two runs at different times, each measured by a yardstick that ran in its rounds.

    The yardstick takes out how fast the machine was at the time.
    """
    return _interval(_logs(after, after_yardstick), _logs(before, before_yardstick))


def judge(ratio: Interval, higher_is_better: bool = False) -> Judgement:
    """What a change of a figure means: it must differ by more than ``RESOLUTION`` with all of its interval."""
    if ratio.low > 1 + RESOLUTION:
        return "faster" if higher_is_better else "slower"
    if ratio.high < 1 - RESOLUTION:
        return "slower" if higher_is_better else "faster"
    return "not distinguishable"


def told_beyond(ratio: Interval) -> tuple[float, float]:
    """The ratios below and above which ``judge`` would have called a difference, had the figures spread as they did."""
    return (1 - RESOLUTION) * ratio.median / ratio.high, (1 + RESOLUTION) * ratio.median / ratio.low


def _logs(of: Launches, to: Launches) -> list[NDArray[np.float64]]:
    if [len(launch) for launch in of] != [len(launch) for launch in to] or not any(map(len, of)):
        raise ValueError("the rounds of two contenders do not fit")
    return [np.log(np.asarray(a, float) / np.asarray(b, float)) for a, b in zip(of, to, strict=True) if len(a)]


def _interval(of: list[NDArray[np.float64]], to: list[NDArray[np.float64]] | None) -> Interval:
    random = np.random.default_rng(0)  # the same files always get the same answer
    middle, spread = _centre(of), _resampled(of, random)
    if to is not None:
        middle, spread = middle - _centre(to), spread - _resampled(to, random)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(spread, [tail, 100 - tail])
    return Interval(*(float(np.exp(value)) for value in (middle, min(low, middle), max(high, middle))))


def _centre(launches: list[NDArray[np.float64]]) -> float:
    """Median over launches of the median over rounds: neither a bad round nor a bad launch counts for much."""
    return float(np.median([np.median(launch) for launch in launches]))


def _resampled(launches: list[NDArray[np.float64]], random: np.random.Generator) -> NDArray[np.float64]:
    """The centre, again and again over launches and rounds drawn with replacement."""
    medians = np.stack([np.median(_draws(launch, random), axis=1) for launch in launches], axis=1)
    chosen = random.integers(0, len(launches), medians.shape)
    return np.asarray(np.median(np.take_along_axis(medians, chosen, axis=1), axis=1))


def _draws(launch: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    return launch[random.integers(0, len(launch), (RESAMPLES, len(launch)))]
