"""``dskd export.verify``: torch, pruned model, ONNX and its lower precisions agree, and by how much."""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path

import torch

from dskd.export.golden import PARITY_IMAGES, parity_inputs
from dskd.export.graph.answers import Answers, answer, parity
from dskd.export.prune import prune
from dskd.runtime.bundle.loading import FLOAT, Bundle, default_bundle, load_bundle, short_name, write_manifest
from dskd.runtime.bundle.manifest import Parity
from dskd.runtime.errors import CallError, DskdError, Parser, exit_with_code
from dskd.runtime.inspection.golden import Limits, disagreement
from dskd.runtime.result import Image
from dskd.train.evaluate import score
from dskd.train.trained_run import TrainedRun, load_run

EXACT = "onnx"  # the float32 graph
# Rounding of float32 over some forty layers on one machine; a wrong graph is off by a hundred times this.
SAME = Limits(gain=2e-4, noise=5e-4, pixel=2e-3, score=5e-4)


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
    pairs, faults = compare(run, bundle, parity_inputs(run, options.images))
    fields = {"bundle": bundle.id, "pairs": [pair.model_dump(by_alias=True) for pair in pairs]}
    reject = bundle.manifest.graphs[FLOAT].thresholds.reject.score
    print(json.dumps(fields) if options.json else table(pairs, reject, faults))
    require(faults)
    if options.images >= PARITY_IMAGES:  # a shorter look must not replace the proof
        write_manifest(bundle.path, bundle.manifest.model_copy(update={"parity": pairs}))
    return 0


def compare(run: TrainedRun, bundle: Bundle, inputs: Image) -> tuple[list[Parity], list[str]]:
    """Worst differences along the chain, step by step and end to end, on inputs [N, height, width, 3]; and what of
    them is more than float32's rounding.

    The chain ends with the float graph; from there one step leads to each graph of lower precision. These differ by
    design: verdict flips on good pictures judge them, and golden answers of their own what computes them on a device.
    """
    cpu, reading = torch.device("cpu"), bundle.manifest.bottleneck_source
    eager = {"torch": run.graph(reading), "pruned": prune(run.graph(reading))}
    scored = {name: score(graph, inputs, cpu, name) for name, graph in eager.items()}
    forms = {name: Answers(found.scores, found.maps) for name, found in scored.items()}
    forms[EXACT] = answer(bundle, FLOAT, inputs, FLOAT)
    pairs, faults = list[Parity](), list[str]()
    for a, b in [*pairwise(forms), ("torch", EXACT)]:
        pairs.append(parity(a, b, forms[a], forms[b]))
        fault = disagreement(forms[b].scores, forms[b].maps, forms[a].scores, forms[a].maps, SAME)
        faults += [f"{a} and {b} differ: {fault}"] if fault else []
    for name in bundle.manifest.graphs:
        if name != FLOAT:
            pairs.append(parity(EXACT, short_name(name), forms[EXACT], answer(bundle, name, inputs, name)))
    return pairs, faults


def proved(pairs: list[Parity], reject: float) -> str:
    """What the table says, in one line."""
    images = min(pair.images for pair in pairs)
    worst = max(p.max_abs_diff_score for p in pairs if {p.source, p.target} <= {"torch", "pruned", EXACT})
    share = worst / max(reject, 1e-12)
    return f"proved: trained, pruned and exported model agree on {images} images (scores within {share:.4%} of the threshold)"


def require(faults: list[str]) -> None:
    """Raises DskdError where two forms that compute in float32 differ by more than its rounding."""
    if faults:
        raise DskdError(f"{faults[0]}; please report it with the run's config.yaml")


def table(pairs: list[Parity], reject: float, faults: list[str]) -> str:
    """The differences for a terminal, as shares of the reject threshold, each step with what it is worth."""
    rows = [f"{'from':8}{'to':9}{'images':>7}{'score off by':>14}{'map off by':>12}"]
    for pair in pairs:
        shares = [difference / max(reject, 1e-12) for difference in (pair.max_abs_diff_score, pair.max_abs_diff_map)]
        exact = {pair.source, pair.target} <= {"torch", "pruned", EXACT}
        wrong = any(fault.startswith(f"{pair.source} and {pair.target} ") for fault in faults)
        said = ("NOT THE SAME" if wrong else "ok: rounding only") if exact else "has thresholds of its own"
        rows.append(f"{pair.source:8}{pair.target:9}{pair.images:7}{shares[0]:14.4%}{shares[1]:12.4%}  {said}")
    rows.append("(largest difference on any image, as a share of the reject threshold)")
    return "\n".join(rows)


if __name__ == "__main__":
    exit_with_code(main)
