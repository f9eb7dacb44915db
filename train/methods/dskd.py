"""Dual-student knowledge distillation (Yao & Gao 2024, arXiv 2402.00448).

A frozen teacher T, an encoder student Se, and a decoder student Sd, joined by the deep feature embedding (DFE).
Training feeds the DFE with both students' sources at once ("mixed feeding"): Se's features, so that the students
learn together, and T's, so that the path without Se is what was trained. Two readings follow at inference:

* "teacher" (B): x -> T -> DFE -> Sd, compare T with Sd. Se is not needed and is pruned away. The default.
* "encoder_student" (A): x -> T; x -> Se -> DFE -> Sd; compare T with Sd.

The paper's losses, widths and recipe could not be confirmed; docs/architecture.md says what was chosen and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from train import losses
from train.config import TrainConfig
from train.methods.base import Features, InferencePath, Method
from train.networks.decoder import Decoder
from train.networks.embedding import DeepFeatureEmbedding
from train.networks.resnet import Backbone, Encoder

_T = TypeVar("_T", bound=nn.Module)


class DecoderPath(InferencePath):
    """Teacher and decoder student; the teacher feeds the embedding (reading B, and RD)."""

    def __init__(self, teacher: Encoder, embedding: DeepFeatureEmbedding, decoder: Decoder) -> None:
        super().__init__()
        self.teacher, self.embedding, self.decoder = teacher, embedding, decoder

    def forward(self, image: Tensor) -> tuple[Features, Features]:
        """See InferencePath."""
        features = self.teacher(image)
        return features, self.decoder(self.embedding(features))

    def drop_finest(self) -> None:
        """See InferencePath."""
        self.decoder.stage1 = nn.Identity()


class EncoderFedPath(InferencePath):
    """Teacher, encoder student and decoder student; the encoder student feeds the embedding (reading A)."""

    def __init__(
        self, teacher: Encoder, encoder_student: Encoder, embedding: DeepFeatureEmbedding, decoder: Decoder
    ) -> None:
        super().__init__()
        self.teacher, self.encoder_student, self.embedding, self.decoder = teacher, encoder_student, embedding, decoder

    def forward(self, image: Tensor) -> tuple[Features, Features]:
        """See InferencePath."""
        return self.teacher(image), self.decoder(self.embedding(self.encoder_student(image)))

    def drop_finest(self) -> None:
        """See InferencePath."""
        self.decoder.stage1 = nn.Identity()


class EncoderPath(InferencePath):
    """Teacher and encoder student compared directly: the ablation without a decoder (as STFPM)."""

    def __init__(self, teacher: Encoder, encoder_student: Encoder) -> None:
        super().__init__()
        self.teacher, self.encoder_student = teacher, encoder_student

    def forward(self, image: Tensor) -> tuple[Features, Features]:
        """See InferencePath."""
        return self.teacher(image), self.encoder_student(image)


class DualStudent(Method):
    """DSKD, and by ``config.dskd.students`` its ablations."""

    def __init__(self, config: TrainConfig, backbone: Backbone, teacher: Encoder) -> None:
        super().__init__(config, backbone, teacher)
        students = config.dskd.students
        self.encoder_student = None if students == "decoder" else Encoder(backbone)
        self.embedding = None if students == "encoder" else DeepFeatureEmbedding(backbone, config.dskd.fusion)
        self.decoder = None if students == "encoder" else Decoder(backbone)

    def forward(self, clean: Tensor, seen: Tensor) -> dict[str, Tensor]:
        """See Method. Terms: ``encoder_student``, ``decoder_student``."""
        target, source = self._teach(clean, seen)
        wanted, terms = target, {}
        if self.encoder_student is not None:
            encoded = self.encoder_student(seen)
            terms["encoder_student"] = self._distance(target, encoded, self.config.loss.l2_encoder)
            fed = math.ceil(self.config.dskd.mixed * len(seen))
            given = encoded if self.config.dskd.joint else _map(torch.detach, encoded)
            # One pass over the concatenation, so that BatchNorm sees one mixed distribution.
            source = _map(lambda taught, own: torch.cat((taught, own[:fed])), source, given)
            wanted = _map(lambda feature: torch.cat((feature, feature[:fed])), target)
        if self.embedding is not None and self.decoder is not None:
            rebuilt = self.decoder(self.embedding(source))
            terms["decoder_student"] = self._distance(wanted, rebuilt, self.config.loss.l2_decoder)
        return terms

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

    def _distance(self, target: Features, student: Features, l2_weight: float) -> Tensor:
        direction = losses.flattened_cosine if self.config.loss.flattened else losses.cosine
        loss = self.config.loss.cosine * direction(target, student)
        return loss + l2_weight * losses.l2(target, student) if l2_weight else loss

    def parameter_groups(self) -> list[dict[str, object]]:
        """See Method. The encoder student, deep and from scratch, may have a rate of its own."""
        recipe = self.config.recipe
        groups: list[dict[str, object]] = []
        if self.embedding is not None and self.decoder is not None:
            parameters = [*self.embedding.parameters(), *self.decoder.parameters()]
            groups.append({"params": parameters, "lr": recipe.learning_rate})
        if self.encoder_student is not None:
            rate = recipe.learning_rate * self.config.dskd.encoder_rate
            groups.append({"params": list(self.encoder_student.parameters()), "lr": rate})
        return groups

    def readings(self) -> tuple[str, ...]:
        """See Method."""
        return {"both": ("teacher", "encoder_student"), "decoder": ("teacher",), "encoder": ("none",)}[
            self.config.dskd.students
        ]

    def inference_path(self, reading: str) -> InferencePath:
        """See Method."""
        if reading not in self.readings():
            raise ValueError(f"no reading {reading!r}; this model has {', '.join(self.readings())}")
        if reading == "none":
            return EncoderPath(self.teacher, _present(self.encoder_student))
        embedding, decoder = _present(self.embedding), _present(self.decoder)
        if reading == "teacher":
            return DecoderPath(self.teacher, embedding, decoder)
        return EncoderFedPath(self.teacher, _present(self.encoder_student), embedding, decoder)


def _map(function: Callable[..., Tensor], *features: Features) -> Features:
    """Applies ``function`` to each scale."""
    fine, middle, coarse = (function(*scale) for scale in zip(*features, strict=True))
    return fine, middle, coarse


def _present(part: _T | None) -> _T:
    assert part is not None
    return part
