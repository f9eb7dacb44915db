"""An onnxruntime session on a graph in memory, that also gives tensors from inside it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from dskd.runtime.inspection.backends.onnx_runtime import INEXACT

LARGE = 1024  # bytes of a constant that is handed over beside the graph


def open_session(model: onnx.ModelProto, asked: Sequence[str] = (), fused: bool = True) -> onnxruntime.InferenceSession:
    """On the CPU, with the outputs ``asked`` for instead of the graph's own. Not ``fused``: every tensor can be.

    Large constants are handed over as they lie in memory: writing them into the graph's bytes and reading them back takes
    several times as long as all the rest, and as much memory again.
    """
    written, constants = _parted(model, asked)
    return_freed_memory()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = (
        False  # an arena keeps what a session once needed, and many sessions follow each other
    )
    options.add_external_initializers(list(constants), list(constants.values()))
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(
        written, options, providers=["CPUExecutionProvider"], disabled_optimizers=INEXACT
    )
    session.constants = constants  # held as long as the session, which may read them where they lie
    return session


def _parted(model: onnx.ModelProto, asked: Sequence[str]) -> tuple[bytes, dict[str, onnxruntime.OrtValue]]:
    """The graph without its large constants, and these by name."""
    light, constants = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import), {}
    light.graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info"):
        getattr(light.graph, field).extend(getattr(model.graph, field))
    if asked:
        del light.graph.output[:]
        light.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in asked)
    read = {name for node in model.graph.node for name in node.input}  # onnxruntime refuses to be handed any other
    for constant in model.graph.initializer:
        if constant.name not in read:
            continue
        if (array := numpy_helper.to_array(constant)).nbytes <= LARGE:
            light.graph.initializer.append(constant)
            continue
        constants[constant.name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
        beside = light.graph.initializer.add(name=constant.name, dims=constant.dims, data_type=constant.data_type)
        beside.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "memory"), ("offset", "0"), ("length", str(array.nbytes))):
            beside.external_data.add(key=key, value=value)
    return light.SerializeToString(), constants


def return_freed_memory() -> None:
    """Gives what is free back to the system. glibc keeps it, in pieces that the next graph may not fit into."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # elsewhere than with glibc there is no such function
        trim(0)
