"""Which GPU is here. Asked of the driver itself, because TensorRT crashes the process where there is none."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

from dskd.runtime.errors import CallError, MissingPart, one_line

DRIVER = "libcuda.so.1"
NAME_BYTES = 256
# CUdevice_attribute of cuda.h
MULTIPROCESSORS, INTEGRATED, CAPABILITY_MAJOR, CAPABILITY_MINOR = 16, 18, 75, 76
VISIBLE = "CUDA_VISIBLE_DEVICES"  # the driver itself reads it
ELSEWHERE = "use --backend onnxruntime, or go to a machine with an NVIDIA GPU (a container needs --runtime nvidia)"


@dataclass(frozen=True)
class Device:
    """One GPU."""

    index: int
    name: str
    compute_capability: str  # "8.7" on every Orin
    memory_bytes: int
    integrated: bool  # shares the CPU's memory, so a buffer that both see needs no copy
    multiprocessors: int = 0  # tells one Orin from another: all are called that; 0 where nobody asked


def find_device(index: int = 0) -> Device:
    """The GPU of that number. Raises MissingPart where driver or GPU are missing, CallError where there are fewer."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError as error:
        raise MissingPart(f"no NVIDIA driver here ({DRIVER} is missing); {ELSEWHERE}") from error
    _ask(driver, "cuInit", ctypes.c_uint(0))
    count = ctypes.c_int()
    _ask(driver, "cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise MissingPart(f"the NVIDIA driver finds no GPU{_visible()}; {ELSEWHERE}")
    if not 0 <= index < count.value:
        raise CallError(f"there is no GPU {index}; the driver finds {count.value}, counted from 0{_visible()}")
    handle, name, size = ctypes.c_int(), ctypes.create_string_buffer(NAME_BYTES), ctypes.c_size_t()
    _ask(driver, "cuDeviceGet", ctypes.byref(handle), ctypes.c_int(index))
    _ask(driver, "cuDeviceGetName", name, ctypes.c_int(NAME_BYTES), handle)
    _ask(driver, "cuDeviceTotalMem_v2", ctypes.byref(size), handle)
    major, minor = (_attribute(driver, handle, which) for which in (CAPABILITY_MAJOR, CAPABILITY_MINOR))
    integrated = bool(_attribute(driver, handle, INTEGRATED))
    called, capability = name.value.decode(errors="replace"), f"{major}.{minor}"
    return Device(index, called, capability, size.value, integrated, _attribute(driver, handle, MULTIPROCESSORS))


def context_status() -> int:
    """CUresult of the thread's current context once its work is done: a sticky error is said again by every call."""
    return int(ctypes.CDLL(DRIVER).cuCtxSynchronize())


def _attribute(driver: ctypes.CDLL, handle: ctypes.c_int, which: int) -> int:
    value = ctypes.c_int()
    _ask(driver, "cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(which), handle)
    return value.value


def _ask(driver: ctypes.CDLL, function: str, *arguments: object) -> None:
    status = int(driver[function](*arguments))
    if status == 0:
        return
    text = ctypes.c_char_p()
    driver.cuGetErrorName(ctypes.c_int(status), ctypes.byref(text))
    name = text.value.decode(errors="replace") if text.value else f"error {status}"
    raise MissingPart(f"the NVIDIA driver finds no GPU that works ({function}: {name}){_visible()}; {ELSEWHERE}")


def _visible() -> str:
    """What hides GPUs from the driver, where something does."""
    chosen = os.environ.get(VISIBLE)
    return "" if chosen is None else f", and {VISIBLE}={one_line(chosen)[:64]} says which it shows"
