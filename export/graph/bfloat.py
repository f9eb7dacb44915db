"""Bfloat16 on any machine: float32 arithmetic on values that were rounded to the eight bits of bfloat16.

A CPU that has bfloat16 multiplies in it, sums in float32 and rounds what it stores. What that does to scores is found
with this graph, wherever the bundle is made; nobody ships it.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from dskd.export.graph.parts import HEAD, TRUNK, constants_of

ROUNDED = "model.onnx@bf16"  # the manifest's key
MULTIPLIES = ("Conv", "ConvTranspose", "MatMul", "Gemm")  # their weights are rounded too


def rounded_to_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that gives what ``model`` gives in bfloat16. Needs no hardware for it; outputs stay float32."""
    rounded = copy.deepcopy(model)
    known = shape_inference.infer_shapes(rounded).graph.value_info
    floats = {value.name for value in known if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    constants = constants_of(rounded)
    for name in {name for node in rounded.graph.node if node.op_type in MULTIPLIES for name in node.input[:2]}:
        tensor = constants.get(name)
        if tensor is not None and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(to_bfloat16(numpy_helper.to_array(tensor)), tensor.name))
    nodes = []
    for node in rounded.graph.node:
        nodes.append(node)
        if node.op_type == "Constant" or not node.name.startswith((TRUNK, HEAD)):
            continue
        for k, name in enumerate(node.output):
            if name in floats:
                node.output[k] = f"{name}_exact"
                nodes.append(helper.make_node("Cast", [f"{name}_exact"], [f"{name}_short"], to=TensorProto.BFLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}_short"], [name], to=TensorProto.FLOAT))
    del rounded.graph.node[:]
    rounded.graph.node.extend(nodes)
    return rounded


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Finite values rounded to the nearest that bfloat16 has, to the even one in the middle."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + half) & np.uint32(0xFFFF0000)).view(np.float32)
