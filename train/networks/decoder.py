"""Decoder student: rebuilds the teacher's three feature maps from the embedding (RD4AD, Deng & Li 2022, section 3.2)."""

from __future__ import annotations

from torch import Tensor, nn

from dskd.train.networks.backbone import Backbone
from dskd.train.networks.convolutions import initialise


class Decoder(nn.Module):
    """Three upsampling stages, coarse to fine. Block counts are not the mirror image of the encoder's."""

    def __init__(self, backbone: Backbone, channels: int | None = None, width: float = 1.0) -> None:
        """``channels`` of the embedding (None: the backbone's own); ``width`` inside the blocks, as a share."""
        super().__init__()
        _, c2, c3 = backbone.channels
        self.stage3 = backbone.rebuilding(2, channels or backbone.embedding_channels(1.0), width)
        self.stage2 = backbone.rebuilding(1, c3, width)
        self.stage1: nn.Module = backbone.rebuilding(0, c2, width)
        initialise(self)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embedding [B, channels, H/32, W/32] -> features at 1/4, 1/8 and 1/16 of the image, fine to coarse."""
        s3 = self.stage3(embedding)
        s2 = self.stage2(s3)
        s1 = self.stage1(s2)
        return s1, s2, s3

    def drop_finest(self) -> None:
        """Forgets the last stage; the finest features are void then."""
        self.stage1 = nn.Identity()
