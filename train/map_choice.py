"""Which map a part gets: where what is usual is known, and how much the students' errors count.

Held-out good pictures and the same with painted defects decide; no test picture is looked at, nothing is trained anew.
Every candidate is a weighted sum of the same few maps, so one look at each picture judges them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dskd.runtime.inspection.preprocess import preprocess
from dskd.runtime.result import Image
from dskd.train.config import TrainConfig
from dskd.train.data import read_upright
from dskd.train.evaluate import EagerGraph
from dskd.train.local_statistics import Pictures, fit_usual, plain_or_usual, unit_of
from dskd.train.networks.joined_distance import FIRST, JoinedDistances, Shares
from dskd.train.networks.local_distance import LocalDistance
from dskd.train.networks.maps import AnomalyMap
from dskd.train.networks.nearest_distance import NearestDistance
from dskd.train.networks.usual_features import UsualFeatures
from dskd.train.progress import progress
from dskd.train.selection import auroc, painted, painted_on_each

Usual = Literal["here", "anywhere"]
Floats = NDArray[np.float32]
USUAL: tuple[Usual, ...] = ("here", "anywhere")
# Of the three scales, fine to coarse. The finest takes a fifth more time on the device, so it is left to ask for.
STUDENTS = ((0.0, 1.0, 0.0), (0.0, 0.5, 0.5))
AMOUNTS = (1.0, 0.75, 0.5, 0.25, 0.0)  # of the distance to the usual
ALL: Shares = (0.25, 0.25, 0.25, 0.25)
FEWEST_HELD_OUT = 8  # pictures that can tell candidates apart
CLEAR = 0.005  # of image AUROC by which another candidate must be ahead of the first, and by
SURE = 2.0  # standard errors of the difference: pictures are few, candidates many


@dataclass(frozen=True)
class Candidate:
    """A map that a part may get."""

    usual: Usual
    shares: Shares

    def __str__(self) -> str:
        where = "of each position" if self.usual == "here" else "of the part as a whole"
        named = zip((f"what is usual {where}", "fine", "middle", "coarse"), self.shares, strict=True)
        return ", ".join(f"{name} {share:.2f}" for name, share in named if share)


def candidates(config: TrainConfig) -> list[Candidate]:
    """What the settings leave open, the first in favour."""
    chosen = config.map
    kinds = [chosen.usual] if chosen.usual else USUAL
    if chosen.shares:
        return [Candidate(kind, chosen.shares) for kind in kinds]
    amounts = sorted(AMOUNTS, key=lambda amount: abs(amount - FIRST[0]))
    found = [
        Candidate(kind, (amount, *((1 - amount) * part for part in scales)))  # type: ignore[arg-type]
        for amount in amounts
        for scales in STUDENTS
        for kind in (kinds if amount else kinds[:1])
    ]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Settled:
    """The configuration with everything about its map decided, why, and what is usual where it was learnt on the way."""

    config: TrainConfig
    reason: str
    learnt: UsualFeatures | None = None


def is_open(config: TrainConfig, held_out: int) -> bool:
    """Whether so many held-out pictures choose between maps; else ``settle_map`` takes the first at once."""
    enough = held_out >= FEWEST_HELD_OUT and not config.input.tiling
    return config.map.distance == "joined" and enough and len(candidates(config)) > 1


def settle_map(
    config: TrainConfig, graph: EagerGraph, images: Pictures, held_out: Sequence[Path], device: torch.device
) -> Settled:
    """Decides what ``config`` leaves open. ``graph`` gives the features that ship, ``images`` were trained on."""
    if config.map.distance != "joined":
        return Settled(config, f"{config.map.distance}: as asked for")
    open_to = candidates(config)
    first = open_to[0]
    if len(open_to) == 1:
        return Settled(_with(config, first), f"{first}: as asked for")
    if config.input.tiling:
        return Settled(_with(config, first), f"{first}: for tiles nothing else is tried")
    if len(held_out) < FEWEST_HELD_OUT:
        return Settled(_with(config, first), f"{first}: {len(held_out)} held-out pictures are too few to choose by")
    looking = Looking(config, graph, images, sorted({c.usual for c in open_to}), device)
    judged = judge(looking, held_out, open_to)
    best = open_to[judged.best()]
    told = dict(zip(open_to, judged.figures(), strict=True))
    reason = f"{best}: image AUROC {told[best]:.3f} against painted defects on held-out good pictures"
    if best != first:
        reason += f", {told[first]:.3f} with {first}"
    return Settled(_with(config, best), reason, looking.distances[best.usual])


@dataclass(frozen=True)
class Judged:
    """Scores of C candidates, the first in favour: of N good pictures [N, C], and of defects painted on them [M, C].

    ``of`` says on which picture each defect was painted, [M].
    """

    good: Floats
    painted: Floats
    of: NDArray[np.int64]

    def figures(self, without: int | None = None) -> NDArray[np.float64]:
        """Image AUROC of each candidate [C], also as it would be ``without`` one of the pictures."""
        good, marked = np.arange(len(self.good)) != without, self.of != without
        columns = zip(self.good[good].T, self.painted[marked].T, strict=True)
        return np.array([auroc(*scores) for scores in columns])

    def best(self) -> int:
        """The candidate with the highest figure, or the first where none is ahead of it clearly and surely."""
        figures = self.figures()
        best, count = int(figures.argmax()), len(self.good)
        pair = Judged(self.good[:, [0, best]], self.painted[:, [0, best]], self.of)
        leads = np.array([np.subtract(*pair.figures(k)[::-1]) for k in range(count)])  # jackknife over pictures
        error = float(np.sqrt((count - 1) * leads.var()))
        return best if figures[best] - figures[0] > max(CLEAR, SURE * error) else 0


def _with(config: TrainConfig, chosen: Candidate) -> TrainConfig:
    decided = config.map.model_copy(update={"usual": chosen.usual, "shares": chosen.shares})
    return config.model_copy(update={"map": decided})


@torch.no_grad()
def judge(looking: Looking, held_out: Sequence[Path], open_to: Sequence[Candidate]) -> Judged:
    """Each candidate on the held-out pictures and on painted defects."""
    bar = progress(held_out, desc="good pictures", unit="image")
    good = np.stack([looking(read_upright(path, looking.spec)) for path in bar])
    units = [unit_of(good[:, k, ::2, ::2]) for k in range(good.shape[1])]
    weights = np.stack([looking.weights(candidate, units) for candidate in open_to])
    calm = np.stack([_scores(maps, weights) for maps in good])
    drawn = progress(painted(list(held_out), looking.spec), desc="painted defects", unit="image")
    marked = np.stack([_scores(looking(picture), weights) for _, picture, _ in drawn])
    return Judged(calm, marked, np.repeat(np.arange(len(held_out)), painted_on_each(len(held_out))))


def _scores(maps: Floats, weights: Floats) -> Floats:
    """Of each candidate [C]: the highest value of its sum of ``maps`` [M, H, W]."""
    return np.asarray((weights @ maps.reshape(len(maps), -1)).max(1), np.float32)


class Looking:
    """Pictures through the networks to the plain maps: one for each way to know what is usual, one for each scale."""

    def __init__(
        self, config: TrainConfig, graph: EagerGraph, images: Pictures, kinds: Sequence[Usual], device: torch.device
    ) -> None:
        self.spec, self._graph, self._device = config.input, graph.to(device).eval(), device
        self.distances: dict[Usual, LocalDistance | NearestDistance] = {}
        for kind in kinds:
            wanted = config.map.model_copy(update={"usual": kind})
            distance = plain_or_usual(config.model_copy(update={"map": wanted}))
            assert isinstance(distance, LocalDistance | NearestDistance)
            self.distances[kind] = distance.to(device)
        fit_usual(graph, list(self.distances.values()), images, config.map.ridge, device)
        self._joined = JoinedDistances(self.distances[kinds[0]], ALL)
        self._map = AnomalyMap(config.input.height, config.input.width, config.map.sigma, self._joined).to(device)

    def __call__(self, picture: Image) -> Floats:
        """The maps [M, H, W] of one picture of any size."""
        spec = self.spec
        inputs = preprocess(picture, spec.height, spec.width, spec.crop)[None]
        features = self._graph.path(self._graph.to_input(torch.from_numpy(inputs).to(self._device)))
        first, *scales = self._joined.each(*features)
        usual = [(distance(*features)[0], first[1]) for distance in self.distances.values()]
        return torch.cat([self._map.enlarged(*part) for part in (*usual, *scales)]).cpu().numpy()

    def weights(self, candidate: Candidate, units: Sequence[float]) -> Floats:
        """What each map counts in ``candidate``, [M]."""
        own = [candidate.shares[0] if kind == candidate.usual else 0.0 for kind in self.distances]
        return np.array(
            [share / unit for share, unit in zip((*own, *candidate.shares[1:]), units, strict=True)], np.float32
        )


def as_decided(asked: TrainConfig, done: TrainConfig) -> TrainConfig:
    """``asked`` with what it leaves open as ``done`` has it: about its map and its pictures."""
    taken = {name: getattr(done.map, name) for name in ("usual", "shares") if getattr(asked.map, name) is None}
    open_to = {"held_out": None, "turned": "auto"}
    found = {name: getattr(done.data, name) for name, free in open_to.items() if getattr(asked.data, name) == free}
    changed = {"map": asked.map.model_copy(update=taken), "data": asked.data.model_copy(update=found)}
    return asked.model_copy(update=changed)
