"""The interface between a graph and those who need its answer."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dskd.runtime.result import Image


def allowed_cores() -> int:
    """How many cores this process may use: of the machine's, those that its affinity mask leaves it."""
    return len(os.sched_getaffinity(0))


@cache
def cpu_words() -> frozenset[str]:
    """What the kernel says of the CPU's kind and instructions, word by word; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    asked = ("flags", "model name", "Features", "CPU implementer", "CPU part")  # of x86, and of Arm
    return frozenset(word for line in lines if line.startswith(asked) for word in line.partition(":")[2].split())


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


@runtime_checkable
class Warming(Protocol):
    """A backend that is slow the first times it sees a batch size."""

    def warm_up(self) -> None:
        """Runs every batch size until it is as fast as it will be."""
        ...


@runtime_checkable
class Overlapping(Protocol):
    """A backend whose device works beside the host: two batches may be on their way."""

    def submit(self, batch: Image) -> Any:
        """Gives a batch like ``infer``'s to the device, returns its ticket at once; the batch is the caller's again."""
        ...

    def collect(self, ticket: Any) -> Output:
        """Waits for a batch that was submitted, once. Its maps stay until the second submission after its own."""
        ...
