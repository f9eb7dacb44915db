"""``python -m benchmarks tiles``: what a large frame costs in tiles, and whether that grows as their number does.

A process for each size of frame and each contender, all of them at once: some hundred MB for 2048x2048 pixels, one GB for
8192x8192. ``a tile`` is a frame's time over its number of tiles; the ratios say what a tile of a larger frame takes in
tiles of the smallest. ``peak`` is a process' most memory; ``frame and merged map`` is the part of it that grows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from dskd.benchmarks.contenders import (
    Contestant,
    add_options,
    blank,
    check,
    contestants,
    finish,
    own_bundle,
)  # fmt: skip
from dskd.benchmarks.processes import Reply, Worker
from dskd.benchmarks.results import Results, ratio, row
from dskd.benchmarks.rounds import Tasks, measure
from dskd.benchmarks.tile_worker import in_tiles
from dskd.runtime.errors import CallError, Parser, exit_with_code

NAME = "tiles"
LARGEST = 16384  # pixels: 5,300 tiles of 256
WORKER = (sys.executable, "-m", "dskd.benchmarks.tile_worker")


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        prog="python -m benchmarks tiles", description=__doc__, examples="python -m benchmarks tiles --out tiles.json"
    )
    add_options(options, ("bundle", "backend", "precision", "threads", "launches", "rounds"), rounds=7, launches=1)
    options.add_argument("--sides", default="2048,4096,8192", help="of square frames, in pixels (default: %(default)s)")
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    return finish(run(options, blank(["tiles", *arguments])), options)


def run(options: argparse.Namespace, results: Results) -> Results:
    """Measures and adds to ``results``."""
    check(options)
    bundle = own_bundle(options)
    tiling = in_tiles(bundle).manifest.input.tiling
    assert tiling is not None
    sides = _sides(options.sides, tiling.side)
    chosen = contestants(bundle, options, results)
    found: dict[str, dict[str, list[float]]] = {}  # by contender and size: peaks of all launches, and what is known

    @contextmanager
    def launch() -> Iterator[Tasks]:
        with ExitStack() as stack:
            workers = {
                _called(each, side): stack.enter_context(_worker(each, side)) for each in chosen for side in sides
            }
            tasks: dict[str, Callable[[], Reply]] = {n: partial(w.ask, "inspect") for n, w in workers.items()}
            yield tasks
            for name, worker in workers.items():
                known = found.setdefault(name, {"peak": [], "tiles": [], "frame and merged map": []})
                known["peak"].append(worker.memory()["peak"])
                known["tiles"].append(worker.ready["tiles"])
                known["frame and merged map"].append(worker.ready["bytes"] / 1e6)

    measured = measure(launch, options.launches, options.rounds, options.json)
    results.rows.extend(measured.row(NAME, name, what) for name, what in measured.values)
    for name, known in found.items():
        results.rows.append(row(NAME, name, "tiles", "1", known["tiles"], "neither"))
        results.rows.append(row(NAME, name, "peak", "MB", known["peak"], rounds=[[peak] for peak in known["peak"]]))
        results.rows.append(row(NAME, name, "frame and merged map", "MB", known["frame and merged map"], "neither"))
    of_a_tile = {each.name: each for each in results.rows if (each.benchmark, each.what) == (NAME, "a tile")}
    for each in chosen:
        smallest = of_a_tile[_called(each, sides[0])]
        results.ratios.extend(ratio(of_a_tile[_called(each, side)], smallest) for side in sides[1:])
    results.yardsticks.update(measured.yardsticks(NAME))
    results.rows.append(row(NAME, "machine", "taken by other programs", "%", [100 * s for s in measured.others]))
    return results


def _called(contestant: Contestant, side: int) -> str:
    return f"{contestant.name}, {side}x{side}"


def _worker(contestant: Contestant, side: int) -> Worker:
    words = ["--bundle", contestant.bundle, "--backend", contestant.backend, "--precision", contestant.precision]
    words += ["--threads", contestant.threads, "--side", side]
    return Worker([*WORKER, *words], name=_called(contestant, side))


def _sides(given: str, least: int) -> list[int]:
    """Whole numbers separated by commas, in order. Raises CallError."""
    found = sorted({int(part) for part in given.split(",") if part.isdecimal() and least <= int(part) <= LARGEST})
    if not found or len(found) != len(given.split(",")):
        raise CallError(
            f"--sides {given}: write pixels between {least} (a tile) and {LARGEST} separated by commas, as 2048,4096"
        )
    return found


if __name__ == "__main__":
    exit_with_code(main)
