"""Thresholds with a meaning: split-conformal from held-out good images.

With n held-out scores the k-th smallest, k = ceil((n + 1)(1 - rate)), is exceeded by a new good part with
probability at most ``rate`` (Vovk et al.; exchangeability is the only assumption). Fewer than 1/rate - 1 images
cannot support a rate: then the largest score is taken and the rate it does support is said. A reject threshold that
is not supported lies higher: as far out as the upper half of the scores says, taken as an exponential tail. That only
lowers the rate of false rejects, so what is guaranteed stays, and parts in between go to REVIEW.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dskd.runtime.bundle.manifest import Threshold, Thresholds
from dskd.runtime.errors import CallError, DskdError

MOST = 1 - 1e-9  # a rate lies under 1
ODD = math.log(20)  # mean excesses: one set of scores in twenty has a larger gap at its end by chance
WHAT_IS_ODD = (
    "this good picture, which was held out, scores far over all the others, and REJECT follows it; if the part is not "
    "good, take the picture away and train again"
)
ROUNDING = 1e-9  # (n + 1)(1 - rate) is often a whole number that floating point misses by a hair


def conformal_threshold(scores: NDArray[np.floating], rate: float) -> Threshold:
    """Score that good parts exceed with probability at most ``rate``. ``scores`` [N] are of held-out good images."""
    if not 0 < rate < 1:
        raise CallError(f"false-reject rate {rate} must lie between 0 and 1")
    count = len(scores)
    if count == 0 or not np.isfinite(scores).all():
        raise DskdError("thresholds need finite scores of at least one held-out good image; hold out more")
    rank = min(max(math.ceil((count + 1) * (1 - rate) - ROUNDING), 1), count)
    return Threshold(
        score=float(np.sort(scores)[rank - 1]),
        false_reject_rate=rate,
        supported_rate=(count + 1 - rank) / (count + 1),
        images=count,
    )


def conformal_thresholds(scores: NDArray[np.floating], review_rate: float, reject_rate: float) -> Thresholds:
    """The review and the reject threshold. Raises CallError where review is asked to be rarer than reject."""
    if review_rate < reject_rate:
        raise CallError(f"review rate {review_rate} must not be under the reject rate {reject_rate}")
    reject, review = conformal_threshold(scores, reject_rate), conformal_threshold(scores, review_rate)
    if not _is_supported(reject):
        reject = reject.model_copy(update={"score": max(reject.score, _estimated(scores, reject_rate))})
    if review.score >= reject.score:
        review = _below(scores, reject, review_rate)
    return Thresholds(review=review, reject=reject)


def odd_one_out(scores: NDArray[np.floating]) -> int | None:
    """Which good picture scores so far over all the others that it may not be a good one; None where none does.

    Over the median, scores are taken as an exponential tail; the gap at its end is a mean excess long on average.
    """
    if len(scores) < 3:
        return None
    order = np.argsort(scores)
    last, largest = float(scores[order[-2]]), float(scores[order[-1]])
    middle = float(np.median(scores))
    over = np.minimum(scores[scores > middle], last) - middle  # how far the largest lies out must not count
    mean = float(over.mean()) if len(over) else 0.0
    return int(order[-1]) if mean > 0 and largest - last > ODD * mean else None


def _is_supported(threshold: Threshold) -> bool:
    return threshold.supported_rate <= threshold.false_reject_rate + ROUNDING


def _estimated(scores: NDArray[np.floating], rate: float) -> float:
    """Score that good parts exceed at ``rate`` if, over their median, scores thin out as an exponential tail does."""
    middle = float(np.median(scores))
    over = scores[scores > middle]
    if not len(over):  # they are all alike
        return middle
    return middle + float(np.mean(over - middle)) * math.log(0.5 / rate)


def _below(scores: NDArray[np.floating], reject: Threshold, rate: float) -> Threshold:
    """A review threshold under ``reject``, where so few scores are known that both would be the largest of them."""
    lower = scores[scores < reject.score]
    score = float(lower.max()) if len(lower) else math.nextafter(reject.score, -math.inf)
    supported = (len(scores) + 1 - len(lower)) / (len(scores) + 1)
    return Threshold(score=score, false_reject_rate=rate, supported_rate=min(supported, MOST), images=len(scores))


def describe(threshold: Threshold) -> str:
    """For people, after "a score over"."""
    sentence = (
        f"{threshold.score:.4f}, as at most {threshold.supported_rate:.2%} of good parts have "
        f"(known from {threshold.images} that were held out)"
    )
    if not _is_supported(threshold):
        needed = math.ceil(1 / threshold.false_reject_rate - ROUNDING) - 1
        if needed > threshold.images:
            sentence += (
                f"; {threshold.false_reject_rate:.2%} was asked for, which needs {needed} held-out good images, "
                f"{needed - threshold.images} more than there are: take more good pictures or hold out more of them "
                f"(data.held_out), or ask for {threshold.supported_rate:.2%}"
            )
        else:
            sentence += f"; {threshold.false_reject_rate:.2%} was asked for, but it lies under the reject threshold"
    return sentence
