"""INT8 by TensorRT's own calibration: ranges that TensorRT 8.6 and 10 find themselves on good pictures.

The plan and its cache of ranges lie where the call says, for trtexec, for scripts of one's own and for the DLA, which
takes no Q/DQ graph. They are no part of the bundle and ``dskd runtime`` does not load them: what they say was compared
with nothing. The graph of ``dskd calibration`` runs on every version, with thresholds that were found for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dskd.export.engine_build import BuildOptions, Built, build_engine
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import FLOAT, Bundle
from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.capture.image_files import BadImage, list_images
from dskd.runtime.errors import CallError, DskdError, MissingPart
from dskd.runtime.inspection.cuda import Memory
from dskd.runtime.result import Image

CALIBRATORS = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}
MOST = 512  # network inputs; more take longer and move no range


def build_implicit(
    trt: Any, bundle: Bundle, memory: Memory, wanted: BuildOptions, pictures: Path, method: str, plan: Path
) -> tuple[Built, Path]:
    """Calibrates with ``pictures``, a folder of good ones, and writes the plan and the cache of ranges beside it.

    Raises MissingPart where this TensorRT has no calibrators, CallError where there are no pictures.
    """
    files = list_images(pictures) if pictures.is_dir() else []
    if not files:
        raise CallError(f"--calibrate {pictures}: holds no pictures; name a folder of good ones")
    cache = plan.with_name(f"{plan.name}.cache")
    batches = _batches(files, bundle.manifest.input, wanted.batch[1])
    with memory.active():
        calibrator = make_calibrator(trt, method, batches, memory, cache)
        built = build_engine(trt, bundle.file(FLOAT), wanted, calibrator)
    atomic.write_bytes(plan, built.plan)
    return built, cache


def told(built: Built, plan: Path, cache: Path, as_json: bool) -> str:
    """What was made, for people or as JSON."""
    megabytes = round(len(built.plan) / 1e6, 1)
    if as_json:
        return json.dumps({"plan": str(plan), "cache": str(cache), "megabytes": megabytes, "proved": False})
    return (
        f"plan {plan}: {megabytes} MB, built in {built.seconds:.0f} s; ranges in {cache}\n"
        "it was compared with nothing and dskd runtime does not load it: no thresholds belong to what it says"
    )


def _batches(files: list[Path], spec: InputSpec, size: int) -> Iterator[Image]:
    """Network inputs uint8 [size, H, W, 3] of files that can be read; of tiled pictures every tile."""
    from dskd.train.data import read_tiles

    waiting, given = list[Image](), 0
    for path in files:
        try:
            waiting += list(read_tiles(path, spec))
        except BadImage:
            continue
        while len(waiting) >= size and given < MOST:
            yield np.stack(waiting[:size])
            del waiting[:size]
            given += size


def make_calibrator(trt: Any, method: str, batches: Iterator[Image], memory: Memory, cache: Path) -> Any:
    """A calibrator for ``config.int8_calibrator``, to be made and used inside ``memory.active()``.

    ``batches`` are network inputs, uint8 [N, H, W, 3], all of one N; a shorter last one is left out. A ``cache`` that is
    there spares the pictures; one that is not is written once the ranges are known. Raises MissingPart where this
    TensorRT has no calibrators, DskdError where there is no picture.
    """
    base = getattr(trt, CALIBRATORS[method], None)
    if base is None:
        raise MissingPart(
            f"TensorRT {trt.__version__} has no {CALIBRATORS[method]}; leave out --calibrate: model.int8.onnx needs none"
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
