"""What a backend needs of a GPU: memory that both sides see, streams, events and graphs.

``Memory`` owns all that it gives but graphs and frees it in ``close``; no array must be used after that. Every call
but ``close`` is made inside ``active``, in any thread. Failures of the device are DskdError,
those after which the process cannot use it any more DeviceLost.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import DTypeLike, NDArray

from dskd.runtime.errors import DeviceLost, DskdError
from dskd.runtime.inspection.cuda.device import Device

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream, which other libraries may use
DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING: the cheapest event
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
# CUresult of which NVIDIA says that any further CUDA work of the process returns it again: uncorrectable ECC error, illegal
# address, launch timeout, destroyed context, stack, instruction, alignment, address space, program counter, launch
# failure, unknown.
STICKY = frozenset({214, 700, 702, 709, 714, 715, 716, 717, 718, 719, 999})


@dataclass(frozen=True)
class HostBuffer:
    """Zeroed page-locked memory of the CPU that the device reads and writes at ``address`` without a copy."""

    array: NDArray[Any]
    address: int


class Stream(Protocol):
    """Work of the device that is done in order."""

    handle: int

    def synchronize(self) -> object:
        """Waits until all of its work is done."""
        ...


class Event(Protocol):
    """A point in a stream."""

    def record(self, stream: Any) -> object:
        """Sets the point after what the stream was given so far."""
        ...

    def synchronize(self) -> object:
        """Waits until the device has passed the point."""
        ...


class Graph(Protocol):
    """Work that was recorded once and is launched as a whole."""

    def launch(self, stream: Any) -> None:
        """Gives it to the stream."""
        ...

    def close(self) -> None:
        """Frees it, once the device is through with it."""
        ...


class Memory(Protocol):
    """One device's memory and streams."""

    name: str
    device: Device
    captures: bool  # whether ``capture`` works

    def active(self) -> AbstractContextManager[None]:
        """Makes the device's primary context, which TensorRT uses too, the thread's own for a while."""
        ...

    def host(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostBuffer:
        """Page-locked memory."""
        ...

    def allocate(self, size: int) -> int:
        """Address of that many bytes on the device, at a multiple of 256."""
        ...

    def stream(self) -> Stream:
        """A new stream."""
        ...

    def event(self) -> Event:
        """A new event."""
        ...

    def to_device(self, address: int, source: HostBuffer, rows: int, stream: Any) -> None:
        """Copies the first rows in the stream's turn."""
        ...

    def to_host(self, target: HostBuffer, address: int, rows: int, stream: Any) -> None:
        """Copies to the first rows in the stream's turn; they are there once the stream is synchronised."""
        ...

    def capture(self, stream: Any, work: Callable[[], None]) -> Graph:
        """Records what ``work`` gives to the stream instead of running it. Raises DskdError where it cannot be."""
        ...

    def close(self) -> None:
        """Frees everything; twice does no harm. Does not raise: of a device that failed there is nothing to free."""
        ...


def device_failure(what: str, status: int) -> DskdError:
    """The error for a call that the device refused with that CUresult."""
    if status == OUT_OF_MEMORY:
        return DskdError(f"the GPU has no memory left ({what}); close other programs or use a smaller batch")
    advice = "start again, and check its power, cooling and driver if it recurs"
    if status in STICKY:
        return DeviceLost(f"the GPU failed ({what}), and this process cannot use it any more; {advice}")
    return DskdError(f"the GPU failed ({what}); {advice}")
