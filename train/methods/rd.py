"""Reverse distillation (Deng & Li, CVPR 2022): a decoder rebuilds the teacher's features from their embedding.

What the whole family shares stands here: embedding, decoder student, and the path x -> T -> embedding -> Sd.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from dskd.train.methods.base import Features, InferencePath, Method
from dskd.train.networks.backbone import Backbone, Encoder
from dskd.train.networks.decoder import Decoder
from dskd.train.networks.embedding import DeepFeatureEmbedding
from dskd.train.settings import RunConfig

# Section 3 of the paper and its code: every image as it is, one rate for 200 epochs, the last epoch, the plain map.
RD_RECIPE: Mapping[str, Mapping[str, object]] = {
    "augment": {"pseudo_anomalies": 0.0},
    "recipe": {"epochs": 200, "batch": 16, "schedule": "constant", "warm_up": 0.0, "clip": 0.0},
    "map": {"distance": "cosine", "scale_weights": (1.0, 1.0, 1.0)},
}


class DecoderPath(InferencePath):
    """Teacher and decoder student; the teacher feeds the embedding."""

    def __init__(self, teacher: Encoder, embedding: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.teacher, self.embedding, self.decoder = teacher, embedding, decoder

    def forward(self, image: Tensor) -> tuple[Features, Features]:
        """See InferencePath."""
        features = self.teacher(image)
        return features, self.decoder(self.embedding(features))

    def drop_finest(self) -> None:
        """See InferencePath."""
        self.decoder.drop_finest()


class ReverseDistillation(Method):
    """RD, and the base of what was built on it."""

    recipe: ClassVar[Mapping[str, Mapping[str, object]]] = RD_RECIPE

    def __init__(self, config: RunConfig, backbone: Backbone, teacher: Encoder, fusion: bool = True) -> None:
        super().__init__(config, backbone, teacher)
        self.embedding = DeepFeatureEmbedding(backbone, fusion, config.embedding)
        self.decoder = self._new_decoder(backbone)

    def _new_decoder(self, backbone: Backbone) -> Decoder:
        return Decoder(backbone, self.embedding.channels, self.config.decoder.width)

    def _students(self) -> tuple[nn.Module, ...]:
        """What learns at the full rate, in the optimiser's order."""
        return self.embedding, self.decoder

    def _bottleneck(self) -> nn.Module:
        """What stands between teacher and decoder student on the device."""
        return self.embedding

    def forward(self, clean: Tensor, seen: Tensor) -> dict[str, Tensor]:
        """See Method. Term: ``decoder_student``."""
        target, source = self._teach(clean, seen)
        rebuilt = self.decoder(self.embedding(source))
        return {"decoder_student": self._distance(target, rebuilt, self.config.loss.l2_decoder)}

    def parameter_groups(self) -> list[dict[str, object]]:
        """See Method."""
        parameters = [parameter for part in self._students() for parameter in part.parameters()]
        return [{"params": parameters, "lr": self.config.recipe.learning_rate}]

    def readings(self) -> tuple[str, ...]:
        """See Method."""
        return ("teacher",)

    def inference_path(self, reading: str) -> InferencePath:
        """See Method."""
        self._known(reading)
        return DecoderPath(self.teacher, self._bottleneck(), self.decoder)


METHOD = ReverseDistillation
