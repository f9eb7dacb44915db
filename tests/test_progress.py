"""Progress without a terminal, plans and times."""

from __future__ import annotations

import sys

import pytest

from dskd.runtime.errors import CallError
from dskd.train import progress as module
from dskd.train.__main__ import as_settings, parser
from dskd.train.progress import clear_times, duration, progress, times_text


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


def test_what_each_piece_took_is_told_in_order() -> None:
    clear_times()
    for _ in progress(range(2), desc="nothing", unit="image"):
        pass
    assert times_text() == ""
    module._times.update({"preparing": 3.2, "training": 16 * 60.0})
    assert times_text() == "preparing 3 s, training 16 min"
    clear_times()
    assert times_text() == ""


def test_durations_are_for_people() -> None:
    assert [duration(s) for s in (0.4, 119, 121, 7199, 9000)] == ["0 s", "119 s", "2 min", "120 min", "2.5 h"]


def test_words_for_settings() -> None:
    words = ["--epochs", "3", "--batch", "4", "--size", "416x160"]
    expected = ["input.width=416", "input.height=160", "recipe.epochs=3", "recipe.batch=4"]
    assert as_settings(parser().parse_args(words)) == expected
    assert as_settings(parser().parse_args([])) == []
    with pytest.raises(CallError, match="as 256x256"):
        as_settings(parser().parse_args(["--size", "256"]))
