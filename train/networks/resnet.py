"""ResNet encoder, stem to layer3, with torchvision's state-dict names.

Defined here because torchvision pulls in a CUDA build of torch where none is wanted, and because only the
first three stages are needed. Sources: He et al. 2016; Zagoruyko & Komodakis 2016 (wide); the stride sits on the
3x3 convolution of a bottleneck ("v1.5"), as in torchvision's weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

STAGE_PLANES = (64, 128, 256)


def conv3x3(inplanes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution, padded, without bias (a BatchNorm always follows)."""
    return nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)


def conv1x1(inplanes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    """1x1 convolution without bias."""
    return nn.Conv2d(inplanes, planes, 1, stride, bias=False)


def deconv2x2(inplanes: int, planes: int) -> nn.ConvTranspose2d:
    """Transposed 2x2 convolution, stride 2: doubles height and width without overlap."""
    return nn.ConvTranspose2d(inplanes, planes, 2, 2, bias=False)


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


Block = Callable[..., nn.Module]


def shortcut(inplanes: int, outplanes: int, stride: int, up: bool) -> nn.Sequential | None:
    """Projection for the shortcut where size or width changes, else None."""
    if up:
        return nn.Sequential(deconv2x2(inplanes, outplanes), nn.BatchNorm2d(outplanes))
    if stride != 1 or inplanes != outplanes:
        return nn.Sequential(conv1x1(inplanes, outplanes, stride), nn.BatchNorm2d(outplanes))
    return None


@dataclass(frozen=True)
class Backbone:
    """What distinguishes one ResNet from another: block, blocks per stage, inner width factor, embedding depth."""

    block: type[BasicBlock] | type[Bottleneck]
    layers: tuple[int, int, int]
    width: float
    embedding_blocks: int
    weights_file: str

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels of the three feature maps, fine to coarse."""
        first, second, third = (planes * self.block.expansion for planes in STAGE_PLANES)
        return first, second, third

    def narrowed(self, factor: float) -> Backbone:
        """The same with blocks of another inner width; what goes in and comes out keeps its channels."""
        return replace(self, width=self.width * factor)


BACKBONES = {
    "resnet18": Backbone(BasicBlock, (2, 2, 2), 1, 2, "resnet18-f37072fd.pth"),
    "wide_resnet50_2": Backbone(Bottleneck, (3, 4, 6), 2, 3, "wide_resnet50_2-95faca4d.pth"),
}


def stage(
    backbone: Backbone, inplanes: int, planes: int, blocks: int, stride: int = 1, up: bool = False
) -> nn.Sequential:
    """``blocks`` residual blocks, of which the first changes size and width."""
    first = backbone.block(inplanes, planes, stride, backbone.width, up)
    outplanes = planes * backbone.block.expansion
    rest = [backbone.block(outplanes, planes, width=backbone.width) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


class Encoder(nn.Module):
    """Stem to layer3: the teacher, and with fresh weights the encoder student."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        c1, c2, _ = backbone.channels
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = stage(backbone, 64, 64, backbone.layers[0])
        self.layer2 = stage(backbone, c1, 128, backbone.layers[1], stride=2)
        self.layer3 = stage(backbone, c2, 256, backbone.layers[2], stride=2)
        initialise(self)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised RGB [B, 3, H, W] -> features [B, 64e, H/4, W/4], [B, 128e, H/8, W/8], [B, 256e, H/16, W/16].

        e is the block expansion (1 for ResNet18, 4 for WideResNet50-2).
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        f1 = self.layer1(x)
        f2 = self.layer2(f1)
        f3 = self.layer3(f2)
        return f1, f2, f3


def initialise(module: nn.Module) -> None:
    """Kaiming normal (fan out) on plain convolutions; transposed ones keep PyTorch's default, as in RD4AD's code."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
