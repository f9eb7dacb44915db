"""The convolutions that networks are built of, and how they begin."""

from __future__ import annotations

from torch import nn


def conv3x3(inplanes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution, padded, without bias (a BatchNorm always follows)."""
    return nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)


def conv1x1(inplanes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    """1x1 convolution without bias."""
    return nn.Conv2d(inplanes, planes, 1, stride, bias=False)


def deconv2x2(inplanes: int, planes: int) -> nn.ConvTranspose2d:
    """Transposed 2x2 convolution, stride 2: doubles height and width without overlap."""
    return nn.ConvTranspose2d(inplanes, planes, 2, 2, bias=False)


def initialise(module: nn.Module) -> None:
    """Kaiming normal (fan out) on plain convolutions; transposed ones keep PyTorch's default, as in RD4AD's code."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.groups > 1:  # PyTorch counts the outputs of all groups, and each input reaches its own alone
                part.weight.data *= part.groups**0.5
