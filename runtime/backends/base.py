"""The interface between a graph and those who need its answer."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.preprocess import Image


class Output(Protocol):
    """The answer to one batch. Scores are here at once; maps leave the device only when asked for."""

    scores: NDArray[np.float32]

    def maps(self) -> NDArray[np.float32]:
        """Anomaly maps [N, H, W]."""
        ...


class Backend(Protocol):
    """Runs one bundle's graph."""

    name: str
    graph: str  # the bundle's file that it runs: thresholds and tolerance belong to it

    def infer(self, batch: Image) -> Output:
        """uint8 BGR [N, height, width, 3], N from 1 to the bundle's max_batch -> scores [N] and maps on demand."""
        ...

    def close(self) -> None:
        """Releases the device."""
        ...
