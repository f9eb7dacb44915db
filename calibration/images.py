"""Choosing calibration images that cover what good parts look like, and remembering which they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from calibration.graph_parts import TRUNK, feature_names
from calibration.session import open_session
from runtime.errors import DskdError, one_line
from runtime.images import BadImage
from runtime.manifest import InputSpec
from runtime.preprocess import Image
from train.data import read_tiles

FEWEST = 16  # under this one odd picture moves a range more than the choice of method does
MOST_TILES = 4096  # 0.8 GB at 256 pixels
SEED = 0


def readable(paths: list[Path], spec: InputSpec) -> list[Path]:
    """The files that can be read and hold the crop or a tile; the others are named."""
    kept = []
    for path in tqdm(paths, desc="checking images", unit="image", leave=False, disable=None):
        try:
            read_tiles(path, spec)
            kept.append(path)
        except BadImage as error:
            tqdm.write(f"skipped {one_line(str(error))}")
    return kept


def read_inputs(paths: list[Path], spec: InputSpec) -> tuple[list[Path], Image]:
    """Network inputs [N, H, W, 3] of the files that can be read, and of which file each is; the others are named.

    Of tiled pictures a random choice of tiles, as many as memory has room for, the same number of each.
    """
    kept, inputs, rng = list[Path](), list[Image](), np.random.default_rng(SEED)
    for path in tqdm(paths, desc="reading images", unit="image", leave=False, disable=None):
        try:
            tiles = read_tiles(path, spec)
        except BadImage as error:
            tqdm.write(f"skipped {one_line(str(error))}")
            continue
        chosen = rng.permutation(len(tiles))[: max(1, MOST_TILES // len(paths))] if spec.tiling else [0]
        inputs += [tiles[k] for k in chosen]
        kept += [path] * len(chosen)
    return kept, np.stack(inputs) if inputs else np.zeros((0, spec.height, spec.width, 3), np.uint8)


def cover(model: onnx.ModelProto, inputs: Image, count: int) -> list[int]:
    """Indices of ``count`` inputs that cover all others best (k-centre, farthest first) by the teacher's features."""
    if len(inputs) < FEWEST:
        raise DskdError(f"only {len(inputs)} usable images; ranges need at least {FEWEST}, better some hundreds")
    if len(inputs) <= count:
        return list(range(len(inputs)))
    return k_centre(_teacher_features(model, inputs), count)


def k_centre(features: NDArray[np.float32], count: int) -> list[int]:
    """Greedy k-centre on rows [N, D] (Gonzalez 1985): at most twice the radius of the best choice."""
    chosen = [int(np.random.default_rng(SEED).integers(len(features)))]
    distance = np.linalg.norm(features - features[chosen[0]], axis=1)
    while len(chosen) < count:
        farthest = int(distance.argmax())
        chosen.append(farthest)
        distance = np.minimum(distance, np.linalg.norm(features - features[farthest], axis=1))
    return chosen


def _teacher_features(model: onnx.ModelProto, inputs: Image) -> NDArray[np.float32]:
    """Mean of each teacher channel over the picture, [N, D]; every scale counts alike."""
    names = [name for name in feature_names(model) if name.startswith(f"{TRUNK}teacher/")]
    session = open_session(model, names)
    rows = []
    for image in tqdm(inputs, desc="choosing images", unit="image", leave=False, disable=None):
        means = [scale[0].mean((1, 2)) for scale in session.run(names, {"image": image[None]})]
        rows.append(np.concatenate([mean / np.linalg.norm(mean) for mean in means]))
    return np.stack(rows)
