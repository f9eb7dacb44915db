"""``python -m benchmarks parity``: how far each graph on each backend is from the trained model, on the golden frames."""

from __future__ import annotations

import argparse

import numpy as np

from dskd.benchmarks.contenders import add_options, blank, check, contestants, finish, own_bundle
from dskd.benchmarks.results import Results, row
from dskd.runtime.errors import Parser, exit_with_code
from dskd.runtime.inspection.backends import open_backend

NAME = "parity"


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        prog="python -m benchmarks parity",
        description=__doc__,
        examples="python -m benchmarks parity --bundle runs/latest/bundle",
    )
    add_options(options, ("bundle", "backend", "precision", "threads"))
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    return finish(run(options, blank(["parity", *arguments])), options)


def run(options: argparse.Namespace, results: Results) -> Results:
    """Measures and adds to ``results``."""
    check(options)
    bundle = own_bundle(options)
    golden = bundle.golden()
    for each in contestants(bundle, options, results):
        backend = open_backend(bundle, each.backend, each.threads, each.precision)
        scores, maps = [], []
        for k in range(len(golden.inputs)):
            output = backend.infer(golden.inputs[k : k + 1])
            scores.append(float(np.abs(output.scores - golden.scores[k]).max()))
            maps.append(float(np.abs(output.maps() - golden.maps[k]).max()))
        backend.close()
        for what, found in (("score", scores), ("map", maps)):
            results.rows.append(row(NAME, each.name, f"{what} difference", "1", found))
    return results


if __name__ == "__main__":
    exit_with_code(main)
