"""Decoder with injection of teacher features between its stages (URD, AAAI 2025: guided information injection)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dskd.train.networks.backbone import Backbone
from dskd.train.networks.convolutions import conv1x1, conv3x3
from dskd.train.networks.decoder import Decoder
from dskd.train.networks.embedding import Features

FLOOR = 1e-4  # of a vector's largest value; what is smaller is nothing, and half precision can still divide by it


class Injection(nn.Module):
    """Adds to a decoder feature what the teacher sees at the same and at the next finer scale.

    ``guided``: where decoder and teacher disagree, the decoder's own feature goes on instead of the teacher's.
    """

    def __init__(self, channels: int, finer: int, guided: bool) -> None:
        super().__init__()
        self.down = _layer(conv1x1(finer, channels), channels)
        self.merge = _layer(conv3x3(channels, channels), channels)
        self.guide = _layer(conv3x3(channels, channels), channels) if guided else None
        self.fuse = _layer(conv3x3(2 * channels, channels), channels)

    def forward(self, decoded: Tensor, taught: Tensor, finer: Tensor) -> Tensor:
        """Decoder [B, C, H, W], teacher [B, C, H, W], teacher [B, C', 2H, 2W] -> [B, C, H, W]."""
        # Halving bilinearly takes the mean of each 2x2 block.
        merged = self.merge(taught + self.down(F.avg_pool2d(finer, 2)))
        if self.guide is not None:
            agreement = similarity(decoded.detach(), taught.detach())
            merged = self.guide(agreement * merged + (1 - agreement) * decoded)
        fused: Tensor = self.fuse(torch.cat((decoded, merged), dim=1))
        return fused


class InjectedDecoder(Decoder):
    """The decoder student with injections before its second and third stage."""

    def __init__(
        self, backbone: Backbone, channels: int | None = None, width: float = 1.0, guided: bool = True
    ) -> None:
        super().__init__(backbone, channels, width)
        c1, c2, c3 = backbone.channels
        self.inject3 = Injection(c3, c2, guided)
        self.inject2: Injection | None = Injection(c2, c1, guided)

    def forward(self, embedding: Tensor, taught: Features) -> Features:  # type: ignore[override]
        """Embedding and teacher features -> features at 1/4, 1/8 and 1/16 of the image, before injection."""
        t1, t2, t3 = taught
        s3 = self.stage3(embedding)
        s2 = self.stage2(self.inject3(s3, t3, t2))
        s1 = s2 if self.inject2 is None else self.stage1(self.inject2(s2, t2, t1))
        return s1, s2, s3

    def drop_finest(self) -> None:
        """See Decoder. What is injected before the last stage goes with it."""
        super().drop_finest()
        self.inject2 = None


def similarity(one: Tensor, other: Tensor) -> Tensor:
    """Cosine similarity along channels: two [B, C, H, W] -> [B, 1, H, W].

    Vectors are divided by their largest value first, so that no square leaves the range of half precision.
    """
    a, b = (x.float() / x.float().abs().amax(1, keepdim=True).clamp_min(FLOOR) for x in (one, other))
    lengths = a.square().sum(1, keepdim=True).sqrt() * b.square().sum(1, keepdim=True).sqrt()
    return (a * b).sum(1, keepdim=True) / lengths.clamp_min(FLOOR)


def _layer(convolution: nn.Conv2d, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
