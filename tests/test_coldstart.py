"""From the start of a process to its first answer: what is found of earlier starts, and whose memory is counted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny_bundle import tiny_bundle

from dskd.benchmarks import coldstart
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import DskdError

QUICK = ["--backend", "onnxruntime", "--threads", "1", "--size", "64x64", "--json"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def test_cold_start_is_that_of_the_shipped_command(
    small: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert coldstart.main(["--bundle", str(small.path), *QUICK, "--rounds", "2"]) == 0
    rows = {each["what"]: each for each in json.loads(capsys.readouterr().out)["rows"]}
    for kind in ("", coldstart.EMPTY):
        assert rows[f"{coldstart.FIRST}{kind}"]["n"] == 2
        assert rows[f"{coldstart.FIRST}{kind}"]["median"] > 0
        assert rows[f"{coldstart.PEAK}{kind}"]["median"] > 10
    with pytest.raises(DskdError, match=r"exit code 2.*no bundle there"):
        coldstart.started([sys.executable, "-m", "dskd.runtime", "--bundle", str(tmp_path / "none")])


def test_a_first_start_finds_nothing_and_a_usual_one_what_was_left(tmp_path: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
left = [Path(folder) / "left" for folder in (os.environ["XDG_CACHE_HOME"], sys.argv[1])]
missing = sum(not file.exists() for file in left)
with open(sys.argv[2], "a") as told:
    told.write(str(missing))
time.sleep(0.2 * missing)
for file in left:
    file.touch()
print("{}")
"""
    told = tmp_path / "told"
    for _ in range(2):
        times = coldstart.twice(lambda folder: [sys.executable, "-c", script, str(folder), str(told)], tmp_path)[
            "times"
        ]
    assert told.read_text() == "2202"
    assert times[coldstart.FIRST + coldstart.EMPTY][0] >= 0.4
    assert times[coldstart.FIRST][0] > 0


def test_the_peak_is_that_of_the_process_and_not_of_the_one_that_starts_it() -> None:
    held = {}
    for megabytes in (0, 100):
        script = f"kept = bytearray({megabytes} * 1000 * 1000)\nprint('{{}}', flush=True)\nimport time; time.sleep(0.2)"
        (held[megabytes],) = coldstart.started([sys.executable, "-c", script])["times"][coldstart.PEAK]
    assert 5 < held[0] < 40
    assert held[100] - held[0] == pytest.approx(100, abs=5)
