"""Deep feature embedding: fuses three feature maps into one bottleneck (RD4AD's OCBE, DSKD's DFE).

Deng & Li, CVPR 2022, section 3.3; Yao & Gao 2024 name it the deep feature embedding that joins the students.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dskd.train.networks.backbone import Backbone
from dskd.train.networks.convolutions import conv3x3, initialise
from dskd.train.settings import EmbeddingConfig

Features = tuple[Tensor, Tensor, Tensor]  # of the three scales, fine to coarse


def halve(inplanes: int, planes: int) -> nn.Sequential:
    """3x3 stride-2 convolution, BatchNorm, ReLU."""
    return nn.Sequential(conv3x3(inplanes, planes, 2), nn.BatchNorm2d(planes), nn.ReLU(inplace=True))


class DeepFeatureEmbedding(nn.Module):
    """Multi-scale fusion to the coarsest scale, then residual blocks at half its size.

    With ``fusion=False`` only the coarsest map is embedded: the ablation without feature fusion.
    """

    def __init__(self, backbone: Backbone, fusion: bool = True, slim: EmbeddingConfig | None = None) -> None:
        super().__init__()
        slim = slim or EmbeddingConfig()
        c1, c2, c3 = backbone.channels
        self.channels = backbone.embedding_channels(slim.width)
        self.fusion = fusion
        if fusion:
            joined = backbone.fused_channels
            self.fine = nn.Sequential(halve(c1, c2), halve(c2, joined))
            self.middle = halve(c2, joined)
        self.embed = backbone.embedding(c3 + 2 * backbone.fused_channels if fusion else c3, slim.width, slim.inner)
        initialise(self)

    def forward(self, features: Features) -> Tensor:
        """Features at 1/4, 1/8 and 1/16 of the image -> embedding [B, channels, H/32, W/32]."""
        f1, f2, f3 = features
        if self.fusion:
            f3 = torch.cat((self.fine(f1), self.middle(f2), f3), dim=1)
        return self.embed(f3)
