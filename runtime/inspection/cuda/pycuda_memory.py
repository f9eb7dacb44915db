"""GPU memory through pycuda, which is compiled on the device with JetPack's CUDA compiler."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from numpy.typing import DTypeLike

from dskd.runtime.errors import DskdError, MissingPart
from dskd.runtime.inspection.cuda.base import (
    DISABLE_TIMING,
    NON_BLOCKING,
    OUT_OF_MEMORY,
    Graph,
    HostBuffer,
    device_failure,
)
from dskd.runtime.inspection.cuda.device import Device, context_status

try:
    import pycuda.driver as cuda
except ImportError as error:
    cuda, MISSING = None, str(error)


@cache
def _primary_context(index: int) -> Any:
    """Kept until the process ends: pycuda cannot release it without leaving it behind as the thread's current one."""
    cuda.init()
    context = cuda.Device(index).retain_primary_context()
    atexit.register(context.detach)  # pycuda's destructor would call the driver's function for other contexts
    return context


@contextmanager
def _translated() -> Iterator[None]:
    """Makes a DskdError of what pycuda raises. Its errors hold no code, so the driver is asked whether it is sticky."""
    try:
        yield
    except cuda.Error as error:
        status = OUT_OF_MEMORY if isinstance(error, cuda.MemoryError) else context_status()
        raise device_failure(str(error), status) from error


class PycudaStream:
    """A stream of its own. ``native`` goes when its memory is closed."""

    @_translated()
    def __init__(self) -> None:
        self.native = cuda.Stream(NON_BLOCKING)
        self.handle = int(self.native.handle)

    @_translated()
    def synchronize(self) -> None:
        """Waits until all of its work is done."""
        self.native.synchronize()


class PycudaEvent:
    """A point in a stream."""

    @_translated()
    def __init__(self) -> None:
        self.native = cuda.Event(DISABLE_TIMING)

    @_translated()
    def record(self, stream: PycudaStream) -> None:
        """Sets the point after what the stream was given so far."""
        self.native.record(stream.native)

    @_translated()
    def synchronize(self) -> None:
        """Waits until the device has passed the point."""
        self.native.synchronize()


class PycudaMemory:
    """Memory, streams and events of one device's primary context."""

    name = "pycuda"
    captures = False  # no released pycuda has the driver's graph functions

    def __init__(self, device: Device) -> None:
        if cuda is None:
            raise MissingPart(f"pycuda is not installed ({MISSING}); pip install pycuda where CUDA's compiler is")
        self.device = device
        with _translated():
            self._context = _primary_context(device.index)
        self._allocations: list[Any] = []
        self._natives: list[PycudaStream | PycudaEvent] = []

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes the primary context the thread's own for a while."""
        with _translated():
            self._context.push()
        try:
            yield
        finally:
            with _translated():
                self._context.pop()

    @_translated()
    def host(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostBuffer:
        """Page-locked memory."""
        array = cuda.pagelocked_empty(shape, dtype, mem_flags=cuda.host_alloc_flags.DEVICEMAP)
        self._allocations.append(array.base)
        array.fill(0)
        return HostBuffer(array, int(array.base.get_device_pointer()))

    @_translated()
    def allocate(self, size: int) -> int:
        """Address of that many bytes on the device."""
        self._allocations.append(cuda.mem_alloc(size))
        return int(self._allocations[-1])

    def stream(self) -> PycudaStream:
        """A new stream."""
        stream = PycudaStream()
        self._natives.append(stream)
        return stream

    def event(self) -> PycudaEvent:
        """A new event."""
        event = PycudaEvent()
        self._natives.append(event)
        return event

    @_translated()
    def to_device(self, address: int, source: HostBuffer, rows: int, stream: Any) -> None:
        """Copies the first rows in the stream's turn."""
        cuda.memcpy_htod_async(address, source.array[:rows], stream.native)

    @_translated()
    def to_host(self, target: HostBuffer, address: int, rows: int, stream: Any) -> None:
        """Copies to the first rows in the stream's turn."""
        cuda.memcpy_dtoh_async(target.array[:rows], address, stream.native)

    def capture(self, stream: Any, work: Callable[[], None]) -> Graph:
        """Not with pycuda."""
        raise DskdError("pycuda records no CUDA graphs; pip install cuda-bindings")

    def close(self) -> None:
        """Frees everything, the newest first; twice does no harm."""
        with suppress(DskdError), self.active():
            while self._natives:
                self._natives.pop().native = None  # pycuda frees them with their last reference, and only here safely
            gc.collect()  # which the frames of an exception may hold
            while self._allocations:
                with suppress(cuda.Error):
                    self._allocations.pop().free()
