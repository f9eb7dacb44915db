"""URD ("Unlocking the Potential of Reverse Distillation", AAAI 2025): a teacher of its own, and injected features.

A frozen expert teaches the teacher to answer with the expert's features on good images and with something else where a
texture was painted in. The decoder student is then asked for the good image's features by both. The released scripts
run the injection without its guide; ``urd.injection=plain`` is that. Foreground masks for the painted textures are left
out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dskd.runtime.configuration.strict_yaml import Strict
from dskd.train import losses
from dskd.train.methods.base import Features, InferencePath, own_settings
from dskd.train.methods.rd import RD_RECIPE, DecoderPath, ReverseDistillation
from dskd.train.networks.backbone import Backbone, Encoder
from dskd.train.networks.decoder import Decoder
from dskd.train.networks.injection import InjectedDecoder
from dskd.train.settings import RunConfig

TEACHER, STUDENT = 0, 1  # phases


class UrdConfig(Strict):
    """Expert, teacher and injection."""

    injection: Literal["guided", "plain"] = Field("guided", description="guided: the paper's; plain: as released")
    teacher_rate: float = Field(0.02, gt=0, description="factor on the learning rate for the teacher")


class InjectedPath(DecoderPath):
    """Teacher and decoder student; the teacher feeds the embedding and the decoder."""

    def forward(self, image: Tensor) -> tuple[Features, Features]:
        """See InferencePath."""
        features = self.teacher(image)
        return features, self.decoder(self.embedding(features), features)


class GuidedReverseDistillation(ReverseDistillation):
    """Two steps for each batch: first the teacher, then the student with the new teacher."""

    Settings: ClassVar[type[Strict]] = UrdConfig
    recipe: ClassVar[Mapping[str, Mapping[str, object]]] = {
        **RD_RECIPE,
        "augment": {"pseudo_anomalies": 1.0, "kind": "texture"},
        "recipe": {**RD_RECIPE["recipe"], "epochs": 125},  # 5,000 steps on 640 images
    }
    phases: ClassVar[int] = 2

    def __init__(self, config: RunConfig, backbone: Backbone, teacher: Encoder) -> None:
        super().__init__(config, backbone, teacher)
        self.own = own_settings(config, UrdConfig)
        self.expert = teacher
        self.teacher = copy.deepcopy(teacher).requires_grad_(True)
        for part in (*self.embedding.modules(), *self.decoder.modules()):
            if isinstance(part, nn.Conv2d):
                nn.init.xavier_normal_(part.weight)

    def _new_decoder(self, backbone: Backbone) -> Decoder:
        guided = own_settings(self.config, UrdConfig).injection == "guided"
        return InjectedDecoder(backbone, self.embedding.channels, self.config.decoder.width, guided)

    def forward(self, clean: Tensor, seen: Tensor, phase: int = STUDENT) -> dict[str, Tensor]:
        """See Method. Terms: ``normal``, ``altered`` and ``whole`` of the teacher, then ``decoder_student``."""
        with torch.no_grad():
            wanted: Features = self.expert(clean)
        return self._teacher_step(clean, seen, wanted) if phase == TEACHER else self._student_step(clean, seen, wanted)

    def _teacher_step(self, clean: Tensor, seen: Tensor, wanted: Features) -> dict[str, Tensor]:
        with torch.no_grad():
            whole: Features = self.expert(seen)
        self.teacher.train()
        normal, altered = self.teacher(clean), self.teacher(seen)
        self.teacher.eval()
        mask = (clean != seen).any(1, keepdim=True).float()
        return {
            "normal": losses.cosine(wanted, normal),
            "altered": losses.masked_cosine(altered, wanted, mask),
            "whole": losses.flattened_cosine(whole, altered),
        }

    def _student_step(self, clean: Tensor, seen: Tensor, wanted: Features) -> dict[str, Tensor]:
        with torch.no_grad():
            taught: Features = self.teacher(torch.cat((clean, seen)))
        rebuilt = self.decoder(self.embedding(taught), taught)
        halves = [tuple(feature.chunk(2)[k] for feature in rebuilt) for k in range(2)]
        normal = tuple(feature[: len(clean)] for feature in taught)
        terms = [self._distance(target, half) for half in halves for target in (normal, wanted)]  # type: ignore[arg-type]
        return {"decoder_student": torch.stack(terms).sum()}

    def parameter_groups(self) -> list[dict[str, object]]:
        """See Method."""
        rate = self.config.recipe.learning_rate * self.own.teacher_rate
        return [*super().parameter_groups(), {"params": list(self.teacher.parameters()), "lr": rate}]

    def train(self, mode: bool = True) -> GuidedReverseDistillation:
        """The expert stays in evaluation mode, the teacher too except in its own step."""
        super().train(mode)
        self.expert.eval()
        return self

    def inference_path(self, reading: str) -> InferencePath:
        """See Method."""
        self._known(reading)
        return InjectedPath(self.teacher, self.embedding, self.decoder)


METHOD = GuidedReverseDistillation
