"""What ``python -m benchmarks compare`` says of two files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dskd.benchmarks import compare
from dskd.benchmarks.results import Better, Results, row
from dskd.runtime.errors import CallError

ROUNDS = [[10.0, 10.1, 10.2]] * 7


def results_of(scale: float = 1.0) -> Results:
    found = Results(environment={}, command=["all"], yardsticks={"latency": [[1.0, 1.0, 1.0]] * 7})

    def add(benchmark: str, what: str, unit: str, rounds: list[list[float]], better: Better = "lower") -> None:
        scaled = [[value * scale for value in launch] for launch in rounds]
        values = [value for launch in scaled for value in launch]
        found.rows.append(row(benchmark, "ours", what, unit, values or [scale], better, scaled))

    add("latency", "frame to verdict", "ms", ROUNDS)
    add("latency", "decision, passed", "ms", [[0.002, 0.002, 0.003]] * 7)
    add("memory", "rss", "MB", [[200.0]])
    add("memory", "growth", "MB", [[0.0]])
    add("memory", "size of the frame", "kB", [], "neither")
    add("parity", "score difference", "1", [])
    add("throughput", "rate", "1/s", [[5.0]], "higher")
    return found


def said(tmp_path: Path, before: Results, after: Results, *more: str) -> int:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, results in zip(files, (before, after), strict=True):
        results.write(file)
    return compare.main([*map(str, files), *more])


def test_doubled_memory_is_told_and_nothing_goes_unsaid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = said(tmp_path, results_of(), results_of(2.0))
    lines = capsys.readouterr().out.splitlines()
    assert ended == 1
    (memory,) = (line for line in lines if "rss" in line)
    assert "one measurement each" in memory
    assert memory.endswith("worse")
    (time,) = (line for line in lines if "frame to verdict" in line)
    assert time.endswith("slower")
    unjudged = [line.removeprefix("not judged: ours: ") for line in lines if line.startswith("not judged")]
    assert unjudged == [
        "decision, passed: 0.002 -> 0.004 ms; it is too short for what it is told to",
        "growth: 0 -> 0 MB; nothing has no ratio",
        "size of the frame: 1 -> 2 kB; neither more nor less of it is better",
        "score difference: 1 -> 2 1; it was not measured in rounds",
        "rate: 5 -> 10 1/s; no yardstick ran beside it",
    ]


def test_what_cannot_be_told_says_what_could_have_been(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(tmp_path, results_of(), results_of()) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "not distinguishable" in line]
    assert len(lines) == 2
    assert "(below 0.970 or above 1.030 it would be)" in lines[1]  # memory: the resolution alone
    said(tmp_path, results_of(), results_of(), "--json", "--only", "frame")
    found = json.loads(capsys.readouterr().out)
    ((below, above),) = (each["told_beyond"] for each in found["ratios"])
    assert 0.9 < below < 0.97 < 1.03 < above < 1.1


def test_what_only_one_file_has_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = results_of(), results_of()
    after.rows[0] = after.rows[0].model_copy(update={"what": "frame to verdict, passed"})
    before.backends["ours"], after.backends["ours"] = "openvino-int8+bf16", "openvino-int8"
    said(tmp_path, before, after)
    lines = capsys.readouterr().out.splitlines()
    assert "differs: only in A: ours: frame to verdict" in lines
    assert "differs: only in B: ours: frame to verdict, passed" in lines
    assert "differs: ours ran as openvino-int8+bf16 -> openvino-int8" in lines
    with pytest.raises(CallError, match="no figure in common"):
        said(tmp_path, before, Results(environment={}, command=[]))
    with pytest.raises(CallError, match="--only nosuch: is in the name of no figure"):
        said(tmp_path, before, after, "--only", "nosuch")


@pytest.mark.parametrize(("launches", "judged"), [(1, False), (5, False), (6, True)])
def test_times_of_few_rounds_are_not_judged(
    launches: int, judged: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for scale in (1.0, 2.0):
        rounds = [[10.0 * scale]] * launches
        results = Results(environment={}, command=[], yardsticks={"latency": [[1.0]] * launches})
        results.rows.append(row("latency", "ours", "frame to verdict", "ms", rounds[0], "lower", rounds))
        found.append(results)
    assert said(tmp_path, *found) == int(judged)
    told = capsys.readouterr().out
    assert ("fewer than 6 rounds" in told) is not judged
    assert ("slower" in told) is judged


def test_what_measured_other_work_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = results_of(), results_of()
    before.environment.update(bundle="slim-1", source=None, size="1024x1024", threads="0")
    after.environment.update(bundle="full-2", source=None, size="1024x1024", threads="1")
    said(tmp_path, before, after)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("differs")]
    assert told == ["differs: bundle: slim-1 -> full-2", "differs: threads: 0 -> 1"]
