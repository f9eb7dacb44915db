"""The bundle's graph in half precision, in INT8, and with faults planted, for TensorRT to take or refuse."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from dskd.runtime.bundle.loading import Bundle, golden_file, hash_files, load_bundle, write_manifest
from dskd.runtime.bundle.manifest import Tolerance

LARGEST_TOP = 3840  # TensorRT's own limit for TopK
LOOSE = 1e4  # the graphs here are examples of a form, made without care for what they answer


def write_half(source: Path, target: Path) -> Path:
    """Half precision in the networks, float32 in distance, fusion and score."""
    model = onnx.load(source)
    head = [node.name for node in model.graph.node if node.name.startswith("/anomaly_map")]
    half = convert_float_to_float16(model, keep_io_types=True, node_block_list=head)
    nodes = {node.name: node for node in half.graph.node}  # a tensor with two readers in float32 is cast twice
    del half.graph.node[:]
    half.graph.node.extend(nodes.values())
    onnx.save(half, target)
    return target


class _Frames(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, inputs: NDArray[np.uint8]) -> None:
        self._left: Iterator[NDArray[np.uint8]] = iter(inputs[:, None])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        frame = next(self._left, None)
        return None if frame is None else {"image": frame}


def write_int8(source: Path, target: Path, inputs: NDArray[np.uint8], symmetric: bool = True) -> Path:
    """Q/DQ before every convolution, in the form that TensorRT takes, or with zero points, which it does not."""
    quantize_static(
        source, target, _Frames(inputs), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"],
        extra_options={
            "ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": ["Conv"], "QDQOpTypePerChannelSupportToAxis": {"Conv": 0},
        },
    )  # fmt: skip
    return target


def write_planted(source: Path, target: Path, operator: str) -> Path:
    """The graph with one more node, named planted, between the anomaly map and its output."""
    model = onnx.load(source)
    graph = model.graph
    (last,) = [node for node in graph.node if "anomaly_map" in node.output]
    last.output[list(last.output).index("anomaly_map")] = "kept"
    for node in graph.node:
        node.input[:] = ["kept" if name == "anomaly_map" else name for name in node.input]
    inputs, outputs, attributes = ["kept"], ["anomaly_map"], {}
    if operator == "Resize":
        graph.initializer.append(numpy_helper.from_array(np.array([1, 0.5, 0.5], np.float32), "scales"))
        inputs, attributes = ["kept", "", "scales"], {"mode": "linear", "antialias": 1}
    if operator == "TopK":
        graph.initializer.append(numpy_helper.from_array(np.array([-1, 6144], np.int64), "flat"))
        graph.initializer.append(numpy_helper.from_array(np.array([LARGEST_TOP + 1], np.int64), "k"))
        graph.node.append(helper.make_node("Reshape", ["kept", "flat"], ["row"], name="row"))
        inputs, outputs = ["row", "k"], ["anomaly_map", "index"]
    graph.node.append(helper.make_node(operator, inputs, outputs, name="planted", **attributes))
    del graph.output[1].type.tensor_type.shape.dim[:]
    onnx.save(model, target)
    return target


def bundle_in_all_precisions(bundle: Bundle, folder: Path) -> Bundle:
    """A copy of ``bundle`` at ``folder`` with graphs for fp16 and int8 beside the first."""
    shutil.copytree(bundle.path, folder)
    source = folder / "model.onnx"
    write_half(source, folder / "model.fp16.onnx")
    write_int8(source, folder / "model.int8.onnx", bundle.golden().inputs[:2])
    (folder / golden_file("model.fp16.onnx", "probe_maps")).unlink()  # of the graph that stood there
    first = bundle.manifest.graphs["model.onnx"]
    loose = Tolerance(score=LOOSE, map=LOOSE)
    more = {
        f"model.{precision}.onnx": first.model_copy(update={"precision": precision, "tolerance": loose})
        for precision in ("fp16", "int8")
    }
    graphs = {**bundle.manifest.graphs, **more}
    write_manifest(folder, bundle.manifest.model_copy(update={"graphs": graphs, "files": hash_files(folder)}))
    return load_bundle(folder)
