"""Images that are read when they are asked for, and the choice of those that cover what good parts look like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from dskd.export.graph.parts import TRUNK, feature_names
from dskd.export.graph.session import open_session
from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.capture.image_files import BadImage
from dskd.runtime.errors import DskdError, one_line
from dskd.runtime.result import Image
from dskd.train.data import read_tiles
from dskd.train.progress import progress

FEWEST = 16  # under this one odd picture moves a range more than the choice of method does
MOST_TILES = 4096  # more would take longer than they tell
SEED = 0


class Inputs:
    """Network inputs [H, W, 3], each read anew when its turn comes: hundreds take the memory of one.

    ``pieces`` says of each which file it is of and which of its tiles; a picture that is not tiled is its tile 0.
    """

    def __init__(self, pieces: Sequence[tuple[Path, int]], spec: InputSpec) -> None:
        self.pieces, self._spec = list(pieces), spec

    def __len__(self) -> int:
        return len(self.pieces)

    def __iter__(self) -> Iterator[Image]:
        return (read_tiles(path, self._spec)[tile] for path, tile in self.pieces)

    def chosen(self, indices: Iterable[int]) -> Inputs:
        """Those at ``indices``."""
        return Inputs([self.pieces[k] for k in indices], self._spec)

    def first(self, count: int) -> Inputs:
        """The first ``count``, or all where there are fewer."""
        return Inputs(self.pieces[:count], self._spec)


def readable(paths: Sequence[Path], spec: InputSpec) -> list[Path]:
    """The files that can be read and hold the crop or a tile; the others are named."""
    return list(dict.fromkeys(path for path, _ in usable(paths, spec).pieces))


def usable(paths: Sequence[Path], spec: InputSpec) -> Inputs:
    """Of the files that can be read and hold the crop or a tile; the others are named.

    Of tiled pictures a random choice of tiles, the same number of each.
    """
    pieces, rng = list[tuple[Path, int]](), np.random.default_rng(SEED)
    for path in progress(paths, desc="checking images", unit="image"):
        try:
            tiles = len(read_tiles(path, spec))
        except BadImage as error:
            tqdm.write(f"skipped {one_line(str(error))}")
            continue
        pieces += [(path, int(k)) for k in rng.permutation(tiles)[: max(1, MOST_TILES // len(paths))]]
    return Inputs(pieces, spec)


def cover(model: onnx.ModelProto, inputs: Inputs, count: int) -> list[int]:
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


def _teacher_features(model: onnx.ModelProto, inputs: Inputs) -> NDArray[np.float32]:
    """Mean of each teacher channel over the picture, [N, D]; every scale counts alike."""
    names = [name for name in feature_names(model) if name.startswith(f"{TRUNK}teacher/")]
    session = open_session(model, names)
    rows = []
    for image in progress(inputs, desc="choosing images", unit="image"):
        means = [scale[0].mean((1, 2)) for scale in session.run(names, {"image": image[None]})]
        rows.append(np.concatenate([mean / np.linalg.norm(mean) for mean in means]))
    return np.stack(rows)
