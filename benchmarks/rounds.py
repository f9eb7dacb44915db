"""Contenders in turn, round after round, in several launches: what slows the machine meets all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dskd.benchmarks import yardstick
from dskd.benchmarks.processes import Reply
from dskd.benchmarks.progress import Progress
from dskd.benchmarks.results import CPU, Better, Row, row

Tasks = Mapping[str, Callable[[], Reply]]  # by contender: one turn, which answers with times


@dataclass
class Measured:
    """Values by (contender, figure): launches of rounds of values."""

    values: dict[tuple[str, str], list[list[list[float]]]] = field(default_factory=dict)
    yardstick: list[list[float]] = field(default_factory=list)  # ms of the same work in every round
    yardstick_cpu: list[list[float]] = field(default_factory=list)  # the same in processor time
    others: list[float] = field(default_factory=list)  # share of the machine that other programs took, each turn

    def yardsticks(self, benchmark: str) -> dict[str, list[list[float]]]:
        """As results keep them."""
        return {benchmark: self.yardstick, f"{benchmark}{CPU}": self.yardstick_cpu}

    def figures(self, name: str) -> list[str]:
        """What is known of a contender."""
        return [what for who, what in self.values if who == name]

    def row(self, benchmark: str, name: str, what: str, unit: str = "ms", better: Better = "lower") -> Row:
        """All of one figure."""
        launches = self.values[name, what]
        every = [value for launch in launches for turn in launch for value in turn]
        medians = [[float(np.median(turn)) for turn in launch] for launch in launches]
        return row(benchmark, name, what, unit, every, better, medians)


def measure(
    launch: Callable[[], AbstractContextManager[Tasks]], launches: int, rounds: int, quiet: bool = False
) -> Measured:
    """Every contender once a round, in an order drawn anew each time."""
    measured, random, progress = Measured(), np.random.default_rng(0), Progress("round", launches * rounds, quiet)
    for number in range(launches):
        with launch() as tasks:
            measured.yardstick.append([])
            measured.yardstick_cpu.append([])
            for _ in range(rounds):
                sticks = [yardstick.measured()]
                for name in random.permutation(list(tasks)):
                    before = _ticks()
                    answer = tasks[name]()
                    measured.others.append(_others(before, _ticks()))
                    for what, turn in answer["times"].items():
                        every = measured.values.setdefault((str(name), what), [])
                        every.extend([] for _ in range(number + 1 - len(every)))
                        every[number].append(turn)
                    sticks.append(yardstick.measured())  # before and after every turn: speed changes within seconds
                wall, cpu = np.mean(sticks, axis=0)
                measured.yardstick[-1].append(float(wall))
                measured.yardstick_cpu[-1].append(float(cpu))
                progress.step()
    return measured


def _ticks() -> tuple[int, int, int]:
    """Clock ticks that this program and its workers had, that all programs had, and that passed on all cores."""
    try:
        every = [int(number) for number in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
        workers = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
        ours = sum(_own_ticks(pid) for pid in ("self", *workers))
    except OSError:
        return 0, 0, 0
    return ours, sum(every) - every[3] - every[4], sum(every)  # not idle, not waiting for a disk


def _own_ticks(pid: str) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _others(before: tuple[int, int, int], after: tuple[int, int, int]) -> float:
    """The share of the machine that other programs took in between, 0 to 1."""
    ours, busy, passed = (late - early for early, late in zip(before, after, strict=True))
    return max(busy - ours, 0) / passed if passed else 0.0
