"""Trained model, pruned model, ONNX and its lower precisions: how far each is from the next."""

from __future__ import annotations

from itertools import pairwise

import torch

from dskd.export.graph.answers import Answers, answer, parity
from dskd.export.prune import prune
from dskd.runtime.bundle.loading import FLOAT, Bundle, short_name
from dskd.runtime.bundle.manifest import Parity
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.golden import Limits, disagreement
from dskd.runtime.result import Image
from dskd.train.evaluate import score
from dskd.train.trained_run import TrainedRun

EXACT = "onnx"  # the float32 graph
# Rounding of float32 over some forty layers on one machine; a wrong graph is off by a hundred times this.
SAME = Limits(gain=2e-4, noise=5e-4, pixel=2e-3, score=5e-4)


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
