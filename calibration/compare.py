"""What a lower precision changes: the answers of each graph of a bundle on the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from calibration.bfloat import ROUNDED, rounded_to_bfloat16
from runtime.backends.onnx_runtime import OnnxRuntimeBackend
from runtime.bundle import Bundle
from runtime.images import read_image
from runtime.manifest import Thresholds, Tolerance
from runtime.preprocess import Image, preprocess
from runtime.threshold import conformal_thresholds
from runtime.tiling import coarse, infer_tiles

SLACK = 2.0  # an engine may be as far from the trained model again as its graph is
TILES = 1  # at a time, as ``answer`` runs its inputs
FLOOR = 1e-3  # another device's rounding


@dataclass(frozen=True)
class Answers:
    """scores [N], maps [N, H, W]."""

    scores: NDArray[np.float32]
    maps: NDArray[np.float32]

    def followed_by(self, more: Answers) -> Answers:
        """These and then ``more``."""
        return Answers(np.concatenate((self.scores, more.scores)), np.concatenate((self.maps, more.maps)))


@dataclass(frozen=True)
class Row:
    """One graph against the float32 graph. Labelled figures are missing where there are no labelled images."""

    graph: str
    precision: str
    megabytes: float
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


def answer(bundle: Bundle, graph: str, inputs: Image, label: str) -> Answers:
    """Runs inputs [N, H, W, 3] through one graph by onnxruntime."""
    backend = _backend(bundle, graph)
    scores, maps = [], []
    for image in tqdm(inputs, desc=label, unit="image", leave=False, disable=None):
        output = backend.infer(image[None])
        scores.append(output.scores)
        maps.append(output.maps())
    backend.close()
    return Answers(np.concatenate(scores), np.concatenate(maps))


def answer_files(bundle: Bundle, graph: str, paths: Sequence[Path], label: str) -> Answers:
    """Runs image files through one graph as the runtime does; a tiled picture has its merged map's score.

    Maps are at network size; of a tiled picture each cell holds the worst of what it covers.
    """
    spec, bar = bundle.manifest.input, partial(tqdm, desc=label, unit="image", leave=False, disable=None)
    if spec.tiling is None:
        inputs = [preprocess(read_image(path), spec.height, spec.width, spec.crop) for path in paths]
        return answer(bundle, graph, np.stack(inputs), label)
    backend = _backend(bundle, graph)
    merged = (infer_tiles(backend.infer, read_image(path), spec, TILES).anomaly_map for path in bar(paths))
    pairs = [(found.max(), coarse(found, spec.height, spec.width)) for found in merged]
    backend.close()
    return Answers(np.array([score for score, _ in pairs]), np.stack([map_ for _, map_ in pairs]))


def _backend(bundle: Bundle, graph: str) -> OnnxRuntimeBackend:
    """onnxruntime; it has no bfloat16, which is made for it as ``calibration.bfloat`` says."""
    rounded = rounded_to_bfloat16(onnx.load(bundle.graph_file(graph))) if graph == ROUNDED else None
    return OnnxRuntimeBackend(bundle, graph, model=rounded and rounded.SerializeToString())


def thresholds_like(old: Thresholds, held_out: Answers) -> Thresholds:
    """Thresholds of this graph for the same false-reject rates."""
    return conformal_thresholds(held_out.scores, old.review.false_reject_rate, old.reject.false_reject_rate)


def tolerance_of(found: Answers, expected: Answers) -> Tolerance:
    """How far an engine of this graph may be from the trained model on the golden frames.

    Judged by many pictures: another engine's rounding meets its worst case in another one.
    """
    score = float(np.abs(found.scores - expected.scores).max())
    map_ = float(np.abs(found.maps - expected.maps).max())
    return Tolerance(score=SLACK * score + FLOOR, map=SLACK * map_ + FLOOR)


def map_correlation(a: Answers, b: Answers) -> float:
    """Mean over images of Pearson's correlation of the two maps."""
    found = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a.maps, b.maps, strict=True)]
    return float(np.mean(found))


def verdicts(scores: NDArray[np.float32], thresholds: Thresholds) -> NDArray[np.int_]:
    """0 PASS, 1 REVIEW, 2 REJECT for each score."""
    return (scores > thresholds.review.score).astype(int) + (scores > thresholds.reject.score)
