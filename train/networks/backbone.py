"""What a teacher's network must be: an encoder of three scales, and the blocks that its students are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of torchvision's weights
IMAGENET_STD = (0.229, 0.224, 0.225)
Three = tuple[float, float, float]


@dataclass(frozen=True)
class Weights:
    """The file of a teacher's ImageNet weights: in an installed ``package``, else torchvision's, to be downloaded."""

    file: str
    sha256: str  # of a downloaded file its beginning
    package: str | None = None


class Encoder(nn.Module, ABC):
    """The teacher, and with fresh weights the encoder student."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    @abstractmethod
    def first(self) -> nn.Conv2d:
        """The convolution that sees the picture."""

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised RGB [B, 3, H, W] -> features of the three scales, fine to coarse."""


@dataclass(frozen=True)
class Backbone(ABC):
    """One kind of teacher, with the blocks of its students.

    Pictures are bytes over 255, less ``mean``, over ``std``, both in RGB order.
    """

    weights: Weights
    mean: ClassVar[Three] = IMAGENET_MEAN
    std: ClassVar[Three] = IMAGENET_STD

    @property
    @abstractmethod
    def channels(self) -> tuple[int, int, int]:
        """Channels of the three feature maps, fine to coarse."""

    @property
    def fused_channels(self) -> int:
        """Channels that finer features are brought to where they join the coarsest in the embedding."""
        return self.channels[-1]

    @abstractmethod
    def encoder(self) -> Encoder:
        """An encoder with fresh weights."""

    @abstractmethod
    def embedding_channels(self, share: float) -> int:
        """Channels of an embedding of which only a share is wanted."""

    @abstractmethod
    def embedding(self, inplanes: int, share: float, inner: Literal["wide", "plain"]) -> nn.Sequential:
        """Blocks [B, inplanes, H, W] -> [B, embedding_channels(share), H/2, W/2]."""

    @abstractmethod
    def rebuilding(self, scale: int, inplanes: int, width: float) -> nn.Sequential:
        """Blocks [B, inplanes, H, W] -> the features of a scale (0: finest) at twice the size; ``width`` inside, as a share."""
