"""``python -m benchmarks memory``: what a running inspection holds, whether it grows, and what one frame costs.

``rss`` is what lies in memory, ``pss`` counts what is shared with other processes by its share, ``peak`` is the most so
far. Growth is the least that was held in the last quarter less the least in the second: the first may fill caches. A
steady leak grows between the two by what half of the frames leave. ``--frames 100000`` is the test of constant memory,
which finds ten bytes a frame; its frames come from memory.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

import numpy as np

from dskd.benchmarks.contenders import (
    Contestant,
    add_options,
    blank,
    check,
    contestants,
    finish,
    own_bundle,
    pictures,
)  # fmt: skip
from dskd.benchmarks.processes import Reply, Worker
from dskd.benchmarks.progress import Progress
from dskd.benchmarks.results import Results, Row, row
from dskd.jetson.machine import Machine
from dskd.runtime.errors import CallError, DskdError, Parser, exit_with_code

NAME = "memory"
LOOKS = 100  # at the process, while it inspects
PROFILED = 50  # frames whose allocations are looked at
FLAT = 0.4  # MB; a hundred pages more or less are no leak, ten bytes of each of 50,000 frames are 0.5 MB and one
OFFERS = ("bundle", "source", "size", "backend", "precision", "threads")  # frames are counted, not timed


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        prog="python -m benchmarks memory",
        description=__doc__,
        examples="python -m benchmarks memory --bundle runs/latest/bundle --frames 2000",
    )
    add_options(options, OFFERS)
    options.add_argument("--frames", type=int, default=500, help="that each contender inspects (default: %(default)s)")
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code: 1 where memory grew."""
    options = parser().parse_args(arguments)
    results = run(options, blank(["memory", *arguments]))
    finish(results, options)
    grown = [each for each in results.rows if each.what == "growth" and each.median > FLAT]
    if grown:
        raise DskdError(f"{grown[0].name}: memory grew by {grown[0].median:.2f} MB in {options.frames} frames")
    return 0


def run(options: argparse.Namespace, results: Results) -> Results:
    """Measures and adds to ``results``."""
    check(options)
    if not 100 <= options.frames <= 100_000_000:
        raise CallError(f"--frames {options.frames} must lie between 100 and 100000000")
    bundle = own_bundle(options)
    chosen = contestants(bundle, options, results)
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        source = pictures(bundle, options, Path(folder))
        for contestant in chosen:
            _one(contestant, source, options, results)
    return results


def _one(contestant: Contestant, source: str, options: argparse.Namespace, results: Results) -> None:
    free = available(Machine())
    with contestant.worker(source) as worker:
        looks, seconds = watched(worker, options.frames, Progress(contestant.name, LOOKS, options.json))
        for kind in looks[0]:
            results.rows.append(once(contestant.name, kind, "MB", [look[kind] for look in looks]))
        if gpu := gpu_memory(worker.pid):
            results.rows.append(once(contestant.name, "GPU", "MB", [gpu]))
        elif free is not None and "gpu" in results.environment:
            used = free - (available(Machine()) or 0.0)  # CPU and GPU share it, and the driver's part is in no process
            results.rows.append(once(contestant.name, "whole machine", "MB", [used]))
        results.rows.append(row(NAME, contestant.name, "growth", "MB", [growth([look["rss"] for look in looks])]))
        results.rows.append(row(NAME, contestant.name, "rate", "1/s", [options.frames / seconds], "higher"))
        costs(contestant.name, worker.ask("allocations", count=PROFILED), results)


def watched(worker: Worker, frames: int, progress: Progress) -> tuple[list[dict[str, float]], float]:
    """Memory after each hundredth of ``frames``, and the seconds they took."""
    looks, seconds = list[dict[str, float]](), 0.0
    for number in range(LOOKS):
        count = frames * (number + 1) // LOOKS - frames * number // LOOKS
        seconds += worker.ask("many", count=count)["seconds"]
        looks.append(worker.memory())
        progress.step()
    return looks, seconds


def growth(held: list[float]) -> float:
    """The least of the last quarter less the least of the second one."""
    quarter = len(held) // 4
    return min(held[-quarter:]) - min(held[quarter : 2 * quarter])


def once(name: str, what: str, unit: str, values: list[float]) -> Row:
    """A size: what else the machine did does not show in it, so that its median alone can be compared."""
    return row(NAME, name, what, unit, values, rounds=[[float(np.median(values))]])


def costs(name: str, found: Reply, results: Results) -> None:
    """Rows for one frame."""
    pages = [float(pages) for pages in found["faults"]]
    for kind in dict.fromkeys(found["kinds"]):
        most = [b / 1e3 for b, its in zip(found["most"], found["kinds"], strict=True) if its == kind]
        results.rows.append(once(name, f"allocated at most in a frame{kind}", "kB", most))
    results.rows.append(row(NAME, name, "left behind by a frame", "B", found["left"]))
    results.rows.append(row(NAME, name, "pages touched anew in a frame", "1", pages))
    sizes = {"frame": "frame", "input": "network's input", "map": "map, where asked for"}
    for key, what in sizes.items():
        results.rows.append(row(NAME, name, f"size of the {what}", "kB", [found[key] / 1e3], "neither"))


def available(machine: Machine) -> float | None:
    """MB that programs may still have."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", machine.text("/proc/meminfo") or "")
    return None if found is None else int(found[1]) * 1.024 / 1e3


def gpu_memory(pid: int, machine: Machine | None = None) -> float | None:
    """MB of a GPU with memory of its own that a process holds; None where nvidia-smi knows of none (a Jetson)."""
    query = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    said = (machine or Machine()).run(*query) or ""
    held = [int(size) for owner, size in re.findall(r"^(\d+), (\d+)$", said, re.M) if int(owner) == pid]
    return sum(held) * 1.048576 if held else None


if __name__ == "__main__":
    exit_with_code(main)
