"""Implicit INT8 of TensorRT 8.6 and 10, for build scripts of one's own: calibrators that feed pictures, and their cache.

Nothing else here uses it: TensorRT 11 has no calibrators, and the Q/DQ graph that ``dskd calibration`` writes runs
on every version with ranges, local distances and thresholds that were proved together. What an implicit engine says was
compared with nothing. On the device, with ``trt`` the tensorrt module and ``config`` its builder's configuration:

    with memory.active():
        config.set_flag(trt.BuilderFlag.INT8)
        config.int8_calibrator = make_calibrator(trt, "entropy", batches, memory, Path("tile.cache"))
        plan = builder.build_serialized_network(network, config)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dskd.runtime import atomic
from dskd.runtime.errors import DskdError, MissingPart
from dskd.runtime.inspection.cuda import Memory
from dskd.runtime.result import Image

CLASSES = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}


def make_calibrator(trt: Any, method: str, batches: Iterator[Image], memory: Memory, cache: Path) -> Any:
    """A calibrator for ``config.int8_calibrator``, to be made and used inside ``memory.active()``.

    ``batches`` are network inputs, uint8 [N, H, W, 3], all of one N; a shorter last one is left out. A ``cache`` that is
    there spares the pictures; one that is not is written once the ranges are known. Raises MissingPart where this
    TensorRT has no calibrators, DskdError where there is no picture.
    """
    base = getattr(trt, CLASSES[method], None)
    if base is None:
        raise MissingPart(
            f"TensorRT {trt.__version__} has no {CLASSES[method]}; build model.int8.onnx, which needs none"
        )
    first = next(batches, None)
    if first is None:
        raise DskdError("calibration: there is no picture to calibrate with; name a folder of good ones")
    size = len(first)
    buffer = memory.host(first.shape, np.uint8)  # page-locked: the device reads it where it lies

    class Calibrator(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)  # type: ignore[misc]
            self._next: Image | None = first

        def get_batch_size(self) -> int:
            return size

        def get_batch(self, names: list[str]) -> list[int] | None:
            if self._next is None or len(self._next) != size:
                return None
            buffer.array[:] = self._next
            self._next = next(batches, None)
            return [buffer.address]

        def read_calibration_cache(self) -> bytes | None:
            return cache.read_bytes() if cache.is_file() else None

        def write_calibration_cache(self, data: Any) -> None:
            atomic.write_bytes(cache, bytes(data))

    return Calibrator()
