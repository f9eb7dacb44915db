"""How much each layer's rounding alone moves the answer, and which layers to leave in float for a given loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dskd.calibration.quantise import quantisable
from dskd.calibration.ranges import Histogram, Method, range_of
from dskd.export.graph.parts import constants_of, set_constant
from dskd.export.graph.session import open_session
from dskd.runtime.result import Image
from dskd.train.progress import progress

LARGEST = 127
ALONE = 0.04  # of the scores' spread on good parts: what no layer's rounding may do by itself


def sensitivity(
    model: onnx.ModelProto, histograms: dict[str, Histogram], method: Method, inputs: Iterable[Image]
) -> dict[str, float]:
    """Name of each convolution -> mean absolute change of the score when it alone is rounded, worst first."""
    reference = scores_of(model, inputs)
    convolutions = [name for name in quantisable(model) if name.endswith("Conv")]
    found = {}
    for name in progress(convolutions, desc="sensitivity", unit="layer"):
        with only_quantised(model, name, histograms, method):
            found[name] = float(np.abs(scores_of(model, inputs) - reference).mean())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def too_sensitive(layers: Mapping[str, float], spread: float) -> list[str]:
    """Layers that alone move scores by too much of their ``spread`` (standard deviation) on good images."""
    return [name for name, shift in layers.items() if shift > ALONE * spread]


@contextmanager
def only_quantised(
    model: onnx.ModelProto, name: str, histograms: dict[str, Histogram], method: Method
) -> Iterator[None]:
    """Inside, one convolution's input and weight are rounded as for TensorRT; afterwards ``model`` is as before."""
    index, node = next((k, n) for k, n in enumerate(model.graph.node) if n.name == name)
    inputs, constants = list(node.input), len(model.graph.initializer)
    weight = numpy_helper.to_array(constants_of(model)[inputs[1]])
    step = np.abs(weight).reshape(len(weight), -1).max(1).reshape(-1, 1, 1, 1) / LARGEST
    step = np.where(step > 0, step, 1)
    own, scale, zero = f"{name}_weight", f"{name}_scale", f"{name}_zero"
    low, high = range_of(histograms[inputs[0]], method)
    set_constant(model, own, numpy_helper.from_array((np.rint(weight / step) * step).astype(np.float32)))
    set_constant(model, scale, numpy_helper.from_array(np.float32(max(-low, high, 1e-12) / LARGEST)))
    set_constant(model, zero, numpy_helper.from_array(np.int8(0)))
    node.input[:] = [f"{name}_dq", own, *inputs[2:]]
    pair = [
        helper.make_node("QuantizeLinear", [inputs[0], scale, zero], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_dq"]),
    ]
    for k, made in enumerate(pair):
        model.graph.node.insert(index + k, made)
    try:
        yield
    finally:
        del model.graph.node[index : index + len(pair)]
        del model.graph.initializer[constants:]
        model.graph.node[index].input[:] = inputs


def scores_of(model: onnx.ModelProto, inputs: Iterable[Image]) -> NDArray[np.float32]:
    """Score [N] of each input [H, W, 3]."""
    session = open_session(model)
    return np.concatenate([session.run(["score"], {"image": image[None]})[0] for image in inputs])
