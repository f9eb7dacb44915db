"""GPU memory through cuda-bindings, NVIDIA's own package (versions 12.8 and later, 13)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from dskd.runtime.errors import DskdError, MissingPart
from dskd.runtime.inspection.cuda.base import DISABLE_TIMING, NON_BLOCKING, HostBuffer, device_failure
from dskd.runtime.inspection.cuda.device import ELSEWHERE, Device

try:
    from cuda.bindings import driver
except ImportError as error:
    driver, MISSING = None, str(error)

SPIN = (
    "DSKD_CUDA_SPIN"  # "1": a thread that waits keeps its core, and hears of the end some tens of microseconds earlier
)


def _call(function: Callable[..., tuple[Any, ...]], *arguments: object) -> Any:
    """The function's answer. Raises DskdError with the driver's own word for what went wrong."""
    try:
        status, *answer = function(*arguments)
    except RuntimeError as error:  # no driver, or one that is older than the function
        raise MissingPart(f"cuda-bindings cannot use the NVIDIA driver ({error}); {ELSEWHERE}") from error
    if status != driver.CUresult.CUDA_SUCCESS:
        raise device_failure(f"{function.__name__}: {status.name}", int(status))
    return answer[0] if answer else None


class CudaStream:
    """A stream of its own."""

    def __init__(self) -> None:
        self.native = _call(driver.cuStreamCreate, NON_BLOCKING)
        self.handle = int(self.native)

    def synchronize(self) -> None:
        """Waits until all of its work is done."""
        _call(driver.cuStreamSynchronize, self.native)


class CudaEvent:
    """A point in a stream."""

    def __init__(self) -> None:
        self.native = _call(driver.cuEventCreate, DISABLE_TIMING)

    def record(self, stream: CudaStream) -> None:
        """Sets the point after what the stream was given so far."""
        _call(driver.cuEventRecord, self.native, stream.native)

    def synchronize(self) -> None:
        """Waits until the device has passed the point."""
        _call(driver.cuEventSynchronize, self.native)


class CudaGraph:
    """Recorded work."""

    def __init__(self, recorded: Any) -> None:
        self.native = _call(driver.cuGraphInstantiate, recorded, 0)

    def launch(self, stream: CudaStream) -> None:
        """Gives it to the stream."""
        _call(driver.cuGraphLaunch, self.native, stream.native)

    def close(self) -> None:
        """Frees it, once the device is through with it."""
        _call(driver.cuGraphExecDestroy, self.native)


class CudaBindingsMemory:
    """Memory, streams, events and graphs of one device's primary context."""

    name = "cuda-bindings"
    captures = True

    def __init__(self, device: Device) -> None:
        if driver is None:
            raise MissingPart(
                f"cuda-bindings is not installed ({MISSING}); pip install it in your CUDA's major version: "
                "'cuda-bindings==12.*' on JetPack 6, 'cuda-bindings==13.*' on JetPack 7"
            )
        self.device = device
        self._frees: list[tuple[Callable[..., tuple[Any, ...]], object]] = []
        _call(driver.cuInit, 0)
        self._native = _call(driver.cuDeviceGet, device.index)
        if os.environ.get(SPIN) == "1":
            _call(driver.cuDevicePrimaryCtxSetFlags, self._native, driver.CUctx_flags.CU_CTX_SCHED_SPIN)
        self._context = _call(driver.cuDevicePrimaryCtxRetain, self._native)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes the primary context the thread's own for a while."""
        _call(driver.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            _call(driver.cuCtxPopCurrent)

    def host(self, shape: tuple[int, ...], dtype: DTypeLike) -> HostBuffer:
        """Page-locked memory."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        pointer = int(_call(driver.cuMemHostAlloc, size, driver.CU_MEMHOSTALLOC_DEVICEMAP))
        self._frees.append((driver.cuMemFreeHost, pointer))
        array = np.frombuffer(memoryview((ctypes.c_ubyte * size).from_address(pointer)), dtype).reshape(shape)
        array.fill(0)
        return HostBuffer(array, int(_call(driver.cuMemHostGetDevicePointer, pointer, 0)))

    def allocate(self, size: int) -> int:
        """Address of that many bytes on the device."""
        native = _call(driver.cuMemAlloc, size)
        self._frees.append((driver.cuMemFree, native))
        return int(native)

    def stream(self) -> CudaStream:
        """A new stream."""
        stream = CudaStream()
        self._frees.append((driver.cuStreamDestroy, stream.native))
        return stream

    def event(self) -> CudaEvent:
        """A new event."""
        event = CudaEvent()
        self._frees.append((driver.cuEventDestroy, event.native))
        return event

    def to_device(self, address: int, source: HostBuffer, rows: int, stream: Any) -> None:
        """Copies the first rows in the stream's turn."""
        size = rows * source.array.strides[0]
        _call(driver.cuMemcpyHtoDAsync, address, source.array.ctypes.data, size, stream.native)

    def to_host(self, target: HostBuffer, address: int, rows: int, stream: Any) -> None:
        """Copies to the first rows in the stream's turn."""
        size = rows * target.array.strides[0]
        _call(driver.cuMemcpyDtoHAsync, target.array.ctypes.data, address, size, stream.native)

    def capture(self, stream: Any, work: Callable[[], None]) -> CudaGraph:
        """Records what ``work`` gives to the stream; other threads may use the device meanwhile."""
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _call(driver.cuStreamBeginCapture, stream.native, mode)
        try:
            work()
        except BaseException:
            with suppress(DskdError):  # the stream must leave its recording, whatever came of it
                _call(driver.cuGraphDestroy, _call(driver.cuStreamEndCapture, stream.native))
            raise
        recorded = _call(driver.cuStreamEndCapture, stream.native)
        try:
            return CudaGraph(recorded)
        finally:
            _call(driver.cuGraphDestroy, recorded)

    def close(self) -> None:
        """Frees everything, the newest first; twice does no harm."""
        if self._context is None:
            return
        with suppress(DskdError), self.active():
            while self._frees:
                free, what = self._frees.pop()
                with suppress(DskdError):
                    _call(free, what)
        with suppress(DskdError):
            _call(driver.cuDevicePrimaryCtxRelease, self._native)
        self._context = None
