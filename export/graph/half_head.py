"""The head's large constants in half precision: what is usual is two thirds of what an INT8 frame reads from memory.

Not in a bundle's graphs yet: a product that TensorRT sums in half too may cost more than onnxruntime shows, and no GPU has
said so or otherwise. ``benchmarks hardware`` builds, proves and times it.
"""

from __future__ import annotations

import copy
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dskd.export.graph.half import LARGEST
from dskd.export.graph.parts import HEAD, constants_of, remove_unused_constants

SMALLEST = 1 << 14  # values of a constant that is worth two casts


def head_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose head multiplies its large float32 constants in half; what follows each product is float32 as before."""
    changed = copy.deepcopy(model)
    constants, nodes = constants_of(changed), list[onnx.NodeProto]()
    for node in changed.graph.node:
        large = [name for name in node.input if name in constants and _worth_it(constants[name])]
        if node.op_type != "MatMul" or not node.name.startswith(HEAD) or not large:
            nodes.append(node)
            continue
        for k, name in enumerate(node.input):
            node.input[k] = f"{node.name}/input_{k}_half"
            if name in constants:
                values = numpy_helper.to_array(constants[name]).astype(np.float16)
                changed.graph.initializer.append(numpy_helper.from_array(values, node.input[k]))
            else:
                nodes.append(_cast(name, node.input[k], TensorProto.FLOAT16))
        result, node.output[0] = node.output[0], f"{node.output[0]}_half"
        nodes += [node, _cast(node.output[0], result, TensorProto.FLOAT)]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    del changed.graph.value_info[:]  # of the old types
    remove_unused_constants(changed)
    onnx.checker.check_model(changed, full_check=True)
    return changed


def _worth_it(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != TensorProto.FLOAT or prod(tensor.dims) < SMALLEST:
        return False
    return bool(np.abs(numpy_helper.to_array(tensor)).max(initial=0) <= LARGEST)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=kind)
