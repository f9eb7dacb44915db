"""What the training loop, the evaluation and the export ask of a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

from train.config import TrainConfig
from train.networks.resnet import Backbone, Encoder

Features = tuple[Tensor, Tensor, Tensor]


class InferencePath(nn.Module, ABC):
    """The part of a method that runs on the device, and nothing else."""

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Features, Features]:
        """Normalised RGB [B, 3, H, W] -> (teacher features, student features), three scales each."""

    def drop_finest(self) -> None:
        """Forgets what only the finest scale of the student needs, for maps that leave it out. Its features are void."""


class Method(nn.Module, ABC):
    """A frozen teacher and what is trained against it. ``forward`` is the training step, so that DDP can wrap it."""

    def __init__(self, config: TrainConfig, backbone: Backbone, teacher: Encoder) -> None:
        super().__init__()
        self.config = config
        self.teacher = teacher

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
