"""``pycuda.driver`` as far as the runtime uses it, through ctypes on the stub of the driver.

Names, arguments and manners were read from pycuda 2026.1: buffers and streams belong to the context that is current
when they are made, free works once, everything raises ``Error`` but what cleans up, which only warns. The real one is used instead where it is installed.
"""

import ctypes

import numpy as np

_library = ctypes.CDLL("libcuda.so.1")


class Error(Exception):
    pass


class MemoryError(Error):  # noqa: A001
    pass


def _call(name, *arguments):
    status = _library[name](*arguments)
    if status:
        raise (MemoryError if status == 2 else Error)(f"{name} failed: {status}")


def _made(name, *arguments):
    handle = ctypes.c_size_t()
    _call(name, ctypes.byref(handle), *arguments)
    return ctypes.c_size_t(handle.value)


def init(flags=0):
    _call("cuInit", flags)


class host_alloc_flags:  # noqa: N801
    DEVICEMAP = 2


class Context:
    def __init__(self, handle):
        self._handle = handle

    def push(self):
        _call("cuCtxPushCurrent_v2", self._handle)

    @staticmethod
    def pop():
        _made("cuCtxPopCurrent_v2")

    def detach(self):
        _library.cuDevicePrimaryCtxRelease_v2(0)


class Device:
    def __init__(self, index):
        self._index = index

    def retain_primary_context(self):
        return Context(_made("cuDevicePrimaryCtxRetain", self._index))


class DeviceAllocation:
    def __init__(self, size):
        self._address = _made("cuMemAlloc_v2", ctypes.c_size_t(size))

    def __int__(self):
        return self._address.value

    def free(self):
        _call("cuMemFree_v2", self._address)


mem_alloc = DeviceAllocation


class _Pagelocked(np.ndarray):
    base = None  # numpy's own cannot be set


class PagelockedHostAllocation:
    def __init__(self, size, flags):
        self._pointer = _made("cuMemHostAlloc", ctypes.c_size_t(size), flags)

    def get_device_pointer(self):
        return _made("cuMemHostGetDevicePointer_v2", self._pointer, 0).value

    def free(self):
        _call("cuMemFreeHost", self._pointer)


def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    allocation = PagelockedHostAllocation(size, mem_flags)
    memory = (ctypes.c_ubyte * size).from_address(allocation._pointer.value)
    array = np.frombuffer(memory, dtype).reshape(shape).view(_Pagelocked)
    array.base = allocation
    return array


class Stream:
    def __init__(self, flags=0):
        self._handle = _made("cuStreamCreate", flags)
        self.handle = self._handle.value

    def synchronize(self):
        _call("cuStreamSynchronize", self._handle)

    def __del__(self):
        if hasattr(self, "_handle"):
            _library.cuStreamDestroy_v2(self._handle)


class Event:
    def __init__(self, flags=0):
        self._handle = _made("cuEventCreate", flags)

    def record(self, stream=None):
        _call("cuEventRecord", self._handle, stream._handle)
        return self

    def synchronize(self):
        _call("cuEventSynchronize", self._handle)
        return self

    def __del__(self):
        _library.cuEventDestroy_v2(self._handle)


def _buffer(array):
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)


def memcpy_htod_async(dest, src, stream=None):
    pointer, size = _buffer(src)
    _call("cuMemcpyHtoDAsync_v2", ctypes.c_size_t(dest), pointer, size, stream._handle)


def memcpy_dtoh_async(dest, src, stream=None):
    pointer, size = _buffer(dest)
    _call("cuMemcpyDtoHAsync_v2", pointer, ctypes.c_size_t(src), size, stream._handle)
