"""Whether good parts lie mirrored or turned as well: asked of good pictures alone, before training, in seconds.

A way to lay pictures is taken where it leaves good pictures as usual as they are, by two tests. The distance to what is
usual in other good pictures hardly grows. And nobody can tell which picture was laid anew: what differs between the two in
other pictures says nothing about this one. The first sees how far a turned picture is from the usual, the second sees with
few pictures already that up is not down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dskd.runtime.result import Image
from dskd.train.config import TrainConfig
from dskd.train.data import read_input
from dskd.train.error_statistics import SHARED
from dskd.train.metrics import binomial
from dskd.train.networks.backbone import Encoder
from dskd.train.networks.image_input import ImageInput
from dskd.train.networks.usual_features import direction
from dskd.train.progress import progress
from dskd.train.settings import RunConfig
from dskd.train.turned import FLIPPED, HALF, MIRRORED, QUARTERS, WAYS, Turned, Way, require_square, turn

FEWEST = 20  # good pictures that can say no
LOOKED_AT = 96  # the most, where they have
SEED = 0
PIXELS = 256**2  # each; larger ones are fewer, so that the choice takes seconds
CELLS = 16  # rows and columns of features, at most
FOLDS = 4
COMPONENTS, RIDGE = 128, 0.1
SMALLEST = 1e-6  # where good pictures are all alike
BATCH = 16
FARTHER = 0.4  # of the spread of plain pictures' distances: what a way may add, its error included
CERTAIN = 1.64  # standard errors
TOLD = 0.75  # share of the pictures that must not be told from themselves laid anew,
CHANCE = 0.05  # and the chance that so few are told where it is that share
NAMES: dict[Way, str] = {MIRRORED: "mirrored", FLIPPED: "flipped", HALF: "turned by half", QUARTERS[0]: "by a quarter"}


@dataclass(frozen=True)
class Seen:
    """What ``pictures`` good ones say of one way to lay them.

    ``farther``: the mean growth of the distance's logarithm and its standard ``error``, in spreads of plain pictures.
    ``told``: how many are told from themselves laid so.
    """

    pictures: int
    farther: float
    error: float
    told: int

    def as_usual(self) -> bool:
        """Whether good parts lie so too."""
        chance = sum(binomial(k, self.pictures, TOLD) for k in range(self.told + 1))
        return self.farther + CERTAIN * self.error < FARTHER and chance < CHANCE

    def __str__(self) -> str:
        return f"{self.told / self.pictures:.0%} told apart, {self.farther:+.2f} spreads farther from the usual"


def settle_turned(config: TrainConfig, teacher: Encoder, good: Sequence[Path]) -> tuple[TrainConfig, str]:
    """``config`` with the copies decided, and why. Raises CallError where those asked for are not to be had."""
    asked, spec = config.data.turned, config.input
    if asked != "auto":
        require_square(asked, spec.height, spec.width)
        return config, f"{asked}: as asked for"
    if hindered := _hindrance(config, len(good)):
        return _with(config, "none"), f"none: {hindered}"
    most = min(max(LOOKED_AT * PIXELS // (spec.height * spec.width), FEWEST), LOOKED_AT)
    chosen = [good[k] for k in np.random.default_rng(SEED).permutation(len(good))[:most]]
    seen = judge(teacher, np.stack([read_input(path, spec) for path in chosen]))
    turned = choose(seen)
    shown = "; ".join(f"{name}: {seen[way]}" for way, name in NAMES.items() if way in seen)
    return _with(config, turned), f"{turned}: of {len(chosen)} good pictures laid otherwise ({shown})"


def _hindrance(config: RunConfig, good: int) -> str:
    """Why nothing is tried, empty where nothing is in its way."""
    if config.input.tiling:
        return "for tiles nothing is tried"
    return f"{good} good pictures are too few to tell, {FEWEST} are needed" if good < FEWEST else ""


def _with(config: TrainConfig, turned: Turned) -> TrainConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"turned": turned})})


def choose(seen: dict[Way, Seen]) -> Turned:
    """The setting with most ways that all leave pictures as usual as they are."""
    allowed = {way for way, found in seen.items() if found.as_usual()}
    return next(turned for turned, ways in WAYS.items() if allowed.issuperset(ways))


@torch.no_grad()
def judge(teacher: Encoder, pictures: Image) -> dict[Way, Seen]:
    """What good pictures [N, H, W, 3] say of every way that their shape allows."""
    square = pictures.shape[1] == pictures.shape[2]
    ways = WAYS["quarter_mirrored" if square else "half_mirrored"]
    teacher = teacher.to("cpu").eval()  # there every process of a group finds the same
    plain, count = _features(teacher, pictures), len(pictures)
    usual = [_Usual(plain[torch.arange(count) % FOLDS != fold].float()) for fold in range(FOLDS)]
    distances = _distances(usual, plain)
    spread = max(float(distances.std(ddof=1)), SMALLEST)
    seen = {}
    for way in progress(ways, desc="good pictures laid otherwise", unit="way"):
        laid = _features(teacher, turn(pictures, way))
        growth = (_distances(usual, laid) - distances) / spread
        seen[way] = Seen(count, float(growth.mean()), float(growth.std(ddof=1) / count**0.5), _told(plain, laid))
    return seen


def _features(teacher: Encoder, pictures: Image) -> Tensor:
    """Directions of the two coarser scales, [N, cells, C] in half precision."""
    to_input, parts = ImageInput(teacher.backbone), []
    for start in range(0, len(pictures), BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(pictures[start : start + BATCH]))
        _, middle, coarse = (direction(scale) for scale in teacher(to_input(batch)))
        size = min(coarse.shape[2], CELLS), min(coarse.shape[3], CELLS)
        joined = torch.cat([F.adaptive_avg_pool2d(scale, size) for scale in (middle, coarse)], 1)
        parts.append(joined.flatten(2).transpose(1, 2).half())
    return torch.cat(parts)


def _distances(usual: Sequence[_Usual], features: Tensor) -> NDArray[np.float32]:
    """Logarithm of each picture's distance to what is usual in other folds than its own, [N]."""
    found = np.zeros(len(features), np.float32)
    for fold, others in enumerate(usual):
        found[fold::FOLDS] = others.distance(features[fold::FOLDS].float()).log().numpy()
    return found


