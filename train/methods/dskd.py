"""Dual-student knowledge distillation (Yao & Gao 2024, arXiv 2402.00448).

A frozen teacher T, an encoder student Se, and a decoder student Sd, joined by the deep feature embedding (DFE).
Training feeds the DFE with both students' sources at once ("mixed feeding"): Se's features, so that the students
learn together, and T's, so that the path without Se is what was trained. Two readings follow at inference:

* "teacher" (B): x -> T -> DFE -> Sd, compare T with Sd. Se is not needed and is pruned away. The default.
* "encoder_student" (A): x -> T; x -> Se -> DFE -> Sd; compare T with Sd.

The paper's losses, widths and recipe could not be confirmed; docs/decisions.md says what was chosen and why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dskd.runtime.configuration.strict_yaml import Strict
from dskd.train.methods.base import Features, InferencePath, Method, each_scale, own_settings
from dskd.train.methods.rd import DecoderPath, ReverseDistillation
from dskd.train.methods.stfpm import FeaturePyramidMatching
from dskd.train.networks.backbone import Backbone, Encoder
from dskd.train.networks.decoder import Decoder
from dskd.train.settings import RunConfig


class DskdConfig(Strict):
    """Dual-student distillation and its ablations."""

    students: Literal["both", "encoder", "decoder"] = Field(
        "both", description="'decoder' alone is RD, 'encoder' alone STFPM, both with this method's recipe"
    )
    fusion: bool = Field(True, description="embed all three scales; false: the coarsest only")
    joint: bool = Field(True, description="let the decoder student's loss reach the encoder student")
    mixed: float = Field(
        0.25, gt=0, le=1, description="share of the batch whose encoder student's features the embedding is fed as well"
    )
    encoder_start: Literal["fresh", "teacher"] = Field(
        "fresh",
        description="weights the encoder student starts from; teacher: it knows good parts from the first step on and "
        "has only to learn to undo",
    )
    encoder_rate: float = Field(1.0, gt=0, description="factor on the learning rate for the encoder student")


class EncoderFedPath(DecoderPath):
    """Teacher, encoder student and decoder student; the encoder student feeds the embedding (reading A)."""

    def __init__(self, teacher: Encoder, encoder_student: Encoder, embedding: nn.Module, decoder: Decoder) -> None:
        super().__init__(teacher, embedding, decoder)
        self.encoder_student = encoder_student

    def forward(self, image: Tensor) -> tuple[Features, Features]:
        """See InferencePath."""
        return self.teacher(image), self.decoder(self.embedding(self.encoder_student(image)))


class DualStudent(ReverseDistillation):
    """Reverse distillation whose embedding is fed by an encoder student too."""

    Settings: ClassVar[type[Strict]] = DskdConfig
    recipe: ClassVar[Mapping[str, Mapping[str, object]]] = {}  # the defaults are this method's own

    def __init__(self, config: RunConfig, backbone: Backbone, teacher: Encoder) -> None:
        own = own_settings(config, DskdConfig)
        encoder_student = backbone.encoder()  # first: a seed keeps its weights
        super().__init__(config, backbone, teacher, own.fusion)
        if own.encoder_start == "teacher":
            encoder_student.load_state_dict(teacher.state_dict())
        self.own, self.encoder_student = own, encoder_student

    @classmethod
    def of(cls, config: RunConfig, backbone: Backbone, teacher: Encoder) -> Method:
        """The two students, or the method that one of them alone is."""
        own = own_settings(config, DskdConfig)
        if own.students == "decoder":
            return ReverseDistillation(config, backbone, teacher, own.fusion)
        if own.students == "encoder":
            return FeaturePyramidMatching(config, backbone, teacher, own.encoder_rate)
        return cls(config, backbone, teacher)

    def forward(self, clean: Tensor, seen: Tensor) -> dict[str, Tensor]:
        """See Method. Terms: ``encoder_student``, ``decoder_student``."""
        target, source = self._teach(clean, seen)
        encoded = self.encoder_student(seen)
        fed = math.ceil(self.own.mixed * len(seen))
        given = encoded if self.own.joint else each_scale(torch.detach, encoded)
        # One pass over the concatenation, so that BatchNorm sees one mixed distribution.
        source = each_scale(lambda taught, own: torch.cat((taught, own[:fed])), source, given)
        wanted = each_scale(lambda feature: torch.cat((feature, feature[:fed])), target)
        rebuilt = self.decoder(self.embedding(source))
        return {
            "encoder_student": self._distance(target, encoded, self.config.loss.l2_encoder),
            "decoder_student": self._distance(wanted, rebuilt, self.config.loss.l2_decoder),
        }

    def parameter_groups(self) -> list[dict[str, object]]:
        """See Method. The encoder student, deep and from scratch, may have a rate of its own."""
        rate = self.config.recipe.learning_rate * self.own.encoder_rate
        return [*super().parameter_groups(), {"params": list(self.encoder_student.parameters()), "lr": rate}]

    def readings(self) -> tuple[str, ...]:
        """See Method."""
        return "teacher", "encoder_student"

    def inference_path(self, reading: str) -> InferencePath:
        """See Method."""
        if self._known(reading) == "teacher":
            return super().inference_path(reading)
        return EncoderFedPath(self.teacher, self.encoder_student, self._bottleneck(), self.decoder)


METHOD = DualStudent
