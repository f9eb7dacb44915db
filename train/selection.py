"""A figure to choose a recipe by without looking at a test image: held-out good images against painted defects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dskd.runtime.images import read_image
from dskd.train import metrics
from dskd.train.config import TrainConfig
from dskd.train.defects import PAINTERS, Image, Mask
from dskd.train.evaluate import EagerGraph, Scored, score_frames

PER_IMAGE = 2  # kinds painted on each held-out image
CONTRAST = (0.25, 0.7)  # faint: recipes differ in what is hard to see
SEED = 0  # the same defects for every recipe


def painted(held_out: list[Path]) -> Iterator[tuple[str, Image, Mask]]:
    """Kind, picture and mask of each defect, on every held-out image some of the kinds in turn."""
    rng, count = np.random.default_rng(SEED), len(PAINTERS)
    for i, path in enumerate(held_out):
        for k, (kind, painter) in enumerate(PAINTERS.items()):
            if (i + k) % count < PER_IMAGE:
                yield kind, *painter(read_image(path), rng, float(rng.uniform(*CONTRAST)))


def painted_auroc(
    graph: EagerGraph, good: Scored, held_out: list[Path], config: TrainConfig, device: torch.device
) -> dict[str, float]:
    """Image AUROC of ``good`` (the held-out images' scores) against the same images with defects: all and by kind."""
    kinds: list[str] = []

    def pictures() -> Iterator[Image]:
        for kind, picture, _ in painted(held_out):
            kinds.append(kind)
            yield picture

    count = len(held_out) * PER_IMAGE
    scores = score_frames(graph, pictures(), count, config.input, device, "painted defects").scores
    groups = {"all": np.ones(len(kinds), bool)} | {kind: np.array(kinds) == kind for kind in PAINTERS}
    return {name: round(_auroc(good.scores, scores[chosen]), 4) for name, chosen in groups.items() if chosen.any()}


def _auroc(good: np.ndarray, defective: np.ndarray) -> float:
    labels = np.repeat([False, True], [len(good), len(defective)])
    return metrics.auroc(labels, np.concatenate((good, defective)))
