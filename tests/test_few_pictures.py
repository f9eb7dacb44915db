"""The curve over few good pictures: what is held out, what is repeated, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dskd.benchmarks.lab.models.few_pictures import main
from dskd.runtime.errors import CallError

SMALL = ["--set", "input.height=64", "--set", "input.width=96", "--set", "map.components=32", "--set", "map.rank=8"]


def test_each_number_of_pictures_is_drawn_several_times_and_all_of_them_once(
    small_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data", str(small_set), "--pictures", "6", "--draws", "2", "--teacher-weights", "random", *SMALL]
    found = []
    for _ in range(2):
        assert main([*command, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["draws"])
    assert found[0] == found[1]
    every = len(list((small_set / "train" / "good").iterdir()))
    assert [(draw["pictures"], draw["draw"]) for draw in found[0]] == [(6, 0), (6, 1), (every, 0)]
    assert [draw["held_out"] for draw in found[0]] == [2, 2, round(every / 3)]
    assert all(0 <= draw["image_auroc"] <= 1 and draw["rejected"] <= draw["flagged"] for draw in found[0])


@pytest.mark.parametrize("numbers", ["2", "x", ","])
def test_numbers_that_say_nothing_are_refused(numbers: str, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="takes numbers from 3 on"):
        main(["--data", str(tmp_path), "--pictures", numbers])
