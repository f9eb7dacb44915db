"""``python -m benchmarks all``: latency, throughput, memory, coldstart, parity and energy of a bundle in one file.

What cannot be measured here (energy without power rails) is said and left out. Each takes of these options those that
it reads, and by itself some of its own; peers and accuracy are measured by themselves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import ModuleType

from dskd.benchmarks import coldstart, energy, latency, memory, parity, throughput
from dskd.benchmarks.contenders import add_options, blank, finish
from dskd.benchmarks.results import Results
from dskd.runtime.errors import MissingPart, Parser, exit_with_code

PARTS: tuple[ModuleType, ...] = (latency, throughput, memory, coldstart, parity, energy)
SHARED = ("bundle", "source", "size", "backend", "precision", "threads", "json")


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(
        prog="python -m benchmarks all",
        description=__doc__,
        examples="python -m benchmarks all --bundle runs/latest/bundle --out all.json",
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    results = blank(["all", *arguments])
    not_given = argparse.Namespace(**dict.fromkeys(vars(options), None))  # a value that is there keeps out the default
    given = {name for name, value in vars(parser.parse_args(arguments, not_given)).items() if value is not None}
    for part in PARTS:
        own = part.parser().parse_args([])
        for name in {*SHARED, *given} & set(vars(own)):  # a part has its own idea of how long it takes, unless told
            setattr(own, name, getattr(options, name))
        run: Callable[[argparse.Namespace, Results], Results] = part.run
        try:
            run(own, results)
        except MissingPart as error:
            results.notes.append(str(error))
    return finish(results, options)


if __name__ == "__main__":
    exit_with_code(main)
