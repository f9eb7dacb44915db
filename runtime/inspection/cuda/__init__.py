"""The GPU without TensorRT: finding it, and its memory through whichever of two packages is installed."""

from __future__ import annotations

from collections.abc import Callable

from dskd.runtime.errors import CallError, MissingPart
from dskd.runtime.inspection.cuda.base import Memory
from dskd.runtime.inspection.cuda.device import Device, find_device
from dskd.runtime.inspection.cuda.driver_words import hearing_driver


def _cuda_bindings(device: Device) -> Memory:
    from dskd.runtime.inspection.cuda.cuda_bindings_memory import CudaBindingsMemory

    return CudaBindingsMemory(device)


def _pycuda(device: Device) -> Memory:
    from dskd.runtime.inspection.cuda.pycuda_memory import PycudaMemory

    return PycudaMemory(device)


# cuda-bindings first: it has wheels and can record graphs, and no released pycuda can
ADAPTERS: dict[str, Callable[[Device], Memory]] = {"cuda-bindings": _cuda_bindings, "pycuda": _pycuda}


def open_memory(device: Device, name: str | None = None) -> Memory:
    """Memory of ``device`` through the named package, else through the first that is installed.

    Raises MissingPart where there is none.
    """
    if name is not None and name not in ADAPTERS:
        raise CallError(f"no package {name!r} for GPU memory; choose one of: {', '.join(ADAPTERS)}")
    reasons = []
    for candidate in ADAPTERS if name is None else (name,):
        try:
            return ADAPTERS[candidate](device)
        except MissingPart as error:
            reasons.append(str(error))
    raise MissingPart(" or ".join(reasons))


__all__ = ["ADAPTERS", "Device", "Memory", "find_device", "hearing_driver", "open_memory"]
