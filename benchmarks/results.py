"""What a measurement leaves: one JSON object that is compared, drawn and reported from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError

from dskd.benchmarks.intervals import Launches, paired_ratio, quantiles
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import read_regular
from dskd.runtime.configuration.strict_yaml import Strict, first_fault
from dskd.runtime.errors import CallError

LARGEST = 64 << 20  # bytes of a results file: a day of rounds
Finite = Annotated[float, Field(allow_inf_nan=False)]
Better = Literal["lower", "higher", "neither"]
END_TO_END, NETWORK, STORED = "frame to verdict", "bare network", "frame to next frame, stored"
CPU = ", CPU"  # after the name of a figure that is processor time
WORK = ("bundle", "source", "size", "threads")  # in the environment: results that differ in these are of different work
PASSED, FLAGGED = ", passed", ", flagged"  # after that of one kind of frames: a map is asked for of flagged ones alone


class Row(Strict):
    """One figure of one contender."""

    benchmark: str
    name: str = Field(description="who")
    what: str = Field(description="which of its figures")
    unit: str
    better: Better = "lower"
    median: Finite
    p10: Finite
    p90: Finite
    p99: Finite
    max: Finite
    n: int
    rounds: list[list[Finite]] = Field([], description="a median for each round of each launch, for compare")


class Ratio(Strict):
    """``of`` over ``to``, from the same rounds, with its 95 % interval."""

    benchmark: str
    of: str
    to: str
    what: str
    median: Finite
    low: Finite
    high: Finite

    @property
    def interval(self) -> str:
        """As tables show it; a single round has none."""
        return "no spread" if self.low == self.high else f"{self.low:.3f} to {self.high:.3f}"


class Floor(Strict):
    """What the device could do at best: the larger of MACs over its peak and bytes over its bandwidth."""

    name: str
    macs: float
    bytes: float
    peak_macs: float = Field(description="a second, of large convolutions in the same backend and precision")
    bandwidth: float = Field(description="bytes a second, read and written by copies")
    floor_ms: Finite
    measured_ms: Finite

    @property
    def share(self) -> float:
        """How much of the floor is reached, 1 at best."""
        return self.floor_ms / self.measured_ms


class Results(Strict):
    """All that was measured in one go, on one machine."""

    schema_version: Literal[1] = 1
    environment: dict[str, JsonValue]
    command: list[str]
    rows: list[Row] = Field([])
    ratios: list[Ratio] = Field([])
    floors: list[Floor] = Field([])
    yardstick: str = Field("", description="what the yardsticks ran")
    yardsticks: dict[str, list[list[Finite]]] = Field({}, description="of each benchmark, for each round")
    notes: list[str] = Field([], description="what was left out, and why")
    remarks: list[str] = Field([], description="what befell a contender while it was measured")
    backends: dict[str, str] = Field({}, description="what each contender really ran as, in its own words")

    def write(self, file: Path) -> None:
        """Writes the JSON, whole or not at all."""
        atomic.write_text(file, self.model_dump_json(indent=1) + "\n")

    def add(self, other: Results) -> None:
        """Takes in what another benchmark of the same run measured."""
        self.rows.extend(other.rows)
        self.ratios.extend(other.ratios)
        self.floors.extend(other.floors)
        self.yardsticks.update(other.yardsticks)
        self.notes.extend(note for note in other.notes if note not in self.notes)
        self.remarks.extend(other.remarks)
        self.backends.update(other.backends)


def row(
    benchmark: str, name: str, what: str, unit: str, values: Sequence[float], better: Better = "lower",
    rounds: Launches = (),
) -> Row:  # fmt: skip
    """Quantiles over all ``values``."""
    kept = [list(launch) for launch in rounds]
    return Row(
        benchmark=benchmark, name=name, what=what, unit=unit, better=better, n=len(values), rounds=kept,
        **quantiles(values),
    )  # fmt: skip


def ratio(of: Row, to: Row) -> Ratio:
    """Both rows from the same rounds."""
    found = paired_ratio(of.rounds, to.rounds)
    what = of.what if of.what == to.what else f"{of.what} / {to.what}"
    return Ratio(
        benchmark=of.benchmark, of=of.name, to=to.name, what=what, median=found.median, low=found.low, high=found.high
    )


def read_results(file: Path) -> Results:
    """A results file. Raises CallError where it is none."""
    try:
        return Results.model_validate_json(read_regular(file, LARGEST))
    except OSError as error:
        raise CallError(f"{file}: cannot be read ({error.strerror}); name a file that a benchmark wrote") from error
    except ValidationError as error:
        raise CallError(f"{file}: is no results file ({first_fault(error)}); measure again") from error


def as_json(results: Results) -> str:
    """One object on one line."""
    return json.dumps(results.model_dump(mode="json"), allow_nan=False)


def table(results: Results) -> str:
    """Figures, ratios, floors and notes for a terminal."""
    lines = []
    for benchmark in dict.fromkeys(each.benchmark for each in results.rows):
        rows = [each for each in results.rows if each.benchmark == benchmark]
        width = max(len(each.name) for each in rows)
        wide = max(len(each.what) for each in rows)
        lines.append(f"\n{benchmark:{width}}  {'':{wide}}  {'p50':>10} {'p90':>10} {'p99':>10} {'max':>10}  unit")
        lines += [
            f"{e.name:{width}}  {e.what:{wide}}  {e.median:10.4g} {e.p90:10.4g} {e.p99:10.4g} {e.max:10.4g}  {e.unit}"
            for e in rows
        ]
    if results.ratios:
        lines.append("\nratios, from the same rounds (95 % interval)")
        for r in results.ratios:
            who = r.of if r.of == r.to else f"{r.of} / {r.to}"
            lines.append(f"{who}, {r.what}: {r.median:.3f} ({r.interval})")
    if results.floors:
        lines.append("\nwhat the machine could do at best")
        lines += [
            f"{f.name}: {f.measured_ms:.2f} ms measured, {f.floor_ms:.2f} ms at {f.peak_macs / 1e9:.0f} GMAC/s and "
            f"{f.bandwidth / 1e9:.1f} GB/s: {f.share:.0%} reached"
            for f in results.floors
        ]
    lines += ["\nran as", *(f"{name}: {ran}" for name, ran in results.backends.items())] if results.backends else []
    lines += [f"note: {remark}" for remark in results.remarks]
    return "\n".join([*lines, *(f"left out: {note}" for note in results.notes)])
