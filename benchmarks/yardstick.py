"""Work that never changes, beside which times of two runs are held: convolutions as a student's, on one core.

A core that another program shares slows products of small matrices by 1.6 and a network, which waits for memory in
between, by 1.3; only a network's own kind of work tells how fast the machine was for a network. The graph lies beside
this file, because a device has no ``onnx`` to build it with; :func:`graph` is what made it.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import

import onnxruntime as ort

if TYPE_CHECKING:
    import onnx

NAME = "eight 3x3 convolutions of 64 to 512 channels in onnxruntime"  # results of another one cannot be compared
FILE = Path(__file__).with_suffix(".onnx")
SIDE = 32  # pixels; the sides of a ResNet18's stages at half of 256 pixels, so that one run takes a few milliseconds
CHANNELS = (64, 64, 128, 128, 256, 256, 512, 512)
CALLS = 9


def measured() -> tuple[float, float]:
    """Milliseconds, passed and of processors, of one run: medians of nine."""
    session, image = _session()
    times = []
    for _ in range(CALLS + 1):  # the first one is not counted
        start, cpu = time.perf_counter(), time.process_time()
        session.run(None, {"image": image})
        times.append((1e3 * (time.perf_counter() - start), 1e3 * (time.process_time() - cpu)))
    wall, processors = np.median(times[1:], axis=0)
    return float(wall), float(processors)


def graph() -> onnx.ModelProto:
    """float32 [1, 64, 32, 32] -> [1, 512, 4, 4]. All weights are one number, so that the file holds none of them."""
    from onnx import TensorProto, checker, helper

    nodes, constants, values, channels = [], [], "image", CHANNELS[0]
    for layer, width in enumerate(CHANNELS):
        shape, weight, made = f"shape{layer}", f"weight{layer}", f"values{layer}"
        constants.append(helper.make_tensor(shape, TensorProto.INT64, [4], [width, channels, 3, 3]))
        filler = helper.make_tensor("filler", TensorProto.FLOAT, [1], [1 / (9 * channels)])  # keeps values at one size
        nodes += [
            helper.make_node("ConstantOfShape", [shape], [weight], value=filler),
            helper.make_node(
                "Conv", [values, weight], [f"{made}c"], pads=[1] * 4, strides=[2 if width > channels else 1] * 2
            ),
            helper.make_node("Relu", [f"{made}c"], [made]),
        ]
        values, channels = made, width
    stages = CHANNELS[-1] // CHANNELS[0]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, CHANNELS[0], SIDE, SIDE])
    last = helper.make_tensor_value_info(values, TensorProto.FLOAT, [1, channels, SIDE // stages, SIDE // stages])
    made_graph = helper.make_graph(nodes, "yardstick", [image], [last], constants)
    model = helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model


@cache
def _session() -> tuple[ort.InferenceSession, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # work on all cores takes one time or twice that by what else the machine does
    session = ort.InferenceSession(FILE.read_bytes(), options, providers=["CPUExecutionProvider"])
    return session, np.ones((1, CHANNELS[0], SIDE, SIDE), np.float32)
