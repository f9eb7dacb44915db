"""An onnxruntime session on a graph in memory, that also gives tensors from inside it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import

import onnx
import onnxruntime
from onnx import helper


def open_session(model: onnx.ModelProto, asked: Sequence[str] = (), fused: bool = True) -> onnxruntime.InferenceSession:
    """On the CPU, with the outputs ``asked`` for instead of the graph's own. Not ``fused``: every tensor can be."""
    own = list(model.graph.output)
    if asked:
        del model.graph.output[:]
        model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in asked)
    try:
        written = model.SerializeToString()
    finally:  # changed and put back: a copy would take as much memory again as the graph
        del model.graph.output[:]
        model.graph.output.extend(own)
    return_freed_memory()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = (
        False  # an arena keeps what a session once needed, and many sessions follow each other
    )
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])


def return_freed_memory() -> None:
    """Gives what is free back to the system. glibc keeps it, in pieces that the next graph may not fit into."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # elsewhere than with glibc there is no such function
        trim(0)
