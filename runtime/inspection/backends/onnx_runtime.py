"""onnxruntime: CPU, or CUDA where its provider is installed."""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import: a factory device phones nobody

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dskd.runtime.bundle.graph_operators import require_bounded
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.backends.base import allowed_cores
from dskd.runtime.result import Image

# INT8 for the CPU has unsigned activations, which its instructions want; TensorRT's is signed.
GRAPHS: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.cpu.onnx"}

# It rounds the biases of Q/DQ graphs, which are in float, to multiples of their convolution's scales: where a channel's
# weights are rounding dust these are so small that the bias does not fit, and the map was another one (correlation 0.87).
INEXACT = ["WeightBiasQuantization"]


class OnnxRuntimeOutput:
    """Scores on the host; maps stay where they were computed until asked for."""

    def __init__(self, binding: onnxruntime.IOBinding) -> None:
        score, self._map = binding.get_outputs()
        self.scores: NDArray[np.float32] = score.numpy()

    def maps(self) -> NDArray[np.float32]:
        """Anomaly maps [N, H, W]."""
        found: NDArray[np.float32] = self._map.numpy()
        return found


class OnnxRuntimeBackend:
    """Runs one of the bundle's ONNX files, or ``model``, which stands for it.

    ``literally``: on the CPU, node by node as the graph says, so that neither fused operators nor the CPU's instructions
    for eight bits have a say in it. That is slow.
    """

    def __init__(
        self,
        bundle: Bundle,
        graph: str = GRAPHS["fp32"],
        threads: int = 0,
        model: bytes | None = None,
        literally: bool = False,
    ) -> None:
        self.graph = graph
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or allowed_cores()  # its own choice counts the machine's
        # A thread that waits by spinning takes the core from capture, decoding and sinks: with two threads at ten frames
        # a second on two busy cores, more than twice the CPU time a frame and a later answer.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if literally:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        available = onnxruntime.get_available_providers()
        exact = {"use_tf32": "0"}  # TensorFloat-32 rounds to ten bits, and the golden check would say so
        wanted = [("CUDAExecutionProvider", exact), ("CPUExecutionProvider", {})]
        providers = [provider for provider in wanted if provider[0] in available][-1 if literally else 0 :]
        file = bundle.graph_file(graph)
        if model is None:
            require_bounded(file)
        try:
            self._session = onnxruntime.InferenceSession(
                model or str(file), options, providers=providers, disabled_optimizers=INEXACT
            )
        except Exception as error:  # onnxruntime raises its own unrelated types
            raise DskdError(f"{file}: onnxruntime cannot load it ({error}); export the bundle again") from error
        self._device = "cuda" if self._session.get_providers()[0].startswith("CUDA") else "cpu"
        rest = {file: f"-{precision}" for precision, file in GRAPHS.items() if precision != "fp32"}
        self.name = f"onnxruntime-{self._device}{rest.get(graph, '')}"  # scores of two graphs are never taken for one's

    def infer(self, batch: Image) -> OnnxRuntimeOutput:
        """uint8 BGR [N, height, width, 3] -> scores [N] and maps on demand."""
        binding = self._session.io_binding()
        binding.bind_cpu_input("image", np.ascontiguousarray(batch))
        binding.bind_output("score", "cpu")
        binding.bind_output("anomaly_map", self._device)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises its own unrelated types
            raise DskdError(f"backend {self.name} failed ({error}); check memory and device") from error
        return OnnxRuntimeOutput(binding)

    def close(self) -> None:
        """Releases the session."""
        del self._session
