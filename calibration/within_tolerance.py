"""A Q/DQ graph that moves scores no more than is allowed: the most sensitive layers go back to float until it does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from dskd.calibration.images import Inputs
from dskd.calibration.quantise import Target, quantise
from dskd.calibration.ranges import Histogram, Method
from dskd.calibration.sensitivity import scores_of
from dskd.calibration.usual_errors import relearn
from dskd.train.turned import Turned


@dataclass(frozen=True)
class Recipe:
    """What a Q/DQ graph is made from.

    ``prepared`` is the float graph's file, ``inputs`` are good images for local distances, ``ridge`` and ``turned`` are
    the settings that these were trained with; without a ridge they stay as they are.
    """

    prepared: Path
    histograms: dict[str, Histogram]
    method: Method
    inputs: Inputs
    ridge: float | None
    turned: Turned = "none"

    def graph(self, target: Target, excluded: Iterable[str]) -> onnx.ModelProto:
        """The graph for ``target`` with the layers ``excluded`` in float."""
        made = quantise(onnx.load(self.prepared), self.histograms, self.method, target, set(excluded))
        if self.ridge is not None:
            relearn(made, self.inputs, self.ridge, f"usual errors, {target}", self.turned)
        return made


@dataclass(frozen=True)
class Limit:
    """``tolerance`` for the scores' shift on the held-out images, in spreads of what the graph in the file ``exact`` says."""

    tolerance: float | None
    held_out: Inputs
    exact: Path

    @cached_property
    def reference(self) -> NDArray[np.float32]:
        """The exact graph's scores [N]."""
        return scores_of(onnx.load(self.exact), self.held_out)

    def met(self, graph: onnx.ModelProto) -> bool:
        """Whether ``graph`` is within it; without a tolerance any is."""
        if self.tolerance is None:
            return True
        shift = relative_shift(self.reference, scores_of(graph, self.held_out))
        if shift > self.tolerance:
            tqdm.write(f"scores move by {shift:.3f} of their spread on good images, over {self.tolerance}")
        return shift <= self.tolerance


def relative_shift(reference: NDArray[np.float32], scores: NDArray[np.float32]) -> float:
    """Mean absolute difference of the scores [N], as a share of their standard deviation."""
    return float(np.abs(reference - scores).mean() / max(float(reference.std()), 1e-9))


def graph_within(
    limit: Limit, recipe: Recipe, target: Target, excluded: Iterable[str], worst_first: Iterable[str]
) -> tuple[onnx.ModelProto, list[str]]:
    """The graph and the layers it leaves in float: ``excluded``, and of ``worst_first`` as many as it takes."""
    out = list(excluded)
    left = [name for name in worst_first if name not in out]
    graph = recipe.graph(target, out)
    while left and not limit.met(graph):
        tqdm.write(f"{left[0]} goes back to float")
        out.append(left.pop(0))
        graph = recipe.graph(target, out)
    return graph, out
