"""``python -m benchmarks readings``: other ways to read a trained model's distances; nothing is trained anew.

Rules for the score, for filling the inside of large defects and for a tighter edge around small ones, each on the same
features of the same run. A rule is chosen by the painted columns (held-out good pictures against the same with painted
defects, whose masks are known); the test columns tell what that choice was worth. Maps are at network size.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dskd.benchmarks.lab.models.labelled import read_labelled
from dskd.runtime.errors import CallError, Parser, exit_with_code
from dskd.runtime.inspection.preprocess import preprocess
from dskd.runtime.result import Image
from dskd.train import metrics
from dskd.train.data import at_network_size, find_images, load_inputs
from dskd.train.evaluate import Scored
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.cosine_distance import cosine_distance
from dskd.train.networks.image_input import ImageInput
from dskd.train.networks.joined_distance import JoinedDistances
from dskd.train.networks.maps import bilinear_matrix, gaussian_matrix
from dskd.train.networks.usual_features import UsualFeatures
from dskd.train.selection import painted
from dskd.train.trained_run import TrainedRun, load_run

USUAL = 128  # training pictures that say how far the finer scales usually are
BATCH = 16
ONLY_LOCAL = (1.0, 0.0, 0.0, 0.0)  # factors of the local distance and of the three scales
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Distances:
    """Of N pictures: the distance to the usual [N, h, w], and the cosine distance of each scale, fine to coarse."""

    local: Floats
    cosine: tuple[Floats, ...]


@dataclass(frozen=True)
class Judged:
    """Pictures with what is known of them."""

    distances: Distances
    defective: NDArray[np.bool_]
    masks: NDArray[np.bool_]


Rule = Callable[[Distances], Scored]


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(prog="python -m benchmarks readings", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/latest"), help="finished run (default: %(default)s)")
    parser.add_argument("--data", type=Path, required=True, help="MVTec layout with labelled test images")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    done = load_run(options.run)
    distance = done.graph(next(iter(done.method.readings()))).anomaly_map.distances
    factors: Sequence[float] = ONLY_LOCAL
    if isinstance(distance, JoinedDistances):
        factors = distance.factors.tolist()
        distance = distance.to_usual
    if not isinstance(distance, UsualFeatures) or done.config.input.tiling:
        raise CallError(f"--run {options.run}: has no distance to the usual over whole pictures; nothing to compare")
    look = _Looking(done, distance)
    labelled = read_labelled(find_images(options.data), done.config.input)
    defective = np.array([defect != "good" for defect in labelled.defects])
    sets = {
        "painted": _painted(done, look),
        "test": Judged(look(labelled.inputs, "test"), defective, labelled.masks),
    }
    usual = look(load_inputs(_paths(done, "training")[:USUAL], done.config.input), "usual")
    size = done.config.input.height, done.config.input.width
    rows = [
        {"rule": name} | {f"{part}_{k}": v for part, judged in sets.items() for k, v in _figures(judged, rule).items()}
        for name, rule in tqdm(rules(size, done.config.map.sigma, usual, factors).items(), desc="rules", leave=False)
    ]
    print(json.dumps({"model_sha256": done.record["model_sha256"], "rows": rows}) if options.json else table(rows))
    return 0


def _paths(done: TrainedRun, name: str) -> list[Path]:
    recorded = done.record[name]
    assert isinstance(recorded, list)
    return [Path(path) for path in recorded]


def _painted(done: TrainedRun, look: _Looking) -> Judged:
    """The held-out pictures, and after them the same with painted defects."""
    held_out, spec = _paths(done, "held_out"), done.config.input
    good = load_inputs(held_out, spec)
    found = [
        (preprocess(picture, spec.height, spec.width, spec.crop), at_network_size(mask, spec))
        for _, picture, mask in painted(held_out, spec)
    ]
    pictures, masks = (np.stack(part) for part in zip(*found, strict=True))
    empty = np.zeros((len(good), spec.height, spec.width), bool)
    defective = np.repeat([False, True], [len(good), len(pictures)])
    return Judged(look(np.concatenate((good, pictures)), "painted"), defective, np.concatenate((empty, masks)))


class _Looking:
    """Pictures through a run's networks."""

    def __init__(self, done: TrainedRun, distance: UsualFeatures) -> None:
        self._path, self._distance = done.method.inference_path(next(iter(done.method.readings()))), distance
        self._to_input = ImageInput(BACKBONES[done.config.backbone])

    @torch.no_grad()
    def __call__(self, pictures: Image, label: str) -> Distances:
        found = []
        for start in tqdm(range(0, len(pictures), BATCH), desc=label, unit="batch", leave=False, disable=None):
            images = self._to_input(torch.from_numpy(pictures[start : start + BATCH]))
            teacher, student = self._path(images)
            scales = [cosine_distance(t, s) for t, s in zip(teacher, student, strict=True)]
            found.append([part.numpy() for part in (*self._distance(teacher, student), *scales)])
        local, *cosine = (np.concatenate(part) for part in zip(*found, strict=True))
        return Distances(local, tuple(cosine))


