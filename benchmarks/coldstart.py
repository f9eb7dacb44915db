"""``python -m benchmarks coldstart``: from the start of a process to its first verdict, and the most memory it held.

Ours is ``python -m runtime`` as it ships, with one frame of ``--size`` on disk. As usual: it was started before. Every
file of the bundle is hashed but the graphs that are not used, a compiled INT8 graph is read from the user's cache where
the backend keeps one, and one golden frame proves the backend, because all of them did at an earlier start.
``..., empty caches``: a first start. The cache is an empty folder: graphs are compiled, and all golden frames are run.
Contenders start in turn, both ways; the first turn of each is not counted, so that the disk's cache is warm for all.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2

from dskd.benchmarks.contenders import (
    Contestant,
    add_options,
    blank,
    check,
    contestants,
    enlarged,
    finish,
    own_bundle,
)  # fmt: skip
from dskd.benchmarks.processes import Reply, kilobytes, object_of
from dskd.benchmarks.results import Results, ratio
from dskd.benchmarks.rounds import Tasks, measure
from dskd.runtime.errors import DskdError, Parser, exit_with_code, one_line

NAME = "coldstart"
FIRST, PEAK = "process start to first verdict", "peak memory"
EMPTY = ", empty caches"  # after the name of a figure
CACHES = ("XDG_CACHE_HOME", "CACHE_DIRECTORY", "CUDA_CACHE_PATH")  # where programs are told to keep what they made
LOOK = 0.005  # seconds between looks at a process' memory


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        prog="python -m benchmarks coldstart",
        description=__doc__,
        examples="python -m benchmarks coldstart --bundle runs/latest/bundle --rounds 20",
    )
    add_options(options, ("bundle", "size", "backend", "precision", "threads", "rounds"))
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    return finish(run(options, blank(["coldstart", *arguments])), options)


def run(options: argparse.Namespace, results: Results) -> Results:
    """Measures and adds to ``results``."""
    check(options)
    bundle = own_bundle(options)
    chosen = contestants(bundle, options, results)
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        picture = Path(folder) / "frame.png"
        cv2.imwrite(str(picture), enlarged(bundle, options.size)[0])
        calls = {each.name: both(each, picture) for each in chosen}
        tell(calls, options.rounds, results, NAME, options.json)
    return results


def tell(calls: Tasks, rounds: int, results: Results, benchmark: str, quiet: bool) -> None:
    """Rows of all contenders and their ratios to the first."""
    for call in calls.values():
        call()

    @contextmanager
    def launch() -> Iterator[Tasks]:
        yield calls

    measured = measure(launch, 1, rounds, quiet)
    first = next(iter(calls))
    for what, unit in ((FIRST, "s"), (FIRST + EMPTY, "s"), (PEAK, "MB"), (PEAK + EMPTY, "MB")):
        rows = {name: measured.row(benchmark, name, what, unit) for name in calls}
        results.rows.extend(rows.values())
        results.ratios.extend(ratio(rows[name], rows[first]) for name in calls if name != first)
    results.yardsticks.update(measured.yardsticks(benchmark))


def words(contestant: Contestant, picture: Path) -> list[str]:
    """The command that a user would give."""
    options = ["--bundle", contestant.bundle, "--source", picture, "--sink", "jsonl://-"]
    options += ["--backend", contestant.backend, "--precision", contestant.precision, "--threads", contestant.threads]
    return [sys.executable, "-m", "dskd.runtime", *map(str, options)]


def both(contestant: Contestant, picture: Path) -> Callable[[], Reply]:
    """Our turn: it keeps nothing but in the user's cache."""
    command = words(contestant, picture)
    return partial(twice, lambda folder: command, picture.parent)


def twice(command: Callable[[Path], Sequence[str]], kept: Path, environment: Mapping[str, str] | None = None) -> Reply:
    """A usual start, that finds what earlier ones left in ``kept`` and in the user's cache, and one that finds nothing.

    ``command`` by the folder that the program writes to.
    """
    times: dict[str, list[float]] = started(command(kept), environment)["times"]
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as empty:
        bare = {**(environment or {}), **dict.fromkeys(CACHES, empty)}
        first: dict[str, list[float]] = started(command(Path(empty)), bare)["times"]
    return {"times": times | {f"{what}{EMPTY}": values for what, values in first.items()}}


def started(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Reply:
    """Seconds until the process gave its first JSON object, and the most memory of its life. Raises DskdError."""
    with tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        assert process.stdout is not None
        ended = threading.Event()
        with ThreadPoolExecutor(1) as watcher:
            peak = watcher.submit(_peak, process.pid, ended)
            try:
                first = next((time.perf_counter() for line in process.stdout if object_of(line) is not None), None)
                process.stdout.read()
            finally:
                ended.set()
        process.wait()
        process.stdout.close()
        if first is None or process.returncode:
            errors.seek(0)
            said = one_line(errors.read().decode(errors="replace")[-300:])
            raise DskdError(f"{Path(command[0]).name} gave no verdict (exit code {process.returncode}): {said}")
    return {"times": {FIRST: [first - begun], PEAK: [peak.result()]}}


def _peak(pid: int, ended: threading.Event) -> float:
    """The most memory of a process until it has ``ended``, MB. wait4 would tell no less than what this one holds."""
    most = 0.0
    while not ended.wait(LOOK):
        most = kilobytes(f"/proc/{pid}/status").get("VmHWM", most)  # nothing once it is gone
    return most / 1e3


if __name__ == "__main__":
    exit_with_code(main)
