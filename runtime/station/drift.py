"""Drift watch: whether passed parts still score like the good images that the thresholds rest on.

Two-sample Kolmogorov-Smirnov with its exact distribution, on blocks of passes that do not overlap. It needs no shape of
the scores and no bound on them, and it is exact for the few dozen held-out images that a bundle may have. A block is a
random sample of the passes since the last check, an hour or more: neighbouring frames resemble each other, and parts
drawn from all over an hour do so least.

The false-alarm rate is stated per year: each check may err with probability ``per_year`` times the share of a year since
the check before it. Expected false alarms add up whatever the checks have in common (they share one reference), so a
station without drift has at most ``per_year`` false alarms a year on average, however often it is looked at. Spending a
fixed probability over all time instead would leave nothing after some months.

Passes are cut at the review threshold. The reference is cut at the same score, so cutting alone is no difference.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dskd.runtime.store import Store, StoreReader

YEAR = 365.25 * 86400
LONGEST_SHARE = 86400.0  # seconds; a check after a standstill of weeks may not spend all of it
LEAST_REFERENCE = 20  # scores; with fewer no block, however far off, is a surprise at the levels in use


@dataclass(frozen=True)
class Drift:
    """One check: ``distance`` between the distributions (0 to 1), its probability without drift, the allowed level.

    ``medians`` are those of reference and block. ``sentence`` is for people.
    """

    drifted: bool
    distance: float
    probability: float
    level: float
    medians: tuple[float, float]
    sentence: str


class DriftWatch:
    """Watches one camera. Not for several threads at once.

    ``reference``: scores of good parts, ``origin`` says of which. A check takes ``block`` passes and comes every
    ``interval`` seconds at most.
    """

    def __init__(
        self,
        reference: Sequence[float],
        origin: str,
        per_year: float = 1.0,
        block: int = 200,
        interval: float = 3600.0,
        now: float | None = None,
    ) -> None:
        self.reference, self.origin = np.sort(np.asarray(reference, float)), origin
        self._per_year, self._block, self._interval = per_year, block, interval
        self._chance = random.Random()  # noqa: S311 no secret
        self._passes: list[tuple[float, float]] = []
        self._seen = 0
        self._checked = time.time() if now is None else now
        self.latest: Drift | None = None

    def feed(self, score: float, review: float, now: float | None = None) -> Drift | None:
        """Takes the score of a pass and the review threshold it was under; gives a check where one is due."""
        moment = time.time() if now is None else now
        self._sample((score, review))
        if len(self._passes) < self._block or moment - self._checked < self._interval:
            return None
        level = self._per_year * min(moment - self._checked, LONGEST_SHARE) / YEAR
        self.latest = self._compare(level)
        self._checked, self._seen = moment, 0
        self._passes.clear()
        return self.latest

    def _sample(self, one: tuple[float, float]) -> None:
        """Keeps ``block`` of all passes since the last check, each with the same chance."""
        self._seen += 1
        if len(self._passes) < self._block:
            self._passes.append(one)
        elif (place := self._chance.randrange(self._seen)) < self._block:
            self._passes[place] = one

    def _compare(self, level: float) -> Drift:
        cut = min(review for _, review in self._passes)
        block = np.sort([score for score, _ in self._passes if score <= cut])
        reference = self.reference[self.reference <= cut]
        if len(reference) < LEAST_REFERENCE or len(block) == 0:
            nothing = f"{len(reference)} reference scores are too few to tell drift; {LEAST_REFERENCE} are needed"
            return Drift(False, 0.0, 1.0, level, (math.nan, math.nan), nothing)
        distance = ks_distance(reference, block)
        probability = ks_probability(distance, len(reference), len(block))
        medians = float(np.median(reference)), float(np.median(block))
        drifted = probability <= level
        return Drift(drifted, distance, probability, level, medians, self._sentence(drifted, medians, len(block)))

    def _sentence(self, drifted: bool, medians: tuple[float, float], passes: int) -> str:
        if not drifted:
            return f"passes score like the {self.origin} ({passes} compared)"
        way = "higher" if medians[1] > medians[0] else "lower" if medians[1] < medians[0] else "otherwise spread"
        return (
            f"drift: passes score {way} than the {self.origin} (median of {passes} {medians[1]:.4g} against "
            f"{medians[0]:.4g}); look at light, lens and parts before the verdicts suffer"
        )


def ks_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Largest difference of the empirical distributions of two sorted samples."""
    everywhere = np.concatenate([a, b])
    return float(np.abs(_share_up_to(a, everywhere) - _share_up_to(b, everywhere)).max())


def ks_probability(distance: float, n: int, m: int) -> float:
    """P(distance or more) for samples of n and m from one continuous distribution, exact; with ties it is less.

    Counts lattice paths that stay nearer than ``distance`` (Hodges 1957): along each diagonal of i + j steps, the
    share of paths to (i, j) is i / (i + j) of that to (i - 1, j) and j / (i + j) of that to (i, j - 1).
    """
    i = np.arange(n + 1)
    share = np.zeros(n + 1)
    share[0] = 1.0
    for steps in range(1, n + m + 1):
        j = steps - i
        share[1:] = share[1:] * np.maximum(j[1:], 0) / steps + share[:-1] * i[1:] / steps
        share[0] = share[0] * max(j[0], 0) / steps
        share[(j < 0) | (j > m) | (np.abs(i / n - j / m) >= distance - 1e-12)] = 0.0
    return float(min(max(1.0 - share[n], 0.0), 1.0))


def first_passes(store: StoreReader, camera: str, bundle: str, backend: str, number: int) -> list[float] | None:
    """Scores of the first ``number`` passes of a camera with a bundle, None before there are as many.

    They are kept in the store, so that they stay the first ones when old records go. Where the camera's oldest passes
    are of another bundle, the first among its newest ones are taken.
    """
    name = f"drift/{camera}/{bundle}/{backend}"
    known = store.recall(name)
    if known is not None:
        return [float(score) for score in json.loads(known)]
    oldest = store.scores(camera, number * 4, "passes", oldest=True)
    newest = store.scores(camera, number * 4, "passes")[::-1]
    found = ([row.score for row in rows if (row.bundle, row.backend) == (bundle, backend)] for rows in (oldest, newest))
    scores = max(found, key=lambda scores: len(scores) >= number)[:number]
    if len(scores) < number:
        return None
    if isinstance(store, Store):
        store.remember(name, json.dumps(scores))
    return scores


def _share_up_to(sample: NDArray[np.floating], points: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(np.searchsorted(sample, points, side="right") / len(sample), np.float64)
