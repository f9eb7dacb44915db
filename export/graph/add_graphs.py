"""Further graphs of a bundle, each with thresholds and golden answers of its own, found by running it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from dskd.export.graph.answers import (
    Answers,
    HeldOut,
    answer,
    answer_files,
    held_out_answers,
    parity,
    thresholds_like,
)
from dskd.export.graph.bfloat import ROUNDED
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import (
    FLOAT,
    HELD_OUT,
    PROBE_STEP,
    Bundle,
    Golden,
    golden_file,
    hash_files,
    load_bundle,
    short_name,
    write_manifest,
)
from dskd.runtime.bundle.manifest import Graph, Manifest, Parity, Precision


def provisional(base: Graph, precision: Precision) -> Graph:
    """What is known of a graph made from ``base`` before it was run."""
    return base.model_copy(update={"precision": precision})


def float_answers(bundle: Bundle, held_out: Sequence[Path]) -> Answers:
    """What the float graph says of held-out images: what every other one is measured by."""
    return answer_files(bundle, FLOAT, held_out, f"held-out images, {FLOAT}")


def add_graphs(
    folder: Path, manifest: Manifest, added: Mapping[str, Precision], held_out: Sequence[Path], reference: Answers
) -> tuple[Bundle, dict[str, HeldOut]]:
    """Takes graphs whose files are in ``folder`` into the bundle that is being made there; older ones are replaced.

    Thresholds of graphs that stand there already and are not named stay as they are.
    """
    new = dict(added) if ROUNDED in manifest.graphs else {ROUNDED: "bf16", **added}
    graphs = {FLOAT: manifest.graphs[FLOAT], ROUNDED: provisional(manifest.graphs[FLOAT], "bf16"), **manifest.graphs}
    for name, precision in added.items():
        graphs[name] = provisional(manifest.graphs[FLOAT], precision)
    replaced = {short_name(name) for name in added}  # export.verify compared what stood there before
    kept = [pair for pair in manifest.parity if pair.target not in replaced]
    manifest = manifest.model_copy(update={"graphs": graphs, "parity": kept, "files": hash_files(folder)})
    write_manifest(folder, manifest)
    return finish(folder, manifest, held_out, new, reference)


def finish(
    folder: Path,
    manifest: Manifest,
    held_out: Sequence[Path],
    new: Collection[str],
    reference: Answers | None = None,
) -> tuple[Bundle, dict[str, HeldOut]]:
    """Runs all graphs of the bundle that is being made there on good images that were never trained on.

    Those in ``new`` are given thresholds for the same false-reject rates, and every graph that lacks them golden answers
    and its distance from the float graph. ``reference`` is what that says of the held-out images, if known already.
    """
    bundle = load_bundle(folder)
    reference = reference or float_answers(bundle, held_out)
    golden, graphs, pairs = bundle.golden(), dict(manifest.graphs), list(manifest.parity)
    judged = {FLOAT: HeldOut(reference.scores, 1.0)}
    scores = {name: bundle.held_out_scores(name) for name in graphs}
    for name, graph in manifest.graphs.items():
        if name != FLOAT:
            judged[name] = held_out_answers(bundle, name, held_out, reference)
            if name in new or not bundle.golden(name).own:
                pairs += _golden_answers(bundle, name, golden, known={pair.target for pair in pairs})
        if name in new:
            graphs[name] = graph.model_copy(
                update={"thresholds": thresholds_like(graph.thresholds, judged[name]), "tolerance": None}
            )
        if name in new or not scores[name]:
            scores[name] = sorted(map(float, judged[name].scores))
    atomic.write_text(folder / HELD_OUT, json.dumps(scores, allow_nan=False))
    write_manifest(folder, manifest.model_copy(update={"graphs": graphs, "parity": pairs, "files": hash_files(folder)}))
    return load_bundle(folder), judged


def _golden_answers(bundle: Bundle, graph: str, golden: Golden, known: Collection[str]) -> list[Parity]:
    """Writes what ``graph`` says of the golden frames; returns its distance from the float graph where not ``known``."""
    found = answer(bundle, graph, golden.inputs, f"golden frames, {graph}", literally=True)
    np.save(bundle.path / golden_file(graph, "scores"), found.scores)
    np.save(bundle.path / golden_file(graph, "maps"), found.maps)
    _probe_answers(bundle, graph)
    pair = parity("onnx", short_name(graph), Answers(golden.scores, golden.maps), found)
    return [] if pair.target in known else [pair]


def _probe_answers(bundle: Bundle, graph: str) -> None:
    """Writes the maps that ``graph`` makes of the probes, where the bundle has them and its numbers are large enough."""
    probes, file = bundle.probes(), bundle.path / golden_file(graph, "probe_maps")
    file.unlink(missing_ok=True)
    if probes is None:
        return
    maps = answer(bundle, graph, probes.inputs, f"probes, {graph}", literally=True).maps
    if np.isfinite(maps).all():
        np.save(file, maps[:, ::PROBE_STEP, ::PROBE_STEP])
