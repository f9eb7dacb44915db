"""Student-teacher feature pyramid matching (Wang et al., BMVC 2021): one student of the teacher's own shape.

The light baseline of the family, and the shape of DSKD without its decoder student. Its authors pick the epoch with the
least error on held-out good images; here the last one is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from dskd.train.methods.base import Features, InferencePath, Method
from dskd.train.networks.backbone import Backbone, Encoder
from dskd.train.settings import RunConfig


class EncoderPath(InferencePath):
    """Teacher and encoder student compared directly."""

    def __init__(self, teacher: Encoder, encoder_student: Encoder) -> None:
        super().__init__()
        self.teacher, self.encoder_student = teacher, encoder_student

    def forward(self, image: Tensor) -> tuple[Features, Features]:
        """See InferencePath."""
        return self.teacher(image), self.encoder_student(image)


class FeaturePyramidMatching(Method):
    """Teacher and encoder student; ``rate`` is a factor on the learning rate."""

    recipe: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "augment": {"pseudo_anomalies": 0.0},
        # The squared distance of two unit vectors is twice their cosine distance.
        "loss": {"cosine": 2.0, "flattened": False, "l2_encoder": 0.0},
        "recipe": {
            "epochs": 100, "batch": 32, "optimiser": "sgd", "learning_rate": 0.4, "weight_decay": 1e-4,
            "schedule": "constant", "warm_up": 0.0, "clip": 0.0,
        },
        "map": {"distance": "cosine", "fusion": "product", "sigma": 0.0, "scale_weights": (1.0, 1.0, 1.0)},
    }  # fmt: skip

    def __init__(self, config: RunConfig, backbone: Backbone, teacher: Encoder, rate: float = 1.0) -> None:
        super().__init__(config, backbone, teacher)
        self.encoder_student = backbone.encoder()
        self.rate = rate

    def forward(self, clean: Tensor, seen: Tensor) -> dict[str, Tensor]:
        """See Method. Term: ``encoder_student``."""
        target, _ = self._teach(clean, clean)
        encoded = self.encoder_student(seen)
        return {"encoder_student": self._distance(target, encoded, self.config.loss.l2_encoder)}

    def parameter_groups(self) -> list[dict[str, object]]:
        """See Method."""
        rate = self.config.recipe.learning_rate * self.rate
        return [{"params": list(self.encoder_student.parameters()), "lr": rate}]

    def readings(self) -> tuple[str, ...]:
        """See Method."""
        return ("none",)

    def inference_path(self, reading: str) -> InferencePath:
        """See Method."""
        self._known(reading)
        return EncoderPath(self.teacher, self.encoder_student)


METHOD = FeaturePyramidMatching
