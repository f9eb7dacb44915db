"""Progress without a terminal, plans and times."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from dskd.runtime.errors import CallError
from dskd.train import loop
from dskd.train import progress as module
from dskd.train.__main__ import as_settings, parser
from dskd.train.config import load_config
from dskd.train.forecast import after_training
from dskd.train.progress import (
    duration,
    enter,
    expect,
    gone,
    in_all,
    phases_text,
    progress,
    to_come,
    whole_work,
)  # fmt: skip


def test_a_log_gets_a_line_now_and_then_and_quick_work_none(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert not sys.stderr.isatty()
    assert list(progress(range(5), desc="quick", unit="image")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "SECONDS", 0.0)
    for _ in progress(range(3), desc="slow", unit="image", miniters=1):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("slow: ") and "of 3 images" in line and "left" in line for line in lines)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes only when it is told to."""
    now = 100.0

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    return passes


def test_phases_add_up_to_the_whole(clock: Callable[[float], None]) -> None:
    with whole_work("preparing"):
        clock(3)
        enter("training")
        clock(16 * 60)
        enter("the map")
        clock(7)
    assert phases_text() == "preparing 3 s, training 16 min, the map 7 s"
    assert gone() == 3 + 16 * 60 + 7
    with whole_work("preparing"):
        clock(1)
    assert phases_text() == "preparing 1 s"


def test_a_piece_tells_how_far_the_whole_is(clock: Callable[[float], None]) -> None:
    with whole_work("preparing"):
        clock(30)
        assert in_all(5) == ""  # nothing is known of what follows
        expect([("what is usual", 100.0), ("left out", 40.0), ("painted defects", 160.0)])
        assert in_all(10) == "; 9% of all, about 5 min left"
        list(progress(range(2), desc="what is usual", unit="batch"))
        assert to_come() == 200
        list(progress(range(2), desc="something else", unit="batch"))
        assert to_come() == 200
        list(progress(range(2), desc="painted defects", unit="batch"))
        assert in_all(0) == ""
        expect([("painted defects", 160.0)])
    assert in_all(1) == ""  # another command's bars know nothing of this one


def test_lines_of_a_log_show_the_whole(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    with whole_work("preparing"):
        clock(60)
        expect([("painted defects", 600.0)])
        for _ in progress(range(3), desc="slow", unit="batch", miniters=1):
            pass
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(re.search(r"of 3 batches, .* left; \d+% of all, about \d+ min left$", line) for line in lines)


def test_time_in_all_is_told_with_its_parts(clock: Callable[[float], None]) -> None:
    with whole_work("preparing"):
        clock(30)
        expect([("what is usual", 60.0), ("painted defects", 180.0)])
        said = "about 16 min in all: 30 s gone, 12 min more for training, 4 min for the map, thresholds and the report"
        assert loop.forecast(12 * 60) == said


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([], "principal components, what is usual, good pictures, painted defects, units of the map, principal components, "
             "what is usual, units of the map, held-out images, test, reading a, test, reading b, painted defects"),
        (["map.usual=here", "map.shares=[1, 0, 0, 0]"], "principal components, what is usual, units of the map, principal components, "
             "what is usual, units of the map, held-out images, test, reading a, test, reading b, painted defects"),
        (["map.distance=cosine"], "held-out images, test, reading a, test, reading b, painted defects"),
    ],
)  # fmt: skip
def test_what_follows_training_is_known_before_it(settings: list[str], names: str) -> None:
    pieces = after_training(load_config(None, settings), ["a", "b"], 200, 20, 30, 1.0, 0.5)
    assert ", ".join(name for name, _ in pieces) == names
    assert dict(pieces)["test, reading a"] == 30 * 0.5
    assert dict(pieces).get("what is usual", 100.0) == 200 * 0.5


def test_durations_are_for_people() -> None:
    assert [duration(s) for s in (0.4, 119, 121, 7199, 9000)] == ["0 s", "119 s", "2 min", "120 min", "2.5 h"]


def test_words_for_settings() -> None:
    words = ["--epochs", "3", "--batch", "4", "--size", "416x160"]
    expected = ["input.width=416", "input.height=160", "recipe.epochs=3", "recipe.batch=4"]
    assert as_settings(parser().parse_args(words)) == expected
    assert as_settings(parser().parse_args([])) == []
    with pytest.raises(CallError, match="as 256x256"):
        as_settings(parser().parse_args(["--size", "256"]))
