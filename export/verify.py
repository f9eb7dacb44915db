"""``dskd export.verify``: torch, pruned model, ONNX and its lower precisions agree, and by how much."""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from dskd.calibration.add_graphs import FLOAT, short_name
from dskd.calibration.compare import answer
from dskd.export.golden import PARITY_IMAGES, parity_inputs
from dskd.export.prune import prune
from dskd.runtime.bundle import Bundle, default_bundle, load_bundle, write_manifest
from dskd.runtime.errors import CallError, DskdError, Parser, exit_with_code
from dskd.runtime.manifest import Parity
from dskd.runtime.preprocess import Image
from dskd.train.evaluate import Scored, score
from dskd.train.trained_run import TrainedRun, load_run

EXACT = "onnx"  # the float32 graph
LIMIT = 1e-4  # rounding of float32 over some forty layers; a wrong graph is off by a hundred times this


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(prog="dskd export.verify", description=__doc__)
    options.add_argument("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    options.add_argument("--run", type=Path, help="folder of the run it came from (default: the bundle's parent)")
    options.add_argument(
        "--images", type=int, default=PARITY_IMAGES, help="images to compare on (default: %(default)s)"
    )
    options.add_argument("--json", action="store_true", help="print one JSON object")
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    if options.images < 1:
        raise CallError(f"--images {options.images} must be at least 1")
    bundle = load_bundle(options.bundle or default_bundle())
    try:
        run = load_run(options.run or bundle.path.resolve().parent)
    except CallError as error:
        raise error if options.run else CallError(f"{error}, or name the bundle's run with --run") from error
    if run.record["model_sha256"] != bundle.manifest.provenance.checkpoint_sha256:
        raise CallError(f"{run.folder}: is not the run that bundle {bundle.id} came from; name it with --run")
    pairs = compare(run, bundle, parity_inputs(run, options.images))
    fields = {"bundle": bundle.id, "pairs": [pair.model_dump(by_alias=True) for pair in pairs]}
    print(json.dumps(fields) if options.json else table(pairs))
    require(pairs)
    if options.images >= PARITY_IMAGES:  # a shorter look must not replace the proof
        write_manifest(bundle.path, bundle.manifest.model_copy(update={"parity": pairs}))
    return 0


def compare(run: TrainedRun, bundle: Bundle, inputs: Image) -> list[Parity]:
    """Worst differences along the chain, step by step and end to end, on inputs [N, height, width, 3].

    The chain ends with the float graph; from there one step leads to each graph of lower precision.
    """
    cpu, reading = torch.device("cpu"), bundle.manifest.bottleneck_source
    forms = {
        "torch": score(run.graph(reading), inputs, cpu, "torch"),
        "pruned": score(prune(run.graph(reading)), inputs, cpu, "pruned"),
        EXACT: _by_onnxruntime(bundle, FLOAT, inputs),
    }
    chain = [*pairwise(forms), ("torch", EXACT)]
    pairs = [_difference(a, b, forms[a], forms[b]) for a, b in chain]
    for name in bundle.manifest.graphs:
        if name != FLOAT:
            lower = short_name(name)
            pairs.append(_difference(EXACT, lower, forms[EXACT], _by_onnxruntime(bundle, name, inputs)))
    return pairs


def _by_onnxruntime(bundle: Bundle, graph: str, inputs: Image) -> Scored:
    found = answer(bundle, graph, inputs, graph)
    return Scored(found.scores, found.maps)


def _difference(source: str, target: str, a: Scored, b: Scored) -> Parity:
    for form, answers in ((source, a), (target, b)):
        if not (np.isfinite(answers.scores).all() and np.isfinite(answers.maps).all()):
            raise DskdError(f"{form}: gives values that are no finite numbers; train again with another seed or rate")
    return Parity(
        source=source,
        target=target,
        images=len(a.scores),
        max_abs_diff_score=float(np.abs(a.scores - b.scores).max()),
        max_abs_diff_map=float(np.abs(a.maps - b.maps).max()),
    )


def require(pairs: list[Parity]) -> None:
    """Raises DskdError where two forms that compute in float32 are not within the limit.

    Lower precisions differ by design; how far an engine of theirs may be is each graph's tolerance in the manifest.
    """
    for pair in pairs:
        if pair.source == EXACT:
            continue
        if not max(pair.max_abs_diff_score, pair.max_abs_diff_map) < LIMIT:
            raise DskdError(
                f"{pair.source} and {pair.target} differ by {pair.max_abs_diff_score:.1e} (score) and "
                f"{pair.max_abs_diff_map:.1e} (map), over {LIMIT:.0e}; export again, and report it if it stays"
            )


def table(pairs: list[Parity]) -> str:
    """The differences for a terminal."""
    rows = [f"{'from':8}{'to':9}{'images':>7}{'score':>10}{'map':>10}   (largest absolute difference)"]
    rows += [
        f"{p.source:8}{p.target:9}{p.images:7}{p.max_abs_diff_score:10.1e}{p.max_abs_diff_map:10.1e}" for p in pairs
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    exit_with_code(main)
