"""ResNet encoder, stem to layer3, with torchvision's state-dict names.

Defined here because torchvision pulls in a CUDA build of torch where none is wanted, and because only the
first three stages are needed. Sources: He et al. 2016; Zagoruyko & Komodakis 2016 (wide); the stride sits on the
3x3 convolution of a bottleneck ("v1.5"), as in torchvision's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from dskd.train.networks.backbone import Backbone, Encoder
from dskd.train.networks.convolutions import conv1x1, conv3x3, deconv2x2, initialise

STAGE_PLANES = (64, 128, 256)
EMBEDDING_PLANES = 512  # times the block's expansion they are the embedding's channels


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut. With ``up`` the first one is a 2x2 transposed convolution."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1, width: float = 1, up: bool = False) -> None:
        super().__init__()
        inner = round(planes * width)
        self.conv1 = deconv2x2(inplanes, inner) if up else conv3x3(inplanes, inner, stride)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(inner, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = shortcut(inplanes, planes, stride, up)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inplanes, H, W] -> [B, planes, H/stride, W/stride], or [B, planes, 2H, 2W] with ``up``."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + identity)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut. With ``up`` the middle one is a 2x2 transposed convolution."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1, width: float = 1, up: bool = False) -> None:
        super().__init__()
        inner, outer = round(planes * width), planes * self.expansion
        self.conv1 = conv1x1(inplanes, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = deconv2x2(inner, inner) if up else conv3x3(inner, inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, outer)
        self.bn3 = nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inplanes, outer, stride, up)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inplanes, H, W] -> [B, 4 planes, H/stride, W/stride], or [B, 4 planes, 2H, 2W] with ``up``."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + identity)


def shortcut(inplanes: int, outplanes: int, stride: int, up: bool) -> nn.Sequential | None:
    """Projection for the shortcut where size or width changes, else None."""
    if up:
        return nn.Sequential(deconv2x2(inplanes, outplanes), nn.BatchNorm2d(outplanes))
    if stride != 1 or inplanes != outplanes:
        return nn.Sequential(conv1x1(inplanes, outplanes, stride), nn.BatchNorm2d(outplanes))
    return None


@dataclass(frozen=True)
class ResNet(Backbone):
    """What distinguishes one ResNet from another: block, blocks per stage, inner width factor, embedding depth."""

    block: type[BasicBlock] | type[Bottleneck]
    layers: tuple[int, int, int]
    width: float
    embedding_blocks: int

    @property
    def channels(self) -> tuple[int, int, int]:
        """See Backbone."""
        first, second, third = (planes * self.block.expansion for planes in STAGE_PLANES)
        return first, second, third

    def encoder(self) -> ResNetEncoder:
        """See Backbone."""
        return ResNetEncoder(self)

    def embedding_channels(self, share: float) -> int:
        """See Backbone."""
        return round(EMBEDDING_PLANES * share) * self.block.expansion

    def embedding(self, inplanes: int, share: float, inner: Literal["wide", "plain"]) -> nn.Sequential:
        """See Backbone. "plain": of ResNet18's inner width."""
        width = self.width if inner == "wide" else 1.0
        return self.stage(inplanes, round(EMBEDDING_PLANES * share), self.embedding_blocks, width, stride=2)

    def rebuilding(self, scale: int, inplanes: int, width: float) -> nn.Sequential:
        """See Backbone. As many blocks as the encoder's stages have, but coarse to fine."""
        return self.stage(inplanes, STAGE_PLANES[scale], self.layers[-1 - scale], self.width * width, up=True)

    def stage(
        self, inplanes: int, planes: int, blocks: int, width: float, stride: int = 1, up: bool = False
    ) -> nn.Sequential:
        """``blocks`` residual blocks, of which the first changes size and channels; ``width`` is a factor inside."""
        first = self.block(inplanes, planes, stride, width, up)
        outplanes = planes * self.block.expansion
        return nn.Sequential(first, *(self.block(outplanes, planes, width=width) for _ in range(blocks - 1)))


class ResNetEncoder(Encoder):
    """Stem to layer3."""

    def __init__(self, backbone: ResNet) -> None:
        super().__init__(backbone)
        c1, c2, _ = backbone.channels
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        blocks, width = backbone.layers, backbone.width
        self.layer1 = backbone.stage(64, 64, blocks[0], width)
        self.layer2 = backbone.stage(c1, 128, blocks[1], width, stride=2)
        self.layer3 = backbone.stage(c2, 256, blocks[2], width, stride=2)
        initialise(self)

    @property
    def first(self) -> nn.Conv2d:
        """See Encoder."""
        return self.conv1

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See Encoder; [B, 64e, H/4, W/4], [B, 128e, H/8, W/8], [B, 256e, H/16, W/16].

        e is the block expansion (1 for ResNet18, 4 for WideResNet50-2).
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        f1 = self.layer1(x)
        f2 = self.layer2(f1)
        f3 = self.layer3(f2)
        return f1, f2, f3
