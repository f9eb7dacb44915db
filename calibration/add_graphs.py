"""Further graphs of a bundle, each with thresholds and tolerance of its own, found by running it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dskd.calibration.bfloat import ROUNDED, UNIT
from dskd.calibration.compare import (
    Answers,
    HeldOut,
    answer,
    answer_files,
    held_out_answers,
    thresholds_like,
    tolerance_of,
)
from dskd.runtime import atomic
from dskd.runtime.bundle import HELD_OUT, Bundle, hash_files, load_bundle, write_manifest
from dskd.runtime.manifest import Graph, Manifest, Precision

FLOAT = "model.onnx"


def short_name(graph: str) -> str:
    """``int8.cpu`` for ``model.int8.cpu.onnx``, ``bf16`` for ``model.onnx@bf16``."""
    return graph.partition("@")[2] or graph.removeprefix("model.").removesuffix(".onnx")


def provisional(base: Graph, precision: Precision) -> Graph:
    """What is known of a graph made from ``base`` before it was run."""
    return base.model_copy(update={"precision": precision})


def float_answers(bundle: Bundle, held_out: Sequence[Path]) -> Answers:
    """What the float graph says of held-out images: what every other one is measured by."""
    return answer_files(bundle, FLOAT, held_out, f"held-out images, {FLOAT}")


def measured(
    bundle: Bundle, held_out: Sequence[Path], reference: Answers
) -> tuple[dict[str, Graph], dict[str, HeldOut]]:
    """All graphs of ``bundle`` with thresholds and tolerance of their own, and what they say of the held-out images.

    ``held_out`` are good images that were never trained on: they keep the meaning of a false-reject rate;
    ``reference`` is what the float graph says of them. It keeps what training found.
    """
    golden = bundle.golden()
    expected, graphs = Answers(golden.scores, golden.maps), dict(bundle.manifest.graphs)
    judged = {FLOAT: HeldOut(reference.scores, 1.0, 0.0)}
    for name, graph in bundle.manifest.graphs.items():
        if name == FLOAT:
            continue
        judged[name] = held_out_answers(bundle, name, held_out, reference)
        thresholds = thresholds_like(graph.thresholds, judged[name])
        found = answer(bundle, name, golden.inputs, f"golden frames, {name}")
        unit = UNIT if name == ROUNDED else 0.0  # no CPU rounds exactly where the stand-in does
        tolerance = tolerance_of(found, expected, judged[name], judged[FLOAT], unit)
        graphs[name] = graph.model_copy(update={"thresholds": thresholds, "tolerance": tolerance})
    return graphs, judged


def add_graphs(
    folder: Path, manifest: Manifest, added: Mapping[str, Precision], held_out: Sequence[Path], reference: Answers
) -> tuple[Bundle, dict[str, HeldOut]]:
    """Takes graphs whose files are in ``folder`` into the bundle that is being made there; older ones are replaced."""
    graphs = {FLOAT: manifest.graphs[FLOAT], ROUNDED: provisional(manifest.graphs[FLOAT], "bf16"), **manifest.graphs}
    for name, precision in added.items():
        graphs[name] = provisional(manifest.graphs[FLOAT], precision)
    replaced = {short_name(name) for name in added}  # export.verify compared what stood there before
    parity = [pair for pair in manifest.parity if pair.target not in replaced]
    manifest = manifest.model_copy(update={"graphs": graphs, "parity": parity, "files": hash_files(folder)})
    write_manifest(folder, manifest)
    return finish(folder, manifest, held_out, reference)


def finish(
    folder: Path, manifest: Manifest, held_out: Sequence[Path], reference: Answers | None = None
) -> tuple[Bundle, dict[str, HeldOut]]:
    """Runs all graphs of the bundle that is being made; writes what is found: thresholds, tolerances, held-out scores.

    ``reference`` is what the float graph says of the held-out images, where that is known already.
    """
    bundle = load_bundle(folder)
    graphs, judged = measured(bundle, held_out, reference or float_answers(bundle, held_out))
    scores = {name: sorted(map(float, found.scores)) for name, found in judged.items()}
    atomic.write_text(folder / HELD_OUT, json.dumps(scores, allow_nan=False))
    write_manifest(folder, manifest.model_copy(update={"graphs": graphs, "files": hash_files(folder)}))
    return load_bundle(folder), judged
