"""``python -m benchmarks compare A.json B.json``: what B does faster or slower than A, or that it cannot be told.

A network that never changes ran before and after every turn of both; times are compared in its measure, so that a
machine that was busier, hotter or clocked lower the second time is not taken for a slower build; sizes are better or
worse, whatever the machine did. An interval comes from 4000 draws of launches and rounds; only what lies beyond 3 %
with all of it is called a difference, and of the rest it is said how large a change would have been one. Figures that
both have and that cannot be judged are told with both values.
Measure both with --launches 7 or more: of fewer, one odd launch decides. Where other programs share the machine, short
turns on one core (taskset -c 1 ... --threads 1 --rounds 10 --seconds 0.03) see least of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dskd.benchmarks.intervals import Interval, changed, judge, told_beyond
from dskd.benchmarks.results import CPU, WORK, Results, Row, read_results
from dskd.runtime.errors import CallError, Parser, exit_with_code

MACHINE = ("machine", "cpu", "cores", "gpu", "model", "power_mode", "governor")
SOFTWARE = ("versions", "python", "commit")
FEWEST = 6  # rounds: of five, not even the smallest and the largest are 95 % sure to have the median between them
TIMED = ("ms", "s", "1/s")  # units of what hangs on how fast the machine is
SHORTEST = 0.033  # ms; stages are told to a microsecond, and 3 % of less are less than that
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Change:
    """One figure of B over the same of A."""

    row: Row
    ratio: Interval
    single: bool  # one measurement on either side: it has no interval

    @property
    def judgement(self) -> str:
        """``faster`` or ``slower``; of what is no time ``better`` or ``worse``; or ``not distinguishable``."""
        found = judge(self.ratio, self.row.better == "higher")
        words = {"faster": "better", "slower": "worse"} if self.row.unit not in TIMED else {}
        return words.get(found, found)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        row, ratio = self.row, self.ratio
        return {
            "benchmark": row.benchmark, "of": row.name, "what": row.what, "median": ratio.median, "low": ratio.low,
            "high": ratio.high, "judgement": self.judgement, "told_beyond": told_beyond(ratio),
        }  # fmt: skip

    def __str__(self) -> str:
        ratio, (low, high) = self.ratio, told_beyond(self.ratio)
        interval = "one measurement each" if self.single else f"{ratio.low:.3f} to {ratio.high:.3f}"
        unsure = f" (below {low:.3f} or above {high:.3f} it would be)" if self.judgement.startswith("not") else ""
        return f"{ratio.median:7.3f}  {interval:20}  {self.judgement}{unsure}"


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code: 1 where something became slower or worse."""
    options = Parser(
        prog="python -m benchmarks compare",
        description=__doc__,
        examples='python -m benchmarks compare before.json after.json --only "frame to verdict"',
    )
    options.add_argument("before", type=Path, metavar="A.json")
    options.add_argument("after", type=Path, metavar="B.json")
    options.add_argument("--only", default="", help="figures whose name has this in it, as 'frame to verdict'")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = options.parse_args(arguments)
    before, after = (only(read_results(file), chosen.only) for file in (chosen.before, chosen.after))
    found, unjudged = compare(before, after)
    if chosen.only and not found and not unjudged:
        raise CallError(f"--only {chosen.only}: is in the name of no figure that both files have")
    if not found and not unjudged:
        raise CallError("the two files have no figure in common; measure the same benchmark")
    differ = differences(before, after)
    if chosen.json:
        ratios = [change.as_dict() for change in found]
        print(json.dumps({"ratios": ratios, "not_judged": unjudged, "differs": differ}))
    else:
        print(table(found, unjudged, differ))
    return int(any(change.judgement in ("slower", "worse") for change in found))


def only(results: Results, part: str) -> Results:
    """Those figures that have ``part`` in their name."""
    return results.model_copy(update={"rows": [row for row in results.rows if part in row.what]})


def compare(before: Results, after: Results) -> tuple[list[Change], list[str]]:
    """What both have, as ``after`` over ``before``; and what of it cannot be judged, with both values and the reason.

    Raises CallError where the two have no measure in common.
    """
    if before.yardstick != after.yardstick:
        raise CallError(
            "the two files were measured by different yardsticks; measure both with one version of this tool"
        )
    known = {key_of(row): row for row in before.rows}
    found, unjudged = list[Change](), list[str]()
    for row in after.rows:
        old = known.get(key_of(row))
        if old is None:
            continue
        try:
            sticks = _measure(before, old), _measure(after, row)
        except ValueError as error:
            unjudged.append(f"{row.name}: {row.what}: {old.median:.4g} -> {row.median:.4g} {row.unit}; {error}")
            continue
        single = min(sum(map(len, each.rounds)) for each in (old, row)) == 1
        found.append(Change(row, changed(old.rounds, row.rounds, *sticks), single))
    return found, unjudged


def key_of(row: Row) -> Key:
    """Which figure it is."""
    return row.benchmark, row.name, row.what


def _measure(results: Results, row: Row) -> list[list[float]]:
    """What each round of a figure is held against. Raises ValueError with the reason where it cannot be judged."""
    if row.better == "neither":
        raise ValueError("neither more nor less of it is better")
    if not row.rounds:
        raise ValueError("it was not measured in rounds")
    if any(value <= 0 for launch in row.rounds for value in launch):
        raise ValueError("nothing has no ratio")
    if row.unit == "ms" and row.median < SHORTEST:
        raise ValueError("it is too short for what it is told to")
    if row.unit not in TIMED:
        return [[1.0] * len(launch) for launch in row.rounds]
    stick = results.yardsticks.get(f"{row.benchmark}{CPU}" if row.what.endswith(CPU) else row.benchmark)
    if stick is None:
        raise ValueError("no yardstick ran beside it")
    if sum(map(len, row.rounds)) < FEWEST:
        raise ValueError(f"fewer than {FEWEST} rounds do not tell; measure more")
    if row.better == "higher":  # a rate falls where the yardstick's time rises
        return [[1 / value for value in launch] for launch in stick]
    return stick


def differences(before: Results, after: Results) -> list[str]:
    """What of machine, software and figures is not the same, for people to weigh."""
    found = [
        f"{key}: {before.environment.get(key)} -> {after.environment.get(key)}"
        for key in (*WORK, *MACHINE, *SOFTWARE)
        if before.environment.get(key) != after.environment.get(key)
    ]
    found += [
        f"{name} ran as {before.backends[name]} -> {after.backends[name]}"
        for name in before.backends
        if name in after.backends and before.backends[name] != after.backends[name]
    ]
    for where, results, other in (("A", before, after), ("B", after, before)):
        had = {key_of(row) for row in other.rows}
        alone = [f"{row.name}: {row.what}" for row in results.rows if key_of(row) not in had]
        found += [f"only in {where}: {'; '.join(alone)}"] if alone else []
    return found


def table(found: list[Change], unjudged: list[str], differ: list[str]) -> str:
    """For a terminal."""
    names = [f"{change.row.name}: {change.row.what}" for change in found]
    width = max(map(len, names), default=0)
    lines = [f"{'B over A':{width}}  {'ratio':>7}  95 % interval"] if found else []
    lines += [f"{name:{width}}  {change}" for name, change in zip(names, found, strict=True)]
    return "\n".join([*lines, *(f"not judged: {each}" for each in unjudged), *(f"differs: {each}" for each in differ)])


if __name__ == "__main__":
    exit_with_code(main)
