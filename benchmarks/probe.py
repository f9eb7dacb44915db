"""A bundle of large convolutions: what a backend reaches on it is the most that this machine gives in that precision.

Six 3x3 convolutions of 256 channels, where nearly all time goes into multiply-accumulates. It is made by the exporter's
own means, so that each backend, precision and engine runs it as it runs a product's bundle.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dskd.calibration.quantise import FILES, observed_tensors, quantise
from dskd.calibration.ranges import observe
from dskd.export.graph.half import to_half
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import Bundle, hash_files, load_bundle, write_manifest
from dskd.runtime.bundle.manifest import (
    Graph,
    InputSpec,
    Manifest,
    Precision,
    Provenance,
    Threshold,
    Thresholds,
    Tolerance,
)
from dskd.runtime.capture.image_files import encode_png

SIDE, CHANNELS, LAYERS = 64, 256, 6
OPSET = 20
MACS = LAYERS * CHANNELS * CHANNELS * 9 * SIDE * SIDE + 3 * CHANNELS * SIDE * SIDE
ANYTHING = 1e9  # it judges nothing, so no answer of it is wrong


def write_probe(folder: Path) -> Bundle:
    """Writes the bundle in float32, float16 and both kinds of INT8."""
    random = np.random.default_rng(0)
    with atomic.replacing_directory(folder) as made:
        images = random.integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
        graph = _graph(random)
        histograms = observe(graph, observed_tensors(graph), images)
        files: dict[str, tuple[onnx.ModelProto, Precision]] = {
            "model.onnx": (graph, "fp32"), "model.fp16.onnx": (to_half(graph), "fp16"),
            FILES["tensorrt"]: (quantise(graph, histograms, "minmax", "tensorrt"), "int8"),
            FILES["cpu"]: (quantise(graph, histograms, "minmax", "cpu"), "int8"),
        }  # fmt: skip
        for name, (model, _) in files.items():
            onnx.save(model, made / name)
        _golden(made, images)
        precisions: dict[str, Precision] = {name: precision for name, (_, precision) in files.items()}
        write_manifest(made, _manifest(made, {**precisions, "model.onnx@bf16": "bf16"}))
    return load_bundle(folder)


def _graph(random: np.random.Generator) -> onnx.ModelProto:
    """uint8 [N, SIDE, SIDE, 3] -> score [N] and map [N, SIDE, SIDE]; nodes are named as the exporter names them."""
    constants = [numpy_helper.from_array(np.float32(1 / 255), "scale")]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], "/to_input/Cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], "/to_input/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["x0"], "/to_input/Mul"),
    ]
    for layer in range(LAYERS + 1):
        inputs, side = (CHANNELS, 3) if layer else (3, 1)
        spread = np.sqrt(2 / (inputs * side * side))  # keeps what goes through at one size
        weight = random.normal(0, spread, (CHANNELS, inputs, side, side)).astype(np.float32)
        bias = np.zeros(CHANNELS, np.float32)
        constants += [numpy_helper.from_array(weight, f"w{layer}"), numpy_helper.from_array(bias, f"b{layer}")]
        name, pads = f"/path/layer{layer}", [side // 2] * 4
        nodes += [
            helper.make_node("Conv", [f"x{layer}", f"w{layer}", f"b{layer}"], [f"y{layer}"], f"{name}/Conv", pads=pads),
            helper.make_node("Relu", [f"y{layer}"], [f"x{layer + 1}"], f"{name}/Relu"),
        ]
    axes = [numpy_helper.from_array(np.array(a, np.int64), name) for name, a in (("channels", [1]), ("places", [1, 2]))]
    nodes += [
        helper.make_node(
            "ReduceMean", [f"x{LAYERS + 1}", "channels"], ["anomaly_map"], "/anomaly_map/Mean", keepdims=0
        ),
        helper.make_node("ReduceMax", ["anomaly_map", "places"], ["score"], "/anomaly_map/Max", keepdims=0),
    ]
    outputs = [
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
        helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["N", SIDE, SIDE]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIDE, SIDE, 3])
    graph = helper.make_graph(nodes, "probe", [image], outputs, [*constants, *axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def _golden(folder: Path, images: NDArray[np.uint8]) -> None:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    scores, maps = session.run(["score", "anomaly_map"], {"image": images})
    golden = folder / "golden"
    golden.mkdir()
    for k, image in enumerate(images):
        (golden / f"frame_{k}.png").write_bytes(encode_png(image))
    for name, array in (("inputs", images), ("scores", scores), ("maps", maps)):
        np.save(golden / f"{name}.npy", array)


def _manifest(folder: Path, precisions: dict[str, Precision]) -> Manifest:
    threshold = Threshold(score=ANYTHING, false_reject_rate=0.5, supported_rate=0.5, images=1)
    graphs = {
        name: Graph(
            precision=precision, opset=OPSET, parameters=1, macs=MACS, tolerance=Tolerance(score=ANYTHING, map=ANYTHING),
            thresholds=Thresholds(review=threshold, reject=threshold),
        )
        for name, precision in precisions.items()
    }  # fmt: skip
    nothing = "0" * 64
    return Manifest(
        name="probe", created="2026-01-01T00:00:00+00:00", method="none", backbone="none", bottleneck_source="none",
        input=InputSpec(height=SIDE, width=SIDE), max_batch=1, graphs=graphs, golden=2, parity=[],
        provenance=Provenance(
            licence="none", training_data_sha256=nothing, training_images=1, held_out_images=0, teacher_weights="none",
            teacher_weights_sha256=nothing, checkpoint_sha256=nothing, versions={}, config={},
        ),
        files=hash_files(folder),
    )  # fmt: skip
