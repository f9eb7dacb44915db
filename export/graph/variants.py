"""Other forms of an INT8 graph that say the same, for a builder that fails on the usual one.

TensorRT 10.16 refuses on some devices what it builds on others: Q/DQ with half scales where eight-bit values are
reshaped and transposed before they are widened again, which is what depth-to-space becomes (NVIDIA/TensorRT#4832).
Each form here computes what the usual one does but for rounding, so its golden answers hold.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dskd.export.graph.form_parts import NAMES, part_file
from dskd.export.graph.parts import constants_of, remove_unused_constants, set_constant

STRIDE = 2
_QUANTISING = ("QuantizeLinear", "DequantizeLinear")


def float_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose half scales are float32, with a cast before each rounding and after each widening."""
    changed = copy.deepcopy(model)
    constants, nodes = constants_of(changed), []
    for node in changed.graph.node:
        scale = constants.get(node.input[1]) if node.op_type in _QUANTISING else None
        if scale is None or scale.data_type != TensorProto.FLOAT16:
            nodes.append(node)
            continue
        single = f"{node.input[1]}_single"
        set_constant(changed, single, numpy_helper.from_array(numpy_helper.to_array(scale).astype(np.float32)))
        node.input[1] = single
        source, result = node.input[0], node.output[0]
        if node.op_type == "QuantizeLinear":
            node.input[0] = f"{result}_wide"
            nodes += [_cast(source, node.input[0], TensorProto.FLOAT), node]
        else:
            node.output[0] = f"{result}_wide"
            nodes += [node, _cast(node.output[0], result, TensorProto.FLOAT16)]
    return _finished(changed, nodes)


def transposed_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose 1x1 convolutions before depth-to-space are transposed ones again, with weights that were widened.

    What they read stays rounded to eight bits. No depth-to-space is left, so nothing is transposed in eight bits.
    """
    changed = copy.deepcopy(model)
    constants = constants_of(changed)
    producer = {output: node for node in changed.graph.node for output in node.output}
    blocks = {node.input[0]: node for node in changed.graph.node if node.op_type == "DepthToSpace"}
    folded = {node.output[0] for node in changed.graph.node if node.op_type == "Conv" and node.output[0] in blocks}
    nodes = []
    for node in changed.graph.node:
        if node.op_type == "DepthToSpace" and node.input[0] in folded:
            continue
        if node.output[0] not in folded or node.op_type != "Conv":
            nodes.append(node)
            continue
        weight = f"{node.input[1]}_transposed"
        rows = _widened(
            producer, constants, node.input[1]
        )  # [out * 4, in, 1, 1]: channel c at (i, j) is row 4 c + 2 i + j
        tall = rows.reshape(-1, STRIDE, STRIDE, rows.shape[1]).transpose(3, 0, 1, 2)
        set_constant(changed, weight, numpy_helper.from_array(np.ascontiguousarray(tall)))
        inputs = [node.input[0], weight]
        if len(node.input) > 2:
            bias = f"{node.input[2]}_transposed"
            values = numpy_helper.to_array(constants[node.input[2]])[:: STRIDE**2]
            set_constant(changed, bias, numpy_helper.from_array(np.ascontiguousarray(values)))
            inputs.append(bias)
        name = blocks[node.output[0]].name.removesuffix("_blocks")
        output = list(blocks[node.output[0]].output)
        square = [STRIDE, STRIDE]
        nodes.append(helper.make_node("ConvTranspose", inputs, output, name=name, kernel_shape=square, strides=square))
    return _finished(changed, nodes)


def both(model: onnx.ModelProto) -> onnx.ModelProto:
    """Both at once."""
    return float_scales(transposed_in_half(model))


FORMS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = dict(
    zip(NAMES, (float_scales, transposed_in_half, both), strict=True)
)


def write_forms(folder: Path, graph: str) -> None:
    """Writes what each form of ``graph``, a file in the bundle that is made in ``folder``, does not share with it."""
    usual = onnx.load(folder / graph)
    known = {tensor.name: tensor.SerializeToString() for tensor in usual.graph.initializer}
    for form, change in FORMS.items():
        changed = change(usual)
        own = [t for t in changed.graph.initializer if known.get(t.name) != t.SerializeToString()]
        kept = copy.deepcopy(own)
        del changed.graph.initializer[:]
        changed.graph.initializer.extend(kept)
        file = folder / part_file(form)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(changed.SerializeToString())


def _widened(
    producer: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto], name: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.floating]]:
    """A convolution's weight as a number: constant, or eight bits times the scale of each output channel."""
    if name in constants:
        return numpy_helper.to_array(constants[name])
    values, scale = (numpy_helper.to_array(constants[one]) for one in producer[name].input[:2])
    return values.astype(scale.dtype) * scale.reshape(-1, *[1] * (values.ndim - 1))


def _finished(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input} | {output.name for output in model.graph.output}
    del model.graph.node[:]
    model.graph.node.extend(
        node for node in nodes if read.intersection(node.output)
    )  # a widened weight is read no more
    del model.graph.value_info[:]  # of the old types
    remove_unused_constants(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=kind)
