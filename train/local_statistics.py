"""After training: what is usual, from the good images the model was trained on, and the measure of each distance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dskd.runtime.result import Image
from dskd.train.config import TrainConfig
from dskd.train.error_statistics import ErrorStatistics, Floats, PrincipalComponents, SeenFeatures
from dskd.train.evaluate import BATCH, EagerGraph
from dskd.train.methods.base import Features
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.joined_distance import FIRST, JoinedDistances
from dskd.train.networks.local_distance import LocalDistance
from dskd.train.networks.maps import AnomalyMap, CosineDistances, Distances, SquaredDistances
from dskd.train.networks.nearest_distance import NearestDistance
from dskd.train.networks.usual_features import UsualFeatures
from dskd.train.progress import progress
from dskd.train.turned import Copies

ENOUGH = 96  # images, each with hundreds of positions, from which principal components are known well
HIGH, HIGHER = 0.9, 0.995  # quantiles of good pictures' maps that stand one unit apart
Pictures = Image | Copies  # network inputs [N, H, W, 3]
SMALLEST_UNIT = 1e-6  # where good pictures' maps are flat


def build_map(config: TrainConfig) -> AnomalyMap:
    """The map that ``config.map`` asks for; what it learns from good pictures is void yet."""
    chosen, distances = config.map, plain_or_usual(config)
    if chosen.distance == "joined":
        assert isinstance(distances, LocalDistance | NearestDistance)
        distances = JoinedDistances(distances, chosen.shares or FIRST)
    return AnomalyMap(config.input.height, config.input.width, chosen.sigma, distances, chosen.fusion, chosen.score)


def plain_or_usual(config: TrainConfig) -> Distances:
    """The distance itself, or the one to the usual that is joined with the students' errors."""
    chosen = config.map
    if chosen.distance in ("cosine", "l2"):
        return (SquaredDistances if chosen.distance == "l2" else CosineDistances)(chosen.scale_weights)
    size = BACKBONES[config.backbone].channels, config.input.height, config.input.width, chosen.scale_weights
    context = chosen.distance == "joined" if chosen.context is None else chosen.context
    if chosen.usual == "anywhere":
        return NearestDistance(*size, chosen.components, chosen.remembered, context)
    return LocalDistance(*size, chosen.components, chosen.rank, config.input.tiling is not None, context)


@torch.no_grad()
def fit_map(
    graph: EagerGraph,
    images: Pictures,
    held_out: Image,
    ridge: float,
    device: torch.device,
    learnt: UsualFeatures | None = None,
) -> None:
    """Sets what ``graph``'s map learns: the usual from ``images``, units from ``held_out``, both good [N, H, W, 3].

    What is usual is taken from ``learnt`` where that was learnt from the same pictures.
    """
    graph.to(device).eval()
    distances = graph.anomaly_map.distances
    usual = distances.to_usual if isinstance(distances, JoinedDistances) else distances
    if learnt is not None:
        usual.load_state_dict(learnt.state_dict())
    elif isinstance(usual, UsualFeatures):
        fit_usual(graph, [usual], images, ridge, device)
    if isinstance(distances, JoinedDistances):
        fit_factors(graph, held_out, device)


@torch.no_grad()
def fit_usual(
    graph: EagerGraph, distances: Sequence[UsualFeatures], images: Pictures, ridge: float, device: torch.device
) -> None:
    """Sets what is usual in ``distances``, which see the same features, from good images."""
    first = distances[0].to(device)
    principal = PrincipalComponents(first.project.shape[0])
    for features in looks(graph, images[:: -(-len(images) // ENOUGH)], device, "principal components"):
        principal.add(first.vectors(*features).cpu().numpy())
    for distance in distances:
        distance.to(device).learn_components(principal.strongest(distance.project.shape[1]))
    learners = [_learner(distance, len(images), ridge) for distance in distances]
    for features in looks(graph, images, device, "what is usual"):
        found = first.components(*features).cpu().numpy()
        for learner in learners:
            learner.add(found)
    for learner in learners:
        learner.finish()


class _Gaussians:
    """Gathers what a local distance learns."""

    def __init__(self, distance: LocalDistance, ridge: float) -> None:
        self._distance, self._ridge = distance, ridge
        positions, _, channels = distance.mean.shape  # one position where all share it
        self._shape = positions, -1, channels
        self._statistics = ErrorStatistics(positions, channels)

    def add(self, found: Floats) -> None:
        """Components [HW, B, C] of a batch."""
        self._statistics.add(found.reshape(self._shape))

    def finish(self) -> None:
        """Hands over what was gathered."""
        self._distance.learn(self._statistics.usual_errors(self._distance.usual.shape[2], self._ridge))


class _Seen:
    """Gathers what a nearest distance learns."""

    def __init__(self, distance: NearestDistance, images: int) -> None:
        self._distance, self._features = distance, SeenFeatures(images)
        self.add = self._features.add

    def finish(self) -> None:
        """Hands over what was gathered."""
        self._distance.learn(self._features.remembered(self._distance.seen.shape[1]))


def _learner(distance: UsualFeatures, images: int, ridge: float) -> _Gaussians | _Seen:
    if isinstance(distance, NearestDistance):
        return _Seen(distance, images)
    assert isinstance(distance, LocalDistance)
    return _Gaussians(distance, ridge)


@torch.no_grad()
def fit_factors(graph: EagerGraph, held_out: Image, device: torch.device) -> None:
    """Brings the joined distances of ``graph`` to one unit, and the map to 1 at a high quantile of good pictures."""
    anomaly_map = graph.to(device).anomaly_map
    joined = anomaly_map.distances
    assert isinstance(joined, JoinedDistances)
    maps = [
        torch.stack([anomaly_map.enlarged(*part) for part in joined.each(*features)])[..., ::2, ::2]
        for features in looks(graph, held_out, device, "units of the map")
    ]
    found = torch.cat(maps, 1).cpu().numpy()  # a quarter of the positions: the maps are smooth
    shares = [share for share in joined.shares if share]
    weights = [share / unit_of(part) for share, part in zip(shares, found, strict=True)]
    level = float(np.quantile(np.tensordot(weights, found, 1), HIGHER))
    given = iter(weights)
    joined.learn([next(given) / max(level, SMALLEST_UNIT) if share else 0.0 for share in joined.shares])


def unit_of(maps: Floats) -> float:
    """What counts as one step in maps of good pictures: how far apart two high quantiles lie."""
    high, higher = np.quantile(maps, (HIGH, HIGHER))
    return max(float(higher - high), SMALLEST_UNIT)


def looks(graph: EagerGraph, images: Pictures, device: torch.device, label: str) -> Iterator[tuple[Features, Features]]:
    """Teacher and student features of images [N, H, W, 3], batch by batch."""
    for start in progress(range(0, len(images), BATCH), desc=label, unit="batch"):
        batch: Tensor = torch.from_numpy(np.array(images[start : start + BATCH])).to(device)
        yield graph.path(graph.to_input(batch))
