"""Whether a graph judges good pictures like the float graph does, up to what the false-reject rates explain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from dskd.export.graph.answers import HeldOut
from dskd.runtime.bundle.loading import FLOAT, Bundle
from dskd.runtime.bundle.manifest import Thresholds
from dskd.runtime.errors import DskdError
from dskd.train.metrics import binomial

CHANCE = 0.001  # of stopping a calibration in which nothing is wrong


def require_few_flips(bundle: Bundle, held_out: Mapping[str, HeldOut], graphs: Iterable[str]) -> None:
    """Raises DskdError where one of ``graphs`` judges too many of the held-out good pictures otherwise than float.

    Each graph passes all of them but a share that was asked for. Where far more are judged otherwise, these are not the
    parts that the float graph's thresholds are for.
    """
    exact = bundle.manifest.graphs[FLOAT].thresholds
    truth = verdicts(held_out[FLOAT].scores, exact)
    for name in graphs:
        own = bundle.manifest.graphs[name].thresholds
        flips, count = int((verdicts(held_out[name].scores, own) != truth).sum()), len(truth)
        allowed = most_flips(count, exact.review.supported_rate + own.review.supported_rate)
        if flips > allowed:
            raise DskdError(
                f"{name} judges {flips} of {count} held-out good pictures otherwise than {FLOAT}, and at most {allowed} are "
                "explained by the false-reject rates; nothing was written: give pictures of the parts that the model was "
                "trained for, train again, or accept it with --accept-flips"
            )


def most_flips(count: int, rate: float) -> int:
    """The most of ``count`` that are seen where each flips with probability ``rate``, but for one case in a thousand."""
    if rate >= 1:
        return count
    left, most = 1.0, -1
    while left >= CHANCE and most < count:
        most += 1
        left -= binomial(most, count, rate)
    return most


def verdicts(scores: NDArray[np.float32], thresholds: Thresholds) -> NDArray[np.int_]:
    """0 PASS, 1 REVIEW, 2 REJECT for each score."""
    return (scores > thresholds.review.score).astype(int) + (scores > thresholds.reject.score)
