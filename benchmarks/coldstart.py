"""``python -m benchmarks coldstart``: from the start of a process to its first verdict, and the most memory it held.

Ours is ``python -m runtime`` as it ships: imports, every byte of the bundle checked, the backend opened and proved on
the golden frames, a frame of ``--size`` read from disk and judged. Contenders start in turn; the first start of each is
not counted, so that the disk's cache is warm for all.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2

from benchmarks.contenders import (
    Contestant,
    add_options,
    blank,
    check,
    contestants,
    enlarged,
    finish,
    own_bundle,
)  # fmt: skip
from benchmarks.processes import Answer, kilobytes, object_of
from benchmarks.results import Results, ratio
from benchmarks.rounds import Tasks, measure
from runtime.errors import DskdError, Parser, exit_with_code, one_line

NAME = "coldstart"
FIRST, PEAK = "process start to first verdict", "peak memory"
LOOK = 0.005  # seconds between looks at a process' memory


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        prog="python -m benchmarks coldstart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(options, rounds=7, launches=1)
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    return finish(run(options, blank(["coldstart", *arguments])), options)


def run(options: argparse.Namespace, results: Results) -> Results:
    """Measures and adds to ``results``."""
    check(options)
    bundle = own_bundle(options)
    chosen, notes = contestants(bundle, options)
    results.notes.extend(notes)
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        picture = Path(folder) / "frame.png"
        cv2.imwrite(str(picture), enlarged(bundle, options.size)[0])
        calls = {each.name: partial(started, words(each, picture)) for each in chosen}
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
    for what, unit in ((FIRST, "s"), (PEAK, "MB")):
        rows = {name: measured.row(benchmark, name, what, unit) for name in calls}
        results.rows.extend(rows.values())
        results.ratios.extend(ratio(rows[name], rows[first]) for name in calls if name != first)
    results.yardsticks.update(measured.yardsticks(benchmark))


def words(contestant: Contestant, picture: Path) -> list[str]:
    """The command that a user would give."""
    options = ["--bundle", contestant.bundle, "--source", picture, "--sink", "jsonl://-"]
    options += ["--backend", contestant.backend, "--precision", contestant.precision, "--threads", contestant.threads]
    return [sys.executable, "-m", "runtime", *map(str, options)]


def started(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Answer:
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
