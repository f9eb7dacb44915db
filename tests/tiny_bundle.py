"""A bundle that a hair's breadth of a network makes: for tests about bundles, not about inspection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from dskd.runtime.bundle.loading import Bundle, hash_files, load_bundle, write_manifest
from dskd.runtime.bundle.manifest import (
    Graph,
    InputSpec,
    Manifest,
    Provenance,
    Threshold,
    Thresholds,
    Tiling,
    Tolerance,
)  # fmt: skip
from dskd.runtime.inspection.preprocess import preprocess

SIDE = 32
FRAMES = 2


def tiny_bundle(folder: Path, name: str = "tiny", shift: float = 0.0, golden_error: float = 0.0) -> Bundle:
    """Map = how far a pixel is from grey 128, plus ``shift``; ``golden_error`` makes the golden answers wrong."""
    folder.mkdir(parents=True)
    _graph(folder / "model.onnx", shift)
    golden = folder / "golden"
    golden.mkdir()
    random = np.random.default_rng(0)
    inputs = []
    for k in range(FRAMES):
        picture = random.integers(90, 160, (SIDE * 2, SIDE * 2, 3), dtype=np.uint8)
        cv2.imwrite(str(golden / f"frame_{k}.png"), picture)
        inputs.append(preprocess(picture, SIDE, SIDE, None))
    batch = np.stack(inputs)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    scores, maps = session.run(None, {"image": batch})
    np.save(golden / "inputs.npy", batch)
    np.save(golden / "scores.npy", scores + np.float32(golden_error))
    np.save(golden / "maps.npy", maps)
    threshold = Threshold(score=float(scores.max()) + 0.2, false_reject_rate=0.01, supported_rate=0.1, images=10)
    graph = Graph(
        precision="fp32", opset=17, parameters=1, macs=1, thresholds=Thresholds(review=threshold, reject=threshold),
        tolerance=Tolerance(score=1e-4, map=1e-4),
    )  # fmt: skip
    sha = "0" * 64
    manifest = Manifest(
        name=name, created="2026-11-21T00:00:00+00:00", method="dskd", backbone="none", bottleneck_source="none",
        input=InputSpec(height=SIDE, width=SIDE), max_batch=4, graphs={"model.onnx": graph}, golden=FRAMES, parity=[],
        provenance=Provenance(
            licence="test", training_data_sha256=sha, training_images=1, held_out_images=0, teacher_weights="none",
            teacher_weights_sha256=sha, checkpoint_sha256=sha, versions={}, config={},
        ),
        files=hash_files(folder),
    )  # fmt: skip
    write_manifest(folder, manifest)
    return load_bundle(folder)


def tiled(folder: Path, side: int = SIDE, overlap: int = 8) -> Bundle:
    """The same told to cut tiles: a map of its own for every pixel, so what a merged map must be is known."""
    bundle = tiny_bundle(folder)
    spec = InputSpec(height=SIDE, width=SIDE, tiling=Tiling(side=side, overlap=overlap))
    changed = replace(bundle, manifest=bundle.manifest.model_copy(update={"input": spec}))
    write_manifest(changed.path, changed.manifest)
    return changed


def _graph(file: Path, shift: float) -> None:
    def constant(name: str, value: float) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(value, np.float32), name)

    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["grey"], axes=[3], keepdims=0),
        helper.make_node("Sub", ["grey", "middle"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["distance"]),
        helper.make_node("Mul", ["distance", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["anomaly_map"], ["score"], axes=[1, 2], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["N", SIDE, SIDE]),
        ],
        [constant("middle", 128.0), constant("scale", 1 / 128), constant("shift", shift)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())
