"""Further graphs of a bundle, each with thresholds and tolerance of its own, found by running it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from calibration.bfloat import ROUNDED
from calibration.compare import Answers, answer, answer_files, thresholds_like, tolerance_of
from runtime import atomic
from runtime.bundle import HELD_OUT, Bundle, hash_files, load_bundle, write_manifest
from runtime.manifest import Graph, Manifest, Precision

FLOAT = "model.onnx"


def provisional(base: Graph, precision: Precision) -> Graph:
    """What is known of a graph made from ``base`` before it was run."""
    return base.model_copy(update={"precision": precision})


def measured(bundle: Bundle, held_out: Sequence[Path]) -> tuple[dict[str, Graph], dict[str, Answers]]:
    """All graphs of ``bundle`` with thresholds and tolerance of their own, and their answers to the held-out images.

    ``held_out`` are good images that were never trained on: they keep the meaning of a false-reject rate.
    The float graph keeps what training found.
    """
    golden, graphs = bundle.golden(), dict(bundle.manifest.graphs)
    answers = {name: answer_files(bundle, name, held_out, f"held-out images, {name}") for name in graphs}
    expected = Answers(golden.scores, golden.maps).followed_by(answers[FLOAT])
    for name, graph in bundle.manifest.graphs.items():
        if name == FLOAT:
            continue
        thresholds = thresholds_like(graph.thresholds, answers[name])
        found = answer(bundle, name, golden.inputs, f"golden frames, {name}").followed_by(answers[name])
        graphs[name] = graph.model_copy(update={"thresholds": thresholds, "tolerance": tolerance_of(found, expected)})
    return graphs, answers


def add_graphs(
    folder: Path, manifest: Manifest, added: Mapping[str, tuple[onnx.ModelProto, Precision]], held_out: Sequence[Path]
) -> tuple[Bundle, dict[str, Answers]]:
    """Puts graphs into the bundle that is being made in ``folder``; an older one of a name is replaced."""
    graphs = {FLOAT: manifest.graphs[FLOAT], ROUNDED: provisional(manifest.graphs[FLOAT], "bf16"), **manifest.graphs}
    for name, (model, precision) in added.items():
        onnx.save(model, folder / name)
        graphs[name] = provisional(manifest.graphs[FLOAT], precision)
    manifest = manifest.model_copy(update={"graphs": graphs, "files": hash_files(folder)})
    write_manifest(folder, manifest)
    return finish(folder, manifest, held_out)


def finish(folder: Path, manifest: Manifest, held_out: Sequence[Path]) -> tuple[Bundle, dict[str, Answers]]:
    """Runs all graphs of the bundle that is being made; writes what is found: thresholds, tolerances, held-out scores."""
    graphs, answers = measured(load_bundle(folder), held_out)
    scores = {name: sorted(map(float, found.scores)) for name, found in answers.items()}
    atomic.write_text(folder / HELD_OUT, json.dumps(scores, allow_nan=False))
    write_manifest(folder, manifest.model_copy(update={"graphs": graphs, "files": hash_files(folder)}))
    return load_bundle(folder), answers
