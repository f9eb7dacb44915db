"""What runs a bundle's graph. Each backend is a module here; ``open_backend`` picks by name."""

from __future__ import annotations

import sys

from runtime.backends.base import Backend, Output
from runtime.bundle import Bundle
from runtime.engine import engine_paths
from runtime.errors import CallError, DskdError, MissingPart, one_line
from runtime.manifest import Precision

NAMES = ("auto", "onnxruntime", "tensorrt")
BEST_FIRST: tuple[Precision, ...] = ("int8", "fp16", "fp32")


def open_backend(
    bundle: Bundle, name: str = "onnxruntime", threads: int = 0, precision: Precision | None = None
) -> Backend:
    """Loads the graph of ``bundle``. ``threads`` 0 leaves the number to the backend, as does None its ``precision``.

    onnxruntime takes fp32 by itself, tensorrt the fastest precision whose engine fits this device. ``auto`` is tensorrt
    where such an engine is, else onnxruntime. What is passed over is said on stderr with the reason.
    """
    if name == "auto":
        return _open_auto(bundle, threads, precision)
    if name == "tensorrt":
        return _open_tensorrt(bundle, precision)
    if name == "onnxruntime":
        from runtime.backends.onnx_runtime import GRAPHS, OnnxRuntimeBackend

        return OnnxRuntimeBackend(bundle, GRAPHS[precision or "fp32"], threads)
    raise CallError(f"no backend {name!r}; choose one of: {', '.join(NAMES)}")


def _open_auto(bundle: Bundle, threads: int, precision: Precision | None) -> Backend:
    if _engines(bundle, precision):
        try:
            return _open_tensorrt(bundle, precision)
        except DskdError as error:
            _pass_over(error)
    return open_backend(bundle, "onnxruntime", threads, precision)


def _open_tensorrt(bundle: Bundle, precision: Precision | None) -> Backend:
    from runtime.backends.tensorrt import TensorRtBackend

    *better, last = _engines(bundle, precision) or [precision or "fp16"]
    for candidate in better:
        try:
            return TensorRtBackend(bundle, candidate)
        except MissingPart:  # no GPU or no TensorRT: the next engine would fail like this one
            raise
        except DskdError as error:
            _pass_over(error)
    return TensorRtBackend(bundle, last)


def _engines(bundle: Bundle, precision: Precision | None) -> list[Precision]:
    """Precisions that were asked for and have a plan, whether it fits or not; the fastest first."""
    wanted = BEST_FIRST if precision is None else (precision,)
    return [candidate for candidate in wanted if engine_paths(bundle, candidate)[0].is_file()]


def _pass_over(error: DskdError) -> None:
    print(f"passed over: {one_line(str(error))}", file=sys.stderr)


__all__ = ["NAMES", "Backend", "Output", "open_backend"]
