"""What a lower precision changes: the answers of each graph of a bundle on the same pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from dskd.calibration.bfloat import ROUNDED, rounded_to_bfloat16
from dskd.calibration.images import Inputs
from dskd.calibration.session import return_freed_memory
from dskd.runtime.backends.onnx_runtime import OnnxRuntimeBackend
from dskd.runtime.bundle import Bundle
from dskd.runtime.images import read_image
from dskd.runtime.manifest import Thresholds, Tolerance
from dskd.runtime.preprocess import Image
from dskd.runtime.threshold import conformal_thresholds
from dskd.runtime.tiling import coarse, infer_tiles

SLACK = 2.0  # an engine may be as far from the trained model again as its graph is
TILES = 1  # at a time, as ``answer`` runs its inputs
FLOOR = 1e-3  # another device's rounding


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
    largest_map_difference: float


@dataclass(frozen=True)
class Row:
    """One graph against the float32 graph. Labelled figures are missing where there are no labelled images."""

    graph: str
    precision: str
    megabytes: float
    macs: int
    macs_in_eight_bits: int
    score_shift: float
    score_shift_largest: float
    map_correlation: float
    reject_threshold: float
    review_threshold: float
    flips: int
    judged: int
    labelled: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


Answer = tuple[np.float32, NDArray[np.float32]]  # score and map [H, W]


def answers(bundle: Bundle, graph: str, inputs: Iterable[Image], label: str) -> Iterator[Answer]:
    """What one graph says of inputs [H, W, 3], one after the other, by onnxruntime."""
    with _backend(bundle, graph) as backend:
        for image in tqdm(inputs, desc=label, unit="image", leave=False, disable=None):
            output = backend.infer(image[None])
            yield output.scores[0], output.maps()[0]


def answer(bundle: Bundle, graph: str, inputs: Iterable[Image], label: str) -> Answers:
    """Runs inputs [N, H, W, 3] through one graph by onnxruntime."""
    return _together(answers(bundle, graph, inputs, label))


def answers_of_files(bundle: Bundle, graph: str, paths: Sequence[Path], label: str) -> Iterator[Answer]:
    """Runs image files through one graph as the runtime does; a tiled picture has its merged map's score.

    Maps are at network size; of a tiled picture each cell holds the worst of what it covers.
    """
    spec = bundle.manifest.input
    if spec.tiling is None:
        inputs = Inputs([(path, 0) for path in paths], spec)
        yield from answers(bundle, graph, inputs, label)
        return
    with _backend(bundle, graph) as backend:
        for path in tqdm(paths, desc=label, unit="image", leave=False, disable=None):
            found = infer_tiles(backend.infer, read_image(path), spec, TILES).anomaly_map
            yield found.max(), coarse(found, spec.height, spec.width)


def answer_files(bundle: Bundle, graph: str, paths: Sequence[Path], label: str) -> Answers:
    """The same, kept."""
    return _together(answers_of_files(bundle, graph, paths, label))


def _together(found: Iterable[Answer]) -> Answers:
    scores, maps = zip(*found, strict=True)
    return Answers(np.array(scores, np.float32), np.stack(maps))


def held_out_answers(bundle: Bundle, graph: str, paths: Sequence[Path], reference: Answers) -> HeldOut:
    """Runs held-out images through one graph; ``reference`` is what the float graph says of them."""
    scores, correlations, worst = [], [], 0.0
    found = answers_of_files(bundle, graph, paths, f"held-out images, {graph}")
    for expected, (score, anomaly_map) in zip(reference.maps, found, strict=True):
        scores.append(score)
        correlations.append(np.corrcoef(expected.ravel(), anomaly_map.ravel())[0, 1])
        worst = max(worst, float(np.abs(expected - anomaly_map).max()))
    return HeldOut(np.array(scores, np.float32), float(np.mean(correlations)), worst)


@contextmanager
def _backend(bundle: Bundle, graph: str) -> Iterator[OnnxRuntimeBackend]:
    """onnxruntime; it has no bfloat16, which is made for it as ``dskd.calibration.bfloat`` says."""
    rounded = rounded_to_bfloat16(onnx.load(bundle.graph_file(graph))) if graph == ROUNDED else None
    backend = OnnxRuntimeBackend(bundle, graph, model=rounded and rounded.SerializeToString())
    del rounded
    try:
        yield backend
    finally:
        backend.close()
        return_freed_memory()


def thresholds_like(old: Thresholds, held_out: HeldOut) -> Thresholds:
    """Thresholds of this graph for the same false-reject rates."""
    return conformal_thresholds(held_out.scores, old.review.false_reject_rate, old.reject.false_reject_rate)


def tolerance_of(
    golden: Answers, expected: Answers, held_out: HeldOut, reference: HeldOut, unit: float = 0.0
) -> Tolerance:
    """How far an engine of this graph may be from the trained model on the golden frames.

    Judged by held-out pictures too: another engine's rounding meets its worst case in another one. ``unit`` is the share
    of a value that it may round by once more than this machine did.
    """
    score = max(np.abs(golden.scores - expected.scores).max(), np.abs(held_out.scores - reference.scores).max())
    map_ = max(np.abs(golden.maps - expected.maps).max(), held_out.largest_map_difference)
    more = [FLOOR + unit * float(np.abs(values).max()) for values in (expected.scores, expected.maps)]
    return Tolerance(score=SLACK * float(score) + more[0], map=SLACK * float(map_) + more[1])


def verdicts(scores: NDArray[np.float32], thresholds: Thresholds) -> NDArray[np.int_]:
    """0 PASS, 1 REVIEW, 2 REJECT for each score."""
    return (scores > thresholds.review.score).astype(int) + (scores > thresholds.reject.score)
