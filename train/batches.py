"""Batches whose content depends on seed, epoch and position only, so that a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dskd.runtime.errors import CallError
from dskd.runtime.result import Image
from dskd.train.augment import augment
from dskd.train.settings import AugmentConfig
from dskd.train.turned import Turned, drawn

Draw = tuple[int, int]


class AugmentedImages(Dataset[tuple[Image, Image]]):
    """Item (epoch, index) -> (clean, seen), both uint8 [H, W, 3]."""

    def __init__(self, images: Image, config: AugmentConfig, seed: int, turned: Turned = "none") -> None:
        self.images, self.config, self.seed, self.turned = images, config, seed, turned

    def __getitem__(self, draw: Draw) -> tuple[Image, Image]:
        epoch, index = draw
        rng = np.random.default_rng([self.seed, epoch, index])
        return augment(drawn(np.asarray(self.images[index]), self.turned, rng), self.config, rng)


class Schedule:
    """Batches of draws from ``first_step`` to the end of the last epoch, for one of ``world`` processes.

    Each epoch is a fresh permutation; its last, incomplete batch is left out. Where ``products`` counts the images of
    several products, in order, each of them gets the same share of every epoch: small ones come more than once.
    """

    def __init__(
        self,
        count: int,
        batch: int,
        epochs: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        products: Sequence[int] = (),
    ) -> None:
        if count < world:
            raise CallError(f"{count} training images are too few for {world} processes; start fewer")
        self.count, self.batch, self.seed, self.rank, self.world = count, min(batch, count // world), seed, rank, world
        self.products = products
        self.steps_per_epoch = count // (self.batch * world)
        self.steps = epochs * self.steps_per_epoch
        self.first_step = 0

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.first_step, self.steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if position == 0 or step == self.first_step:
                order = self._order(np.random.default_rng([self.seed, epoch]))
            start = (position * self.world + self.rank) * self.batch
            yield [(epoch, int(index)) for index in order[start : start + self.batch]]

    def _order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Indices of an epoch."""
        if len(self.products) < 2:
            return rng.permutation(self.count)
        each, start, columns = -(-self.count // len(self.products)), 0, []
        for size in self.products:
            rounds = [rng.permutation(size) for _ in range(-(-each // size))]
            columns.append(start + np.concatenate(rounds)[:each])
            start += size
        return np.stack(columns, axis=1).ravel()[: self.count]  # products in turn, so in every batch

    def __len__(self) -> int:
        return self.steps - self.first_step


def collate(items: list[tuple[Image, Image]]) -> tuple[Tensor, Tensor]:
    """Two uint8 [B, H, W, 3]."""
    clean, seen = zip(*items, strict=True)
    return torch.from_numpy(np.stack(clean)), torch.from_numpy(np.stack(seen))


def batches(
    images: Image, config: AugmentConfig, schedule: Schedule, workers: int, turned: Turned = "none"
) -> DataLoader[tuple[Image, Image]]:
    """Loads what ``schedule`` draws, in ``workers`` processes (0: in this one)."""
    dataset = AugmentedImages(images, config, schedule.seed, turned)
    return DataLoader(dataset, batch_sampler=schedule, num_workers=workers, collate_fn=collate)  # type: ignore[arg-type]
