"""What each method costs on the device: parameters and MACs of the method specification, section 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from networks import PLAIN, SIZE, default_path, fresh
from torch import nn

from dskd.export.graph.cost import graph_cost
from dskd.export.prune import cost, prune
from dskd.export.run_to_bundle import convert
from dskd.train.evaluate import EagerGraph
from dskd.train.methods import METHODS
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.maps import AnomalyMap

TABLE = [  # million parameters, GMAC at 256 x 256
    ("resnet18", ("method=stfpm",), 5.57, 3.66),
    ("resnet18", ("method=rd",), 18.17, 4.32),
    ("resnet18", ("method=dskd",), 18.17, 4.32),
    ("resnet18", ("method=rdpp",), 19.13, 4.89),
    ("resnet18", ("method=urd",), 21.16, 5.55),
    ("resnet18", PLAIN, 20.42, 5.25),
    ("resnet18", ("method=snl",), 18.17 + 0.16, 4.32),  # and 64 centres of 512, two matrices of 512 x 128
    ("efficientnet_lite0", ("method=dskd",), 4.96, 0.99),
    ("efficientnet_lite1", ("method=dskd",), 5.73, 1.14),
    ("efficientnet_lite2", ("method=dskd",), 6.72, 1.33),
    ("wide_resnet50_2", ("method=stfpm",), 49.73, 24.00),
    ("wide_resnet50_2", ("method=rd",), 108.67, 30.45),
    ("wide_resnet50_2", ("method=dskd",), 108.67, 30.45),
    ("wide_resnet50_2", ("method=rdpp",), 124.15, 39.51),
    ("wide_resnet50_2", ("method=urd",), 156.52, 50.05),
    ("wide_resnet50_2", PLAIN, 144.72, 45.22),
    ("wide_resnet50_2", ("method=snl",), 108.665 + 2.228, 30.45),
]


@pytest.mark.parametrize("name", METHODS)
def test_the_file_of_every_method_costs_what_its_path_does(name: str, tmp_path: Path) -> None:
    """For a method without a row as well: nothing but BatchNorms goes on the way to the file, nothing is added."""
    path = full_path("resnet18", (f"method={name}",), SIZE)
    found = cost(path, path, torch.empty(1, 3, SIZE, SIZE))
    check_file(path, found.parameters / 1e6, found.macs * (256 / SIZE) ** 2 / 1e9, tmp_path / "model.onnx")


def full_path(backbone: str, settings: tuple[str, ...], size: int) -> Any:
    """The inference path with its three scales."""
    return default_path(fresh(*settings, size=size, backbone=backbone)).eval()


@pytest.mark.parametrize(("backbone", "settings", "parameters", "macs"), TABLE, ids=str)
def test_a_path_costs_what_the_table_says(
    backbone: str, settings: tuple[str, ...], parameters: float, macs: float
) -> None:
    with torch.device("meta"):
        path = full_path(backbone, settings, 256)
        found = cost(path, path, torch.empty(1, 3, 256, 256))
    assert found.parameters / 1e6 == pytest.approx(parameters, abs=0.0061)
    assert found.macs / 1e9 == pytest.approx(macs, abs=0.0051)


@pytest.mark.parametrize(("inner", "parameters"), [("wide", 58_885_120), ("plain", 30_829_568)])
def test_the_embedding_is_as_wide_inside_as_asked_for(inner: str, parameters: int) -> None:
    """Point 14 of the specification's section 11."""
    with torch.device("meta"):
        embedding = fresh(f"embedding.inner={inner}", backbone="wide_resnet50_2").embedding
    assert sum(p.numel() for p in embedding.parameters()) == parameters


def norm_channels(module: nn.Module) -> int:
    return sum(part.num_features for part in module.modules() if isinstance(part, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("backbone", "settings", "parameters", "macs"),
    [row for row in TABLE if row[0] in ("resnet18", "efficientnet_lite0")],
    ids=str,
)
def test_the_file_costs_what_the_table_says(
    backbone: str, settings: tuple[str, ...], parameters: float, macs: float, tmp_path: Path
) -> None:
    check_file(full_path(backbone, settings, SIZE), parameters, macs, tmp_path / "model.onnx")


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "settings", "parameters", "macs"),
    [row for row in TABLE if row[0] == "wide_resnet50_2" and row[1] in (("method=rdpp",), ("method=urd",))],
    ids=str,
)
def test_the_wide_file_costs_what_the_table_says(
    backbone: str, settings: tuple[str, ...], parameters: float, macs: float, tmp_path: Path
) -> None:
    check_file(full_path(backbone, settings, SIZE), parameters, macs, tmp_path / "model.onnx")


def check_file(path: Any, parameters: float, macs: float, file: Path) -> None:
    folded = norm_channels(path)  # a BatchNorm's weight goes into its convolution, its bias stays as the bias
    graph = EagerGraph(path, AnomalyMap(SIZE, SIZE), BACKBONES["resnet18"]).eval()
    convert(prune(graph), torch.zeros((1, SIZE, SIZE, 3), dtype=torch.uint8), 20, file)
    found = graph_cost(onnx.load(file))
    file.unlink()
    assert (found.parameters + folded) / 1e6 == pytest.approx(parameters, abs=0.0061)
    assert found.macs * (256 / SIZE) ** 2 / 1e9 == pytest.approx(macs, abs=0.0051)