def rules(
    size: tuple[int, int], sigma: float, usual: Distances, factors: Sequence[float] = ONLY_LOCAL
) -> Mapping[str, Rule]:
    """By name; the first is what is exported, the others change it. ``factors``: of the distances, the local one first."""

    def exported(found: Distances, width: float = sigma) -> Floats:
        parts = zip(factors, (found.local, *found.cosine), strict=True)
        maps = [np.float32(factor) * enlarged(part, size, width) for factor, part in parts if factor]
        return np.asarray(np.sum(maps, 0), np.float32)

    def top(share: float) -> Rule:
        def rule(found: Distances) -> Scored:
            maps = exported(found)
            flat = maps.reshape(len(maps), -1)
            count = round(share * flat.shape[1])
            return Scored(np.partition(flat, -count, axis=1)[:, -count:].mean(1), maps)

        return rule

    def smoothed(width: float) -> Rule:
        return lambda found: _by_maximum(exported(found, width))

    def closed(side: int) -> Rule:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        return lambda found: _by_maximum(
            np.stack([cv2.morphologyEx(m, cv2.MORPH_CLOSE, kernel) for m in exported(found)])
        )

    def sharpened(scale: int, power: float) -> Rule:
        """The map where the finer scale is further off than it usually is there; less where it is not."""
        level = enlarged(usual.cosine[scale], size, sigma).mean(0)

        def rule(found: Distances) -> Scored:
            return _by_maximum(exported(found) * (enlarged(found.cosine[scale], size, sigma) / level) ** power)

        return rule

    return {
        "as exported": lambda found: _by_maximum(exported(found)),
        "score: mean of the highest 0.1 %": top(0.001),
        "score: mean of the highest 1 %": top(0.01),
        "score: mean of the highest 5 %": top(0.05),
        "score: mean": top(1.0),
        "smoothing 0": smoothed(0),
        "smoothing 2": smoothed(2),
        "smoothing 8": smoothed(8),
        "inside filled: closing of 17 pixels": closed(17),
        "inside filled: closing of 33 pixels": closed(33),
        "tighter: times the middle scale, root": sharpened(1, 0.5),
        "tighter: times the finest scale, root": sharpened(0, 0.5),
        "tighter: times the finest scale": sharpened(0, 1.0),
    }


def enlarged(distances: Floats, size: tuple[int, int], sigma: float) -> Floats:
    """[N, h, w] -> [N, H, W] as the graph does it."""
    sides = zip(size, distances.shape[1:], strict=True)
    rows, columns = (
        (gaussian_matrix(side, sigma) @ bilinear_matrix(side, source)).astype(np.float32) for side, source in sides
    )
    return np.asarray(rows @ distances @ columns.T, np.float32)


def _by_maximum(maps: Floats) -> Scored:
    return Scored(maps.max((1, 2)), maps)


def _figures(judged: Judged, rule: Rule) -> dict[str, float]:
    found, ranking = rule(judged.distances), metrics.PixelRanking(judged.masks.size)
    for mask, anomaly_map in zip(judged.masks, found.maps, strict=True):
        ranking.add(mask, anomaly_map)
    pixels, pro = ranking.areas()
    inside, halo = metrics.fill_and_halo(judged.masks, found.maps, ~judged.defective)
    image = metrics.auroc(judged.defective, found.scores)
    return {"image_auroc": image, "pixel_auroc": pixels, "pro": pro, "inside_recall": inside, "halo": halo}


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Markdown."""
    columns = [name for name in rows[0] if name != "rule"]
    lines = [f"| rule | {' | '.join(name.replace('_', ' ') for name in columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {row['rule']} | {' | '.join(f'{row[name]:.3f}' for name in columns)} |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with_code(main)
