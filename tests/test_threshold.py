"""Thresholds keep the promise of split-conformal prediction, and say so when they cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binom

from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.inspection.threshold import conformal_threshold, conformal_thresholds, describe, odd_one_out

DRAWS = 4000
FEW_DRAWS = 1000
SURE = 1 - 1e-7  # a right implementation fails once in ten million runs; the generator is seeded anyway
Draw = Callable[[np.random.Generator, int], np.ndarray]

SHAPES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tail": lambda rng, n: rng.standard_cauchy(n),
    "many ties": lambda rng, n: rng.integers(0, 5, n).astype(float),
}


@pytest.mark.parametrize("draw", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (20, 0.05), (99, 0.01), (50, 0.1), (7, 0.5), (10, 0.01)])
def test_good_parts_exceed_the_threshold_at_most_as_often_as_said(draw: Draw, count: int, rate: float) -> None:
    rng = np.random.default_rng(count)
    exceeded = 0
    for _ in range(DRAWS):
        threshold = conformal_threshold(draw(rng, count), rate)
        exceeded += int(draw(rng, 1)[0] > threshold.score)
    if count >= 1 / rate - 1:
        assert threshold.supported_rate <= rate + 1e-12
    assert exceeded <= binom.ppf(SURE, DRAWS, threshold.supported_rate)
    if draw is not SHAPES["many ties"]:  # without ties the rate is met, not only kept under
        assert exceeded >= binom.ppf(1 - SURE, DRAWS, threshold.supported_rate)


@pytest.mark.parametrize(
    ("count", "rate", "rank", "supported"),
    [
        (1, 0.5, 1, 1 / 2),
        (1, 0.01, 1, 1 / 2),
        (9, 0.1, 9, 1 / 10),
        (10, 0.1, 10, 1 / 11),
        (19, 0.1, 18, 2 / 20),
        (19, 0.05, 19, 1 / 20),
        (18, 0.05, 18, 1 / 19),
        (99, 0.01, 99, 1 / 100),
        (98, 0.01, 98, 1 / 99),
        (100, 0.01, 100, 1 / 101),
        (199, 0.01, 198, 2 / 200),
        (4, 0.9, 1, 4 / 5),
    ],
)
def test_rank_and_supported_rate_by_hand(count: int, rate: float, rank: int, supported: float) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1, count + 1)).astype(np.float32)
    threshold = conformal_threshold(scores, rate)
    assert threshold.score == rank
    assert threshold.supported_rate == pytest.approx(supported, abs=1e-12)
    assert (threshold.false_reject_rate, threshold.images) == (rate, count)


@given(st.integers(1, 3000), st.integers(1, 999))
def test_rank_is_exact_where_floating_point_is_not(count: int, thousandths: int) -> None:
    rate = Fraction(thousandths, 1000)
    rank = min(math.ceil((count + 1) * (1 - rate)), count)
    threshold = conformal_threshold(np.arange(1, count + 1), thousandths / 1000)
    assert threshold.score == max(rank, 1)


@example(1, 1 - 2**-53)
@given(st.integers(1, 200), st.floats(1e-300, 1, exclude_min=True, exclude_max=True))
def test_any_rate_between_0_and_1_gives_a_threshold(count: int, rate: float) -> None:
    threshold = conformal_threshold(np.arange(count), rate)
    assert 0 <= threshold.score < count
    assert 0 < threshold.supported_rate < 1


def test_the_threshold_is_one_of_the_scores_to_the_bit() -> None:
    """So that the very image it came from passes on the device, where scores are float32."""
    scores = np.random.default_rng(0).random(40).astype(np.float32)
    assert conformal_threshold(scores, 0.05).score in scores.astype(np.float64)


def test_scores_are_not_reordered_for_the_caller() -> None:
    scores = np.array([3.0, 1.0, 2.0])
    conformal_threshold(scores, 0.5)
    assert scores.tolist() == [3, 1, 2]


def test_a_supported_rate_is_said_in_one_sentence() -> None:
    sentence = describe(conformal_threshold(np.arange(99) / 100, 0.01))
    assert sentence == "0.9800, as at most 1.00% of good parts have (known from 99 that were held out)"


def test_a_rate_that_the_images_do_not_support_is_said_with_what_would() -> None:
    sentence = describe(conformal_threshold(np.arange(9), 0.01))
    assert sentence == (
        "8.0000, as at most 10.00% of good parts have (known from 9 that were held out); 1.00% was asked for, which needs "
        "99 held-out good images, "
        "90 more than there are: take more good pictures or hold out more of them (data.held_out), or ask for 10.00%"
    )


@example(1 / 1727)  # 1 / rate is 1727.0000000000002
@given(st.one_of(st.integers(2, 2000).map(lambda n: 1 / n), st.floats(0.001, 0.999)))
def test_the_number_of_images_it_asks_for_is_the_least_that_suffices(rate: float) -> None:
    if conformal_threshold(np.zeros(1), rate).supported_rate <= rate:
        assert "asked for" not in describe(conformal_threshold(np.zeros(1), rate))
        return
    needed = int(describe(conformal_threshold(np.zeros(1), rate)).split("needs ")[1].split()[0])
    assert conformal_threshold(np.zeros(needed), rate).supported_rate <= rate + 1e-9
    assert conformal_threshold(np.zeros(needed - 1), rate).supported_rate > rate + 1e-9


@pytest.mark.parametrize("scores", [[], [0.1, np.nan], [0.1, np.inf], [-np.inf]], ids=["none", "nan", "inf", "-inf"])
def test_scores_that_say_nothing_are_refused(scores: list[float]) -> None:
    with pytest.raises(DskdError, match="finite scores of at least one held-out good image"):
        conformal_threshold(np.array(scores, np.float32), 0.05)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_rates_outside_0_to_1_are_refused(rate: float) -> None:
    with pytest.raises(CallError, match="must lie between 0 and 1"):
        conformal_threshold(np.arange(10), rate)


def test_review_must_not_be_rarer_than_reject() -> None:
    scores = np.arange(1, 200)
    with pytest.raises(CallError, match="must not be under the reject rate"):
        conformal_thresholds(scores, 0.01, 0.05)
    found = conformal_thresholds(scores, 0.05, 0.01)
    assert (found.review.score, found.reject.score) == (190, 198)


@pytest.mark.parametrize(
    "draw", [d for d in SHAPES.values() if d is not SHAPES["many ties"]], ids=["normal", "heavy tail"]
)
@pytest.mark.parametrize("count", [9, 20, 47])
def test_what_few_images_guarantee_holds_for_rejecting_and_for_looking(draw: Draw, count: int) -> None:
    rng = np.random.default_rng(count)
    rejected = looked_at = 0
    for _ in range(FEW_DRAWS):
        found, new = conformal_thresholds(draw(rng, count), 0.05, 0.01), draw(rng, 1)[0]
        rejected, looked_at = rejected + int(new > found.reject.score), looked_at + int(new > found.review.score)
    assert rejected <= binom.ppf(SURE, FEW_DRAWS, found.reject.supported_rate)
    assert looked_at <= binom.ppf(SURE, FEW_DRAWS, found.review.supported_rate)


@pytest.mark.parametrize(("count", "most"), [(9, 0.045), (20, 0.03), (47, 0.02)])
def test_few_images_reject_about_as_many_good_parts_as_was_asked_for(count: int, most: float) -> None:
    """The largest of so many scores alone would reject 10, 4.8 and 2.1 % of good parts."""
    rng = np.random.default_rng(count)
    rejected = 0
    for _ in range(FEW_DRAWS):
        found = conformal_thresholds(rng.gumbel(size=count), 0.05, 0.01)  # as maxima of maps are
        rejected += int(rng.gumbel() > found.reject.score)
    assert rejected / FEW_DRAWS < most


def test_an_estimated_threshold_by_hand() -> None:
    found = conformal_thresholds(np.array([1.0, 2, 3, 5, 9]), 0.05, 0.01)
    assert found.reject.score == pytest.approx(3 + 4 * math.log(50))  # the median, and the mean of what lies over it
    assert found.reject.supported_rate == pytest.approx(1 / 6)
    assert found.review.score == 9


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_review_lies_below_reject_however_few_the_images_are(scores: list[int]) -> None:
    found = conformal_thresholds(np.array(scores, np.float32), 0.05, 0.01)
    assert found.review.score < found.reject.score
    exceeded = sum(score > found.review.score for score in scores)
    assert found.review.supported_rate == pytest.approx((exceeded + 1) / (len(scores) + 1), abs=1e-8)


def test_one_score_far_over_all_others_is_named() -> None:
    scores = np.array([1.0, 1.2, 4.1, 1.3, 1.1, 1.4, 1.6, 1.2])
    assert odd_one_out(scores) == 2
    assert odd_one_out(np.append(scores, 4.0)) is None, "two like it are no single odd one"
    assert odd_one_out(scores * 1e6) == 2
    assert odd_one_out(np.delete(scores, 2)) is None


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, 5.0], [2.0, 2.0, 2.0]])
def test_of_too_few_scores_or_of_equal_ones_none_is_odd(scores: list[float]) -> None:
    assert odd_one_out(np.array(scores)) is None


@pytest.mark.parametrize(("draw", "most"), [("exponential", 0.07), ("normal", 0.03), ("gumbel", 0.06)])
def test_of_good_scores_alone_one_set_in_twenty_has_an_odd_one(draw: str, most: float) -> None:
    rng = np.random.default_rng(0)
    named = [odd_one_out(getattr(rng, draw)(size=100)) is not None for _ in range(2000)]
    assert np.mean(named) < most
