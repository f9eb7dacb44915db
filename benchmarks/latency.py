"""``python -m benchmarks latency``: from frame to verdict, stage by stage, beside the bare network and the floor.

Every graph on every backend runs in a process of its own; they take turns, in several launches. ``frame to verdict`` is
what a part waits for: preprocessing, network and decision of a frame in memory. Of a frame that passes no map is asked
for; in the map of a flagged one regions are sought. The two kinds take turns, as many of each, and have rows of their
own: ``..., passed`` and ``..., flagged``. ``read`` is what the source takes to give a frame; it happens beside an
inspection. ``frame to next frame, stored`` is where frames never end and some are stored while the next are inspected:
what it takes over ``frame to verdict`` is the sinks' share.
Figures called CPU are processor time of all threads: on a machine that others use too they spread less.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
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
from dskd.benchmarks.floor import floors
from dskd.benchmarks.processes import Reply, Worker
from dskd.benchmarks.results import END_TO_END, FLAGGED, NETWORK, PASSED, STORED, Ratio, Results, Row, ratio, row
from dskd.benchmarks.rounds import Measured, Tasks, measure
from dskd.runtime.errors import CallError, Parser, exit_with_code

NAME = "latency"
EXAMPLES = """examples:
  python -m benchmarks latency --bundle runs/latest/bundle --out runs/latency.json
  python -m benchmarks latency --backend onnxruntime --precision fp32,int8 --launches 5
  python -m benchmarks compare runs/latency.json runs/latency-of-my-change.json"""


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        prog="python -m benchmarks latency", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_options(options)
    options.add_argument(
        "--sink", action="append", default=[], help="as of python -m runtime (default: a store of its own)"
    )
    options.add_argument("--no-floor", action="store_true", help="do not measure what the machine could do at best")
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    results = run(options, blank(["latency", *arguments]))
    return finish(results, options)


def run(options: argparse.Namespace, results: Results) -> Results:
    """Measures and adds to ``results``."""
    check(options)
    if "jsonl://-" in options.sink:
        raise CallError("--sink jsonl://-: standard output carries the measurement; name a file")
    bundle = own_bundle(options)
    chosen = contestants(bundle, options, results)
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        source = pictures(bundle, options, Path(folder))
        sinks = [part for sink in options.sink for part in ("--sink", sink)]

        @contextmanager
        def launch() -> Iterator[Tasks]:
            store = None if sinks else Path(folder)
            with working(chosen, source, *sinks, store=store) as workers:
                yield {name: partial(_turn, worker, options.seconds) for name, worker in workers.items()}

        measured = measure(launch, options.launches, options.rounds, options.json)
    results.add(tabled(measured, [each.name for each in chosen]))
    if not options.no_floor:
        networks = {r.name: r.median for r in results.rows if (r.benchmark, r.what) == (NAME, NETWORK)}
        results.add(floors(bundle, chosen, results.backends, networks))
    return results


def _turn(worker: Worker, seconds: float) -> Reply:
    """All in one turn, so that they can be divided by one another."""
    shares = {"inspect": 1.0, "network": 0.5, "stored": 0.5, "read": 0.25}
    answers = [worker.ask(work, seconds=share * seconds) for work, share in shares.items()]
    return {"times": {what: times for answer in answers for what, times in answer["times"].items()}}


def tabled(measured: Measured, names: list[str]) -> Results:
    """Rows of all figures; ratios of end to end to network, and of every contender to the first."""
    results = blank([])
    rows = {(name, what): measured.row(NAME, name, what) for name in names for what in measured.figures(name)}
    results.rows.extend(rows.values())
    for name in names:
        results.ratios.extend(shares({what: found for (who, what), found in rows.items() if who == name}))
    results.ratios.extend([ratio(rows[name, END_TO_END], rows[names[0], END_TO_END]) for name in names[1:]])
    results.yardsticks.update(measured.yardsticks(NAME))
    results.rows.append(row(NAME, "machine", "taken by other programs", "%", [100 * s for s in measured.others]))
    return results


def shares(rows: dict[str, Row]) -> list[Ratio]:
    """Of one contender's figures: end to end over the network, decision and storing over end to end, for each kind."""
    whole = rows[END_TO_END]
    found = [ratio(whole, rows[NETWORK])]
    for kind in (PASSED, FLAGGED):
        its = rows.get(f"{END_TO_END}{kind}")
        if its is not None and list(map(len, its.rounds)) == list(map(len, whole.rounds)):  # else not in every launch
            found += [ratio(its, rows[NETWORK]), ratio(rows[f"decision{kind}"], its)]
    return [*found, ratio(rows[STORED], whole)]


if __name__ == "__main__":
    exit_with_code(main)
