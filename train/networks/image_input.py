"""The first step inside the graph: camera bytes to what a teacher expects."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dskd.train.networks.backbone import Backbone


class ImageInput(nn.Module):
    """Normalises. Channels stay in OpenCV's BGR order unless ``rgb`` is asked for.

    Training reorders to RGB; the exported graph keeps BGR and carries the order in its first convolution's weights.
    """

    def __init__(self, backbone: Backbone, rgb: bool = True) -> None:
        super().__init__()
        self.rgb = rgb
        mean, std = torch.tensor(backbone.mean[::-1]), torch.tensor(backbone.std[::-1])
        self.register_buffer("scale", (1.0 / (255.0 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1), persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """uint8 BGR [B, H, W, 3] -> normalised float32 [B, 3, H, W]."""
        # Floats first: TensorRT transposes no bytes.
        x = image.float().permute(0, 3, 1, 2) * self.scale + self.shift
        return x.flip(1) if self.rgb else x