class _Usual:
    """Mean and covariance at each position, of features [N, cells, C]."""

    def __init__(self, features: Tensor) -> None:
        count, _, channels = features.shape
        flat = features.reshape(-1, channels)
        flat = flat - flat.mean(0)
        kept = min(COMPONENTS, channels)
        self._project = torch.linalg.eigh(flat.T @ flat / len(flat))[1][:, -kept:]
        found = (features @ self._project).transpose(0, 1)
        self._mean = found.mean(1, keepdim=True)
        rest = found - self._mean
        own = rest.transpose(1, 2) @ rest / count
        known = count / (count + SHARED)
        ridge = RIDGE * rest.square().mean().clamp_min(SMALLEST) * torch.eye(kept)
        self._root = torch.linalg.cholesky(known * own + (1 - known) * own.mean(0) + ridge)

    def distance(self, features: Tensor) -> Tensor:
        """Mean over the cells, [N]."""
        unusual = (features @ self._project).transpose(0, 1) - self._mean
        whitened = torch.linalg.solve_triangular(self._root, unusual.transpose(1, 2), upper=False)
        return whitened.square().sum(1).mean(0).clamp_min(SMALLEST)


def _told(plain: Tensor, laid: Tensor) -> int:
    """How many pictures differ from themselves laid anew in the direction in which the others do."""
    spread = torch.cat((plain, laid)).float().flatten(1).var(0)
    difference = (plain.float() - laid.float()).flatten(1) / (spread + RIDGE * spread.mean() + SMALLEST).sqrt()
    alike = difference @ difference.T
    return int((alike.sum(1) - alike.diagonal() > 0).sum())
