"""A change of thresholds as the audit log tells it can be read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dskd.runtime.station.threshold_change import ThresholdChange

NUMBER = st.floats(-1e9, 1e9).map(lambda value: float(f"{value:g}"))


@pytest.mark.budget
@given(NUMBER, NUMBER, NUMBER, NUMBER, st.text(min_size=1, max_size=30))
def test_what_is_written_is_read_back(a: float, b: float, c: float, d: float, recipe: str) -> None:
    change = ThresholdChange(recipe, (a, b), (c, d), "plate-0123456789ab", "top, side")
    assert ThresholdChange.parse(str(change)) == change


def test_the_sentences_of_earlier_versions_are_understood() -> None:
    text = "bad: review 0 to 0.001, reject 0 to 9; bundle plate-0123, camera top"
    assert ThresholdChange.parse(text) == ThresholdChange("bad", (0, 0), (0.001, 9), "plate-0123", "top")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "record 3: false alarm",
        "a: review x to 1, reject 1 to 2; bundle b, camera c",
        "a: review 1.2.3 to 1, reject 1 to 2; bundle b, camera c",
    ],
)
def test_other_sentences_are_none(text: str) -> None:
    assert ThresholdChange.parse(text) is None
