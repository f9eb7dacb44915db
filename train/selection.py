"""A figure to choose by without looking at a test image: held-out good images against painted defects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.inspection.preprocess import preprocess
from dskd.train import metrics
from dskd.train.config import TrainConfig
from dskd.train.data import read_upright
from dskd.train.defects import ALL_PAINTERS, Image, Mask, Painter
from dskd.train.evaluate import EagerGraph, Scored, score_frames

PER_IMAGE = 2  # kinds painted on each held-out image, where there are many
FEWEST = 224  # painted defects that tell maps apart
MOST = 8  # on one image: its own score is in all of their comparisons
CONTRAST = (0.25, 0.7)  # faint: recipes differ in what is hard to see
SEED = 0  # the same defects for every recipe
TRIES = 4  # places of which one is taken, by how much of the part lies there


def painted(held_out: list[Path], spec: InputSpec | None = None) -> Iterator[tuple[str, Image, Mask]]:
    """Kind, picture and mask of each defect, on every held-out image some of the kinds in turn.

    Where ``spec`` has a fixture, they are painted on the part as it cuts it out.
    """
    rng, count = np.random.default_rng(SEED), len(ALL_PAINTERS)
    kinds = list(ALL_PAINTERS.items())
    for i, path in enumerate(held_out):
        picture = read_image(path) if spec is None else read_upright(path, spec)
        busy = _busy(picture)
        for k in range(painted_on_each(len(held_out))):
            kind, painter = kinds[(i * PER_IMAGE + k) % count]
            yield kind, *_on_the_part(painter, picture, busy, rng)


def painted_on_each(images: int) -> int:
    """How many defects are painted on each of so many images."""
    return min(max(PER_IMAGE, -(-FEWEST // images)), MOST)


def _busy(picture: Image) -> NDArray[np.float32]:
    """How much is to be seen at each place [H, W]: high on a part, low on a plain ground beside it."""
    grey = picture.astype(np.float32).mean(2)
    reach = 0.02 * min(grey.shape)
    change = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), reach + 1))
    return np.asarray(cv2.GaussianBlur(change, (0, 0), reach + 1), np.float32)


def _on_the_part(
    painter: Painter, picture: Image, busy: NDArray[np.float32], rng: np.random.Generator
) -> tuple[Image, Mask]:
    """One of several drawn defects, the likelier the more is to be seen where it lies."""
    drawn = [painter(picture, rng, float(rng.uniform(*CONTRAST))) for _ in range(TRIES)]
    weights = np.array([float(busy[mask].mean()) if mask.any() else 0.0 for _, mask in drawn])
    if not weights.any():
        return drawn[0]
    return drawn[int(rng.choice(TRIES, p=weights / weights.sum()))]


@dataclass(frozen=True)
class PaintedSet:
    """Painted defects: kinds, pictures at network size uint8 [N, H, W, 3], and what the model says of them."""

    kinds: list[str]
    inputs: Image
    scored: Scored

    def auroc(self, good: Scored) -> dict[str, float]:
        """Image AUROC of ``good`` (the held-out images' scores) against the defects: of all, and of each kind."""
        kinds = np.array(self.kinds)
        groups = {"all": np.ones(len(kinds), bool)} | {kind: kinds == kind for kind in ALL_PAINTERS}
        scores = self.scored.scores
        return {name: round(auroc(good.scores, scores[of]), 4) for name, of in groups.items() if of.any()}


def score_painted(graph: EagerGraph, held_out: list[Path], config: TrainConfig, device: torch.device) -> PaintedSet:
    """Paints defects on the held-out images and scores them."""
    kinds, inputs = list[str](), list[Image]()
    spec = config.input.of_upright()

    def pictures() -> Iterator[Image]:
        for kind, picture, _ in painted(held_out, config.input):
            kinds.append(kind)
            inputs.append(preprocess(picture, spec.height, spec.width, spec.crop))
            yield picture

    count = len(held_out) * painted_on_each(len(held_out))
    scored = score_frames(graph, pictures(), count, spec, device, "painted defects")
    return PaintedSet(kinds, np.stack(inputs), scored)


def auroc(good: NDArray[np.float32], defective: NDArray[np.float32]) -> float:
    """How often a defective image's score is over a good one's."""
    labels = np.repeat([False, True], [len(good), len(defective)])
    return metrics.auroc(labels, np.concatenate((good, defective)))
