"""Half precision by types in the graph: the trunk computes in float16, input scaling, distance, map and score in float32.

TensorRT from 10 on builds what the types say, 11 has no other way. The head stays in float32 because it subtracts
almost equal numbers and squares large ones. onnxruntime's own converter writes two nodes of one name as soon as part
of a graph is kept out, so this is written here.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dskd.export.graph.parts import TRUNK, constants_of, remove_unused_constants

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = np.finfo(np.float16).smallest_subnormal
KEPT = ("/aggregation/",)  # small, and takes differences of large squares too
_QUANTISING = ("QuantizeLinear", "DequantizeLinear")


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose trunk computes in float16; inputs and outputs keep their types. Q/DQ pairs (opset 19 on) stay.

    Raises ValueError where a weight does not fit into float16.
    """
    half = copy.deepcopy(model)
    trunk = {n.name for n in half.graph.node if n.name.startswith(TRUNK) and not any(part in n.name for part in KEPT)}
    _halve_constants(half, trunk)
    made = {output for node in half.graph.node if node.name in trunk for output in node.output}
    leaving = {name for node in half.graph.node if node.name not in trunk for name in node.input if name in made}
    entering = {
        name: f"{name}_half"
        for node in half.graph.node
        if node.name in trunk and node.op_type != "Constant"
        for name in _computed_with(node)
        if name and name not in made and _is_float(half, name)
    }
    nodes: list[onnx.NodeProto] = []
    for node in half.graph.node:
        if node.name in trunk:
            node.input[:] = [entering.get(name, name) for name in node.input]
        else:
            node.input[:] = [f"{name}_single" if name in leaving else name for name in node.input]
        nodes.append(node)
        nodes += [_cast(name, entering[name], TensorProto.FLOAT16) for name in node.output if name in entering]
        nodes += [_cast(name, f"{name}_single", TensorProto.FLOAT) for name in node.output if name in leaving]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    del half.graph.value_info[:]  # of the old types
    remove_unused_constants(half)
    onnx.checker.check_model(half, full_check=True)
    return half


def _computed_with(node: onnx.NodeProto) -> list[str]:
    """Inputs that share the type in which a node computes; the sizes of a Resize are float32 whatever it enlarges."""
    return list(node.input[:1] if node.op_type == "Resize" else node.input)


def _halve_constants(model: onnx.ModelProto, trunk: set[str]) -> None:
    """float32 constants that only the trunk reads become float16; one that the head shares gets a twin."""
    constants = constants_of(model)
    for node in model.graph.node:
        if node.name not in trunk:
            continue
        for k, name in enumerate(_computed_with(node)):
            tensor = constants.get(name)
            if tensor is None or tensor.data_type != TensorProto.FLOAT:
                continue
            twin = f"{name}_float16"
            if twin not in constants:
                values = numpy_helper.to_array(tensor)
                if not np.abs(values).max(initial=0) <= LARGEST:
                    raise ValueError(f"{name} holds values over {LARGEST:.0f}, more than half precision can say")
                halved = values.astype(np.float16)
                if node.op_type in _QUANTISING:  # the scale of a dead channel; TensorRT takes none that is 0
                    halved = np.maximum(halved, SMALLEST)
                constants[twin] = numpy_helper.from_array(halved, twin)
                model.graph.initializer.append(constants[twin])
            node.input[k] = twin


def _is_float(model: onnx.ModelProto, name: str) -> bool:
    """Whether a tensor made outside the trunk is float32: the scaled image; constants were dealt with."""
    return name not in constants_of(model) and name not in {tensor.name for tensor in model.graph.input}


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=kind)
