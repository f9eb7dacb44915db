"""``python -m benchmarks compare A.json B.json``: what B does faster or slower than A, or that it cannot be told.

A network that never changes ran before and after every turn of both; figures are compared in its measure, so that a
machine that was busier, hotter or clocked lower the second time is not taken for a slower build. An interval comes from
4000 draws of launches and rounds; only what lies beyond 3 % with all of it is called a difference.
Measure both with --launches 7 or more: of fewer, one odd launch decides. Where other programs share the machine, short
turns on one core (taskset -c 1 ... --threads 1 --rounds 10 --seconds 0.03) see least of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.intervals import Interval, Judgement, changed, judge
from benchmarks.results import CPU, Results, Row, read_results
from runtime.errors import CallError, Parser, exit_with_code

MACHINE = ("machine", "cpu", "cores", "gpu", "model", "power_mode", "governor")
SOFTWARE = ("versions", "python", "commit")


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code: 1 where something became slower."""
    options = Parser(
        prog="python -m benchmarks compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("before", type=Path, metavar="A.json")
    options.add_argument("after", type=Path, metavar="B.json")
    options.add_argument("--only", default="", help="figures whose name has this in it, as 'frame to verdict'")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = options.parse_args(arguments)
    before, after = read_results(chosen.before), read_results(chosen.after)
    found = [each for each in compare(before, after) if chosen.only in each[0].what]
    if not found:
        raise CallError(
            "the two files have no figure in common that was measured in rounds; measure the same benchmark"
        )
    if chosen.json:
        print(json.dumps({"ratios": [as_dict(*each) for each in found], "differs": differences(before, after)}))
    else:
        print(table(found, differences(before, after)))
    return int(any(judgement == "slower" for _, _, judgement in found))


def compare(before: Results, after: Results) -> list[tuple[Row, Interval, Judgement]]:
    """Every figure of rounds that both have, as ``after`` over ``before``. Raises CallError where they have no measure."""
    if before.yardstick != after.yardstick:
        raise CallError(
            "the two files were measured by different yardsticks; measure both with one version of this tool"
        )
    known = {(row.benchmark, row.name, row.what): row for row in before.rows if row.rounds}
    found = []
    for row in after.rows:
        old = known.get((row.benchmark, row.name, row.what))
        if old is None or not row.rounds or row.better == "neither" or not _positive(old, row):
            continue
        stick = f"{row.benchmark}{CPU}" if row.what.endswith(CPU) else row.benchmark
        if stick not in before.yardsticks or stick not in after.yardsticks:
            continue
        sticks = before.yardsticks[stick], after.yardsticks[stick]
        if row.better == "higher":  # a rate falls where the yardstick's time rises
            sticks = _inverse(sticks[0]), _inverse(sticks[1])
        if row.unit not in ("ms", "s", "1/s"):  # bytes do not depend on how fast the machine is
            sticks = _ones(old.rounds), _ones(row.rounds)
        ratio = changed(old.rounds, row.rounds, *sticks)
        found.append((row, ratio, judge(ratio, row.better == "higher")))
    return found


def differences(before: Results, after: Results) -> list[str]:
    """What of machine and software is not the same, for people to weigh."""
    return [
        f"{key}: {before.environment.get(key)} -> {after.environment.get(key)}"
        for key in (*MACHINE, *SOFTWARE)
        if before.environment.get(key) != after.environment.get(key)
    ]


def as_dict(row: Row, ratio: Interval, judgement: Judgement) -> dict[str, object]:
    """For JSON."""
    return {
        "benchmark": row.benchmark, "of": row.name, "what": row.what, "median": ratio.median, "low": ratio.low,
        "high": ratio.high, "judgement": judgement,
    }  # fmt: skip


def table(found: list[tuple[Row, Interval, Judgement]], differ: list[str]) -> str:
    """For a terminal."""
    width = max(len(f"{row.name}: {row.what}") for row, _, _ in found)
    lines = [f"{'B over A':{width}}  {'ratio':>7}  95 % interval"]
    for row, ratio, judgement in found:
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
        lines.append(f"{f'{row.name}: {row.what}':{width}}  {ratio.median:7.3f}  {interval}  {judgement}")
    return "\n".join([*lines, *(f"differs: {line}" for line in differ)])


def _positive(*rows: Row) -> bool:
    return all(value > 0 for row in rows for launch in row.rounds for value in launch)


def _inverse(launches: list[list[float]]) -> list[list[float]]:
    return [[1 / value for value in launch] for launch in launches]


def _ones(launches: list[list[float]]) -> list[list[float]]:
    return [[1.0] * len(launch) for launch in launches]


if __name__ == "__main__":
    exit_with_code(main)
