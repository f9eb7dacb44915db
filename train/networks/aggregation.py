"""Central residual aggregation: a bottleneck that expresses a picture by a few learned centres.

A reconstruction. SNL (Deng & Li 2024, arXiv 2402.17091) names the module; its formulas could not be read. Each
position's vector is replaced by a mixture of centres, each shifted by the mean residual of all positions of this
picture that belong to it. So a local deviation has no way through: it is averaged over the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SPREAD = 0.02  # standard deviation of the centres before training
SHARPNESS = 10.0  # of the assignment before training, per mean squared difference
FLOOR = 1e-4  # added to a centre's share; half precision too has it as a normal number, where a device forces it


class ResidualAggregation(nn.Module):
    """[B, D, H, W] -> [B, D, H, W] through K centres."""

    def __init__(self, channels: int, centres: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(SPREAD * torch.randn(centres, channels))
        self.sharpness = nn.Parameter(torch.full((centres, 1), SHARPNESS).expm1().log())  # through softplus
        self.shrink = nn.Linear(channels, channels // 4, bias=False)
        self.grow = nn.Linear(channels // 4, channels, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """See the class. In float32 whatever the autocast: distances are differences of large numbers."""
        with torch.autocast("cpu" if z.device.type == "meta" else z.device.type, enabled=False):
            return self._mixture(z.float())

    def _mixture(self, z: Tensor) -> Tensor:
        batch, channels, height, width = z.shape
        positions = z.flatten(2)  # [B, D, P]
        share = self.assign(positions)  # [B, K, P]
        weight = share.sum(2, keepdim=True) + FLOOR
        residual = (share @ positions.transpose(1, 2)) / weight - self.centres * (1 - FLOOR / weight)
        shifted = self.centres + self.grow(F.relu(self.shrink(residual)))  # [B, K, D]
        return (shifted.transpose(1, 2) @ share).reshape(batch, channels, height, width)

    def assign(self, positions: Tensor) -> Tensor:
        """[B, D, P] -> [B, K, P]: how much of each position belongs to each centre."""
        channels = self.centres.shape[1]
        lengths = (positions * channels**-0.5).square().sum(1, keepdim=True)
        distance = lengths - 2 * (self.centres @ (positions / channels)) + self.centres.square().mean(1, keepdim=True)
        return (-F.softplus(self.sharpness) * distance).softmax(1)
