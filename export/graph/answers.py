"""What each graph of a bundle answers on the same pictures, and what follows from it: thresholds, distances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from dskd.export.graph.bfloat import ROUNDED, rounded_to_bfloat16
from dskd.export.graph.session import return_freed_memory
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import Parity, Thresholds
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.backends.onnx_runtime import OnnxRuntimeBackend
from dskd.runtime.inspection.threshold import conformal_thresholds
from dskd.runtime.inspection.tiling import coarse, infer_tiles
from dskd.runtime.result import Image
from dskd.train.data import read_tiles
from dskd.train.progress import progress

TILES = 1  # at a time, as ``answer`` runs its inputs


@dataclass(frozen=True)
class Answers:
    """scores [N], maps [N, H, W]."""

    scores: NDArray[np.float32]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class HeldOut:
    """Of held-out good images: scores [N] of a graph, and how near its maps are to the float graph's."""

    scores: NDArray[np.float32]
    map_correlation: float


Scored = tuple[np.float32, NDArray[np.float32]]  # score and map [H, W]


def answers(
    bundle: Bundle, graph: str, inputs: Iterable[Image], label: str, literally: bool = False
) -> Iterator[Scored]:
    """What one graph says of inputs [H, W, 3], one after the other, by onnxruntime."""
    with _backend(bundle, graph, literally) as backend:
        for image in progress(inputs, desc=label, unit="image"):
            output = backend.infer(image[None])
            yield output.scores[0], output.maps()[0]


def answer(bundle: Bundle, graph: str, inputs: Iterable[Image], label: str, literally: bool = False) -> Answers:
    """Runs inputs [N, H, W, 3] through one graph by onnxruntime."""
    return _together(answers(bundle, graph, inputs, label, literally))


def answers_of_files(bundle: Bundle, graph: str, paths: Sequence[Path], label: str) -> Iterator[Scored]:
    """Runs image files through one graph as the runtime does; a tiled picture has its merged map's score.

    Maps are at network size; of a tiled picture each cell holds the worst of what it covers.
    """
    spec = bundle.manifest.input
    with _backend(bundle, graph) as backend:
        for path in progress(paths, desc=label, unit="image"):
            if spec.tiling is None:
                output = backend.infer(read_tiles(path, spec))
                yield output.scores[0], output.maps()[0]
                continue
            found = infer_tiles(backend, read_image(path), spec, TILES).anomaly_map
            yield found.max(), coarse(found, spec.height, spec.width)


def answer_files(bundle: Bundle, graph: str, paths: Sequence[Path], label: str) -> Answers:
    """The same, kept."""
    return _together(answers_of_files(bundle, graph, paths, label))


def _together(found: Iterable[Scored]) -> Answers:
    scores, maps = zip(*found, strict=True)
    return Answers(np.array(scores, np.float32), np.stack(maps))


def held_out_answers(bundle: Bundle, graph: str, paths: Sequence[Path], reference: Answers) -> HeldOut:
    """Runs held-out images through one graph; ``reference`` is what the float graph says of them."""
    scores, correlations = [], []
    found = answers_of_files(bundle, graph, paths, f"held-out images, {graph}")
    for expected, (score, anomaly_map) in zip(reference.maps, found, strict=True):
        scores.append(score)
        correlations.append(np.corrcoef(expected.ravel(), anomaly_map.ravel())[0, 1])
    return HeldOut(np.array(scores, np.float32), float(np.mean(correlations)))


@contextmanager
def _backend(bundle: Bundle, graph: str, literally: bool = False) -> Iterator[OnnxRuntimeBackend]:
    """onnxruntime; it has no bfloat16, which is made for it as ``dskd.export.graph.bfloat`` says."""
    rounded = rounded_to_bfloat16(onnx.load(bundle.graph_file(graph))) if graph == ROUNDED else None
    backend = OnnxRuntimeBackend(bundle, graph, model=rounded and rounded.SerializeToString(), literally=literally)
    del rounded
    try:
        yield backend
    finally:
        backend.close()
        return_freed_memory()


def thresholds_like(old: Thresholds, held_out: HeldOut) -> Thresholds:
    """Thresholds of this graph for the same false-reject rates."""
    return conformal_thresholds(held_out.scores, old.review.false_reject_rate, old.reject.false_reject_rate)


def parity(source: str, target: str, a: Answers, b: Answers) -> Parity:
    """How far two forms of a model are from each other. Raises DskdError where one gives no finite numbers."""
    for form, found in ((source, a), (target, b)):
        if not (np.isfinite(found.scores).all() and np.isfinite(found.maps).all()):
            raise DskdError(f"{form}: gives values that are no finite numbers; train again with another seed or rate")
    return Parity(
        source=source,
        target=target,
        images=len(a.scores),
        max_abs_diff_score=float(np.abs(a.scores - b.scores).max()),
        max_abs_diff_map=float(np.abs(a.maps - b.maps).max()),
    )
