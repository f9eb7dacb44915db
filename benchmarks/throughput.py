"""``python -m benchmarks throughput``: images a second by batch size, and by number of cameras at one station.

Batches go through the bare network. Cameras always have a frame ready and go through the inspection thread of a
station, which takes them in turn and makes batches of what it finds. ``fairness`` is the count of the camera that was
served least over that of the one served most.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dskd.benchmarks.contenders import (
    add_options,
    blank,
    check,
    contestants,
    finish,
    own_bundle,
    pictures,
    working,
)  # fmt: skip
from dskd.benchmarks.processes import Reply, Worker
from dskd.benchmarks.results import Results, ratio, row
from dskd.benchmarks.rounds import Tasks, measure
from dskd.runtime.errors import CallError, Parser, exit_with_code

NAME = "throughput"


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        prog="python -m benchmarks throughput",
        description=__doc__,
        examples="python -m benchmarks throughput --bundle runs/latest/bundle",
    )
    add_options(options, rounds=5, seconds=2.0, launches=1)
    options.add_argument("--batches", default="1,2,4,8", help="up to the bundle's largest (default: %(default)s)")
    options.add_argument("--cameras", default="1,2,4,8", help="at one station (default: %(default)s)")
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    return finish(run(options, blank(["throughput", *arguments])), options)


def run(options: argparse.Namespace, results: Results) -> Results:
    """Measures and adds to ``results``."""
    check(options)
    bundle = own_bundle(options)
    cameras = numbers("--cameras", options.cameras)
    asked, most = numbers("--batches", options.batches), bundle.manifest.max_batch
    batches = [batch for batch in asked if batch <= most]
    if larger := ", ".join(str(batch) for batch in asked if batch > most):
        results.notes.append(f"batch {larger}: the bundle takes {most} at most; export it with a larger --batch")
    chosen = contestants(bundle, options, results)
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        source = pictures(bundle, options, Path(folder))

        @contextmanager
        def launch() -> Iterator[Tasks]:
            with working(chosen, source) as workers:
                tasks: dict[str, Callable[[], Reply]] = {}
                for name, worker in workers.items():
                    tasks |= {f"{name}, batch {n}": partial(_batch, worker, n, options.seconds / 2) for n in batches}
                    tasks |= {f"{name}, cameras {n}": partial(_cameras, worker, n, options.seconds) for n in cameras}
                yield tasks

        measured = measure(launch, options.launches, options.rounds, options.json)
    units = {"rate": "1/s", "wait": "ms", "fairness": "least/most"}
    for name, what in measured.values:
        results.rows.append(measured.row(NAME, name, what, units[what], "lower" if what == "wait" else "higher"))
    rates = {each.name: each for each in results.rows if (each.benchmark, each.what) == (NAME, "rate")}
    for each in chosen:
        results.ratios.extend(
            [
                ratio(rates[f"{each.name}, {kind} {n}"], rates[f"{each.name}, {kind} {several[0]}"])
                for kind, several in (("batch", batches), ("cameras", cameras))
                for n in several[1:]
            ]
        )
    results.yardsticks.update(measured.yardsticks(NAME))
    results.rows.append(row(NAME, "machine", "taken by other programs", "%", [100 * s for s in measured.others]))
    return results


def numbers(option: str, given: str) -> list[int]:
    """Whole numbers separated by commas, in order. Raises CallError."""
    found = sorted({int(part) for part in given.split(",") if part.isdecimal() and 0 < int(part) <= 256})
    if not found or len(found) != len(given.split(",")):
        raise CallError(f"{option} {given}: write numbers between 1 and 256 separated by commas, as 1,2,4,8")
    return found


def _batch(worker: Worker, batch: int, seconds: float) -> Reply:
    times = worker.ask("network", seconds=seconds, batch=batch)["times"]["bare network"]
    return {"times": {"rate": [1e3 * batch / milliseconds for milliseconds in times]}}


def _cameras(worker: Worker, cameras: int, seconds: float) -> Reply:
    found = worker.ask("streams", seconds=seconds, cameras=cameras)
    fairness = min(found["counts"]) / max(max(found["counts"]), 1)
    return {"times": {"rate": [found["rate"]], "wait": found["waits"], "fairness": [fairness]}}


if __name__ == "__main__":
    exit_with_code(main)
