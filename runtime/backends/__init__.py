"""What runs a bundle's graph. Each backend is one file here; ``open_backend`` picks by name."""

from __future__ import annotations

from runtime.backends.base import Backend, Output
from runtime.bundle import Bundle
from runtime.errors import CallError
from runtime.manifest import Precision

NAMES = ("onnxruntime",)


def open_backend(bundle: Bundle, name: str = "onnxruntime", threads: int = 0, precision: Precision = "fp32") -> Backend:
    """Loads the graph of ``bundle`` in that precision. ``threads`` 0 leaves the number to the backend."""
    if name == "onnxruntime":
        from runtime.backends.onnx_runtime import GRAPHS, OnnxRuntimeBackend

        return OnnxRuntimeBackend(bundle, GRAPHS[precision], threads)
    raise CallError(f"no backend {name!r}; choose one of: {', '.join(NAMES)}")


__all__ = ["NAMES", "Backend", "Output", "open_backend"]
