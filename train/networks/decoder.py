"""Decoder student: rebuilds the teacher's three feature maps from the embedding (RD4AD, Deng & Li 2022, section 3.2)."""

from __future__ import annotations

from torch import Tensor, nn

from train.networks.resnet import Backbone, initialise, stage


class Decoder(nn.Module):
    """Three upsampling stages, coarse to fine. Block counts are not the mirror image of the encoder's."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        _, c2, c3 = backbone.channels
        coarse, middle, fine = backbone.layers
        self.stage3 = stage(backbone, 512 * backbone.block.expansion, 256, coarse, up=True)
        self.stage2 = stage(backbone, c3, 128, middle, up=True)
        self.stage1: nn.Module = stage(backbone, c2, 64, fine, up=True)
        initialise(self)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embedding [B, 512e, H/32, W/32] -> features at 1/4, 1/8 and 1/16 of the image, fine to coarse."""
        s3 = self.stage3(embedding)
        s2 = self.stage2(s3)
        s1 = self.stage1(s2)
        return s1, s2, s3
