"""How much each layer's rounding alone moves the answer, and which layers to leave in float for a given loss."""

from __future__ import annotations

import copy

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tqdm import tqdm

from calibration.graph_parts import constants_of, set_constant
from calibration.quantise import quantisable
from calibration.ranges import Histogram, Method, range_of
from calibration.session import open_session
from runtime.preprocess import Image

LARGEST = 127


def sensitivity(
    model: onnx.ModelProto, histograms: dict[str, Histogram], method: Method, inputs: Image
) -> dict[str, float]:
    """Name of each convolution -> mean absolute change of the score when it alone is rounded, worst first."""
    reference = _scores(model, inputs)
    convolutions = [name for name in quantisable(model) if name.endswith("Conv")]
    found = {}
    for name in tqdm(convolutions, desc="sensitivity", unit="layer", leave=False, disable=None):
        found[name] = float(np.abs(_scores(only_quantised(model, name, histograms, method), inputs) - reference).mean())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def only_quantised(
    model: onnx.ModelProto, name: str, histograms: dict[str, Histogram], method: Method
) -> onnx.ModelProto:
    """A copy in which one convolution's input and weight are rounded as for TensorRT and all else is float."""
    rounded = copy.deepcopy(model)
    index, node = next((k, n) for k, n in enumerate(rounded.graph.node) if n.name == name)
    weight = numpy_helper.to_array(constants_of(rounded)[node.input[1]])
    step = np.abs(weight).reshape(len(weight), -1).max(1).reshape(-1, 1, 1, 1) / LARGEST
    step = np.where(step > 0, step, 1)
    own = f"{name}_weight"
    set_constant(rounded, own, numpy_helper.from_array((np.rint(weight / step) * step).astype(np.float32)))
    low, high = range_of(histograms[node.input[0]], method)
    scale, zero = f"{name}_scale", f"{name}_zero"
    set_constant(rounded, scale, numpy_helper.from_array(np.float32(max(-low, high, 1e-12) / LARGEST)))
    set_constant(rounded, zero, numpy_helper.from_array(np.int8(0)))
    source = node.input[0]
    node.input[:] = [f"{name}_dq", own, *node.input[2:]]
    rounded.graph.node.insert(index, helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_dq"]))
    rounded.graph.node.insert(index, helper.make_node("QuantizeLinear", [source, scale, zero], [f"{name}_q"]))
    return rounded


def _scores(model: onnx.ModelProto, inputs: Image) -> NDArray[np.float32]:
    session = open_session(model)
    return np.concatenate([session.run(["score"], {"image": image[None]})[0] for image in inputs])
