"""What the training loop, the evaluation and the export ask of a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from dskd.runtime.bundle.manifest import Reading
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.errors import CallError
from dskd.train import losses
from dskd.train.methods import METHODS
from dskd.train.networks.backbone import Backbone, Encoder
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.embedding import Features as Features
from dskd.train.settings import RunConfig

_READING: TypeAdapter[str] = TypeAdapter(Reading)
_Settings = TypeVar("_Settings", bound=Strict)


class NoSettings(Strict):
    """For methods that need none of their own."""


class InferencePath(nn.Module, ABC):
    """The part of a method that runs on the device, and nothing else."""

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Features, Features]:
        """Normalised RGB [B, 3, H, W] -> (teacher features, student features), three scales each."""

    def drop_finest(self) -> None:
        """Forgets what only the finest scale of the student needs, for maps that leave it out. Its features are void."""


class Method(nn.Module, ABC):
    """A frozen teacher and what is trained against it. ``forward`` is the training step, so that DDP can wrap it.

    ``Settings`` is the method's own section of the configuration; ``recipe`` holds, by section, what its authors ran
    where that differs from the defaults. A method of several ``phases`` takes its phase as a third argument of
    ``forward``; after each one the optimiser steps the parameters that got a gradient.
    """

    Settings: ClassVar[type[Strict]] = NoSettings
    recipe: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    phases: ClassVar[int] = 1

    def __init__(self, config: RunConfig, backbone: Backbone, teacher: Encoder) -> None:
        super().__init__()
        self.config = config
        self.teacher = teacher

    @classmethod
    def of(cls, config: RunConfig, backbone: Backbone, teacher: Encoder) -> Method:
        """The method with fresh students around ``teacher``; an ablation may be another class."""
        return cls(config, backbone, teacher)

    @abstractmethod
    def forward(self, clean: Tensor, seen: Tensor) -> dict[str, Tensor]:
        """Named loss terms whose sum is minimised; both images normalised RGB [B, 3, H, W].

        ``clean`` is the good image, ``seen`` the same image as the networks meet it (with pseudo-anomalies or not).
        """

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, object]]:
        """Optimiser groups with their learning rates."""

    @abstractmethod
    def readings(self) -> Iterable[str]:
        """Names of the inference paths this method has, the exported default first."""

    @abstractmethod
    def inference_path(self, reading: str) -> InferencePath:
        """The path of that name; shares its weights with the method."""

    def train(self, mode: bool = True) -> Method:
        """Students follow ``mode``; the teacher always stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def _teach(self, clean: Tensor, seen: Tensor) -> tuple[Features, Features]:
        """The teacher's features of both images; only those that differ run twice."""
        target: Features = self.teacher(clean)
        changed = (clean != seen).flatten(1).any(1)
        if not changed.any():
            return target, target
        fine, middle, coarse = target
        taught = fine.clone(), middle.clone(), coarse.clone()
        for feature, altered in zip(taught, self.teacher(seen[changed]), strict=True):
            feature[changed] = altered
        return target, taught

    def _distance(self, target: Features, student: Features, l2_weight: float = 0.0) -> Tensor:
        """The distillation loss that the section ``loss`` asks for."""
        wanted = self.config.loss
        direction = losses.flattened_cosine if wanted.flattened else losses.cosine
        loss = wanted.cosine * direction(target, student)
        if not l2_weight:
            return loss
        return loss + l2_weight * losses.l2(target, student, wanted.l2_form == "normalised")

    def _known(self, reading: str) -> str:
        if reading not in self.readings():
            raise ValueError(f"no reading {reading!r}; this model has {', '.join(self.readings())}")
        return reading


def build(config: RunConfig, teacher: Encoder) -> Method:
    """The method that ``config`` names, with fresh students around ``teacher``.

    Raises CallError where an inference path has a name that no manifest can hold: found here, hours before the export.
    """
    method = METHODS[config.method].of(config, BACKBONES[config.backbone], teacher)
    for reading in method.readings():
        try:
            _READING.validate_python(reading)
        except ValidationError as error:
            raise CallError(
                f"method {config.method}: its inference path {reading!r} needs a name of small letters, digits and _, "
                "a letter first; rename it in readings()"
            ) from error
    return method


def own_settings(config: RunConfig, kind: type[_Settings]) -> _Settings:
    """The section of the method that ``config`` names."""
    found = getattr(config, config.method)
    assert isinstance(found, kind)
    return found


def each_scale(function: Callable[..., Tensor], *features: Features) -> Features:
    """Applies ``function`` to each scale."""
    fine, middle, coarse = (function(*scale) for scale in zip(*features, strict=True))
    return fine, middle, coarse
