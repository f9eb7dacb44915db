"""The inference path alone: what training needed and inference does not is left behind, the rest is folded.

BatchNorm goes into the convolution before it, the camera's BGR order into the first convolutions' weights. Both are
exact up to rounding; ``dskd.export.verify`` measures the rounding.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dskd.train.evaluate import EagerGraph
from dskd.train.methods.base import InferencePath
from dskd.train.networks.backbone import Backbone, Encoder
from dskd.train.networks.image_input import ImageInput
from dskd.train.networks.maps import AnomalyMap

Convolution = (nn.Conv2d, nn.ConvTranspose2d)


class PrunedGraph(nn.Module):
    """The graph that is exported: image in, score and anomaly map out."""

    def __init__(self, path: InferencePath, anomaly_map: AnomalyMap, backbone: Backbone) -> None:
        super().__init__()
        self.to_input = ImageInput(backbone, rgb=False)
        self.path = path
        self.anomaly_map = anomaly_map

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 BGR [N, H, W, 3] -> (score [N], anomaly map [N, H, W]), float32."""
        score, anomaly_map = self.anomaly_map(*self.path(self.to_input(image)))
        return score, anomaly_map


@dataclass(frozen=True)
class Cost:
    """Parameters of convolutions (with their BatchNorm) and of matrix products; one image's MACs through convolutions."""

    parameters: int
    macs: int


def prune(graph: EagerGraph) -> PrunedGraph:
    """A folded copy of an inference path and its map; ``graph`` itself is not changed."""
    path = copy.deepcopy(graph.path).cpu().eval()
    if not graph.anomaly_map.uses_finest:
        path.drop_finest()
    fold_batch_norms(path)
    for entry in path.modules():
        if isinstance(entry, Encoder):
            entry.first.weight = nn.Parameter(entry.first.weight.flip(1).contiguous())
    return PrunedGraph(path, copy.deepcopy(graph.anomaly_map).cpu(), graph.backbone).eval().requires_grad_(False)


def fold_batch_norms(module: nn.Module) -> None:
    """Folds each BatchNorm into the convolution registered just before it in the same parent, in place."""
    previous: str | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            convolution = getattr(module, previous) if previous else None
            if not isinstance(convolution, Convolution):
                raise ValueError(f"{type(module).__name__}.{name} follows no convolution; it cannot be folded")
            transposed = isinstance(convolution, nn.ConvTranspose2d)
            fused = fuse_conv_bn_eval(convolution.double(), child.double(), transpose=transposed).float()
            setattr(module, str(previous), fused)
            setattr(module, name, nn.Identity())
        else:
            fold_batch_norms(child)
        previous = name


def cost(module: nn.Module, forward: nn.Module, image: Tensor) -> Cost:
    """Cost of ``module``'s parts while ``forward`` runs one ``image``; parts that do not run count as parameters only."""
    macs = 0

    def count(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(part, Convolution)
        driven = inputs[0] if isinstance(part, nn.ConvTranspose2d) else output  # what each kernel is applied for
        macs += driven.numel() * part.weight[0].numel()

    handles = [part.register_forward_hook(count) for part in module.modules() if isinstance(part, Convolution)]
    try:
        with torch.no_grad():
            forward(image)
    finally:
        for handle in handles:
            handle.remove()
    return Cost(sum(_parameters(part) for part in module.modules()), macs)


def _parameters(part: nn.Module) -> int:
    """All of a convolution's or BatchNorm's own; of other parts the matrices."""
    counted = isinstance(part, (*Convolution, nn.BatchNorm2d))
    return sum(p.numel() for p in part.parameters(recurse=False) if counted or min(p.shape) > 1)
