"""OpenVINO: CPUs of x86 and Arm, in the precision that was asked for and in no other.

Left to itself the library computes in bfloat16 wherever the CPU can, and says so nowhere. Here the precision is always
set, stands in the backend's name, and has thresholds and a tolerance of its own in the bundle.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dskd.runtime import user_cache
from dskd.runtime.bundle.graph_operators import require_bounded
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import DskdError, MissingPart
from dskd.runtime.imports import without
from dskd.runtime.inspection.backends.base import allowed_cores, cpu_words
from dskd.runtime.result import Image

INSTALL = "pip install 'dskd-edge[openvino]', or use --backend onnxruntime"
GRAPHS: dict[Precision, str] = {
    "fp32": "model.onnx",
    "bf16": "model.onnx@bf16",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.cpu.onnx",
}
_CONVERTER = "openvino.tools.ovc"


def load_openvino() -> Any:
    """The library without its model converter, whose import alone tells a server on the internet about it.

    It is also the slower half of the import. Raises MissingPart where OpenVINO is not installed or does not load.
    """
    try:
        with without(_CONVERTER):
            import openvino
    except ImportError as error:
        raise MissingPart(f"OpenVINO cannot be imported ({error}); {INSTALL}") from error
    return openvino


@cache
def process_core() -> Any:
    """The process' one core, which is never let go.

    Each core's CPU plugin puts a signal stack of its own in place on the thread that loads the first model, and frees
    it with the core, on whichever thread and in whatever order that happens: a signal that Python handles afterwards,
    a service's SIGTERM, would then end the process with a segmentation fault (seen with OpenVINO 2026.4).
    """
    return load_openvino().Core()


class OpenVinoOutput:
    """Scores are the caller's own; maps stay in the backend until asked for or until its next batch."""

    def __init__(self, backend: OpenVinoBackend, use: int, scores: NDArray[np.float32]) -> None:
        self.scores = scores
        self._backend, self._use = backend, use

    def maps(self) -> NDArray[np.float32]:
        """Anomaly maps [N, H, W]. Raises DskdError where the next batch took their place."""
        return self._backend.fetch_maps(self._use, len(self.scores))


class OpenVinoBackend:
    """Runs one of the bundle's ONNX files, one image after the other: a CPU gains little from batches.

    ``rest`` is the precision of what an INT8 graph leaves in float: fp32 or bf16.
    """

    def __init__(
        self, bundle: Bundle, precision: Precision = "fp32", threads: int = 0, rest: Precision = "fp32"
    ) -> None:
        self.graph = GRAPHS[precision]
        if self.graph not in bundle.manifest.graphs:
            raise DskdError(f"{bundle.path}: holds no thresholds for {precision}; make them with dskd calibration")
        self.name = f"openvino-{precision}" + (f"+{rest}" if rest != "fp32" else "")
        spec, rows = bundle.manifest.input, bundle.manifest.max_batch
        self._image = np.zeros((1, spec.height, spec.width, 3), np.uint8)
        self._scores = np.zeros(rows, np.float32)
        self._maps = np.zeros((rows, spec.height, spec.width), np.float32)
        self._use = 0  # the batch whose maps are here
        self._bound = -1  # the row that the request writes its answer to
        self._request = self._open(bundle, rest if precision == "int8" else precision, threads or allowed_cores())

    def _open(self, bundle: Bundle, computed: Precision, threads: int) -> Any:
        openvino = load_openvino()
        asked = {"bf16": openvino.Type.bf16, "fp16": openvino.Type.f16}.get(computed, openvino.Type.f32)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": asked,
        }
        try:
            compiled = self._compiled(openvino, bundle, settings)
            used = compiled.get_property("INFERENCE_PRECISION_HINT")
            request = compiled.create_infer_request()
            request.set_tensor("image", openvino.Tensor(self._image, shared_memory=True))
        except RuntimeError as error:
            file = bundle.path / self.graph
            raise DskdError(f"{file}: OpenVINO cannot load it ({error}); export the bundle again") from error
        if used != asked:
            raise DskdError(
                f"{self.name}: this CPU computes in {used.get_type_name()} instead; choose another --precision"
            )
        self._rows = [
            {
                "score": openvino.Tensor(self._scores[k : k + 1], shared_memory=True),
                "anomaly_map": openvino.Tensor(self._maps[k : k + 1], shared_memory=True),
            }
            for k in range(len(self._scores))
        ]
        return request

    def _compiled(self, openvino: Any, bundle: Bundle, settings: dict[str, Any]) -> Any:
        """The graph for this CPU, as it was compiled before or anew.

        Compiling takes three times as long as reading what was compiled where the graph is INT8, and hardly longer
        where it is float.
        """
        core, shape = process_core(), list(self._image.shape)
        sha256 = bundle.manifest.files[self.graph.partition("@")[0]]
        key = user_cache.key_of(sha256, shape, openvino.get_version(), *sorted(cpu_words()), *settings.items())
        worth = "int8" in self.graph
        self._blob = (
            user_cache.get("openvino", key) if worth else None
        )  # held: the weights are read from it where they lie
        if self._blob is not None:
            with suppress(RuntimeError):  # then it is compiled
                compiled = core.import_model(openvino.Tensor(self._blob, shared_memory=True), "CPU", settings)
                user_cache.release(self._blob)  # two thirds of it were copied into another order and are not read again
                return compiled
        file = bundle.graph_file(self.graph)
        require_bounded(file)
        model = core.read_model(file)
        model.reshape({"image": shape})
        compiled = core.compile_model(model, "CPU", settings)
        if worth:
            user_cache.put("openvino", key, compiled.export_model().getbuffer(), keep=4)
        return compiled

    def infer(self, batch: Image) -> OpenVinoOutput:
        """uint8 BGR [N, height, width, 3] -> scores [N] and maps on demand."""
        if not 1 <= len(batch) <= len(self._scores) or batch.shape[1:] != self._image.shape[1:]:
            most, *size = len(self._scores), *self._image.shape[1:]
            raise DskdError(f"{self.name}: batch is {list(batch.shape)}; expected 1 to {most} images {size}")
        self._use += 1
        try:
            for row, image in enumerate(batch):
                self._image[0] = image  # to set another tensor takes as long as this copy
                self._answer_into(row)
                self._request.infer(share_outputs=True)  # else it copies what it returns, which nobody reads
        except RuntimeError as error:
            raise DskdError(f"backend {self.name} failed ({error}); check memory and device") from error
        return OpenVinoOutput(self, self._use, self._scores[: len(batch)].copy())

    def _answer_into(self, row: int) -> None:
        if row != self._bound:
            for name, tensor in self._rows[row].items():
                self._request.set_tensor(name, tensor)
            self._bound = row

    def fetch_maps(self, use: int, rows: int) -> NDArray[np.float32]:
        """Anomaly maps [N, H, W] of the latest batch, and only of it."""
        if use != self._use:
            raise DskdError(f"{self.name}: a later batch took the place of these maps; ask right after infer")
        found: NDArray[np.float32] = self._maps[:rows].copy()
        return found

    def close(self) -> None:
        """Releases the compiled graph."""
        self._request, self._rows, self._blob = None, [], None
