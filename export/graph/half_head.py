"""What is usual in half precision: two thirds of what an INT8 frame would read from memory, in half of the bytes.

The product with it takes directions away from a vector that is mostly made of them, and what is left is the distance. So
the vector stays in float32 and so does what follows the product. The worst sums that a device may choose, products
rounded to half and added up in half, move a map by less than a third of a percent of its spread (docs/decisions.md).
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dskd.export.graph.half import LARGEST
from dskd.export.graph.parts import HEAD, constants_of, remove_unused_constants

USUAL = ".usual"  # how the buffer's name ends (dskd.train.networks.local_distance)


def head_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that multiplies by what is usual in half; what goes in and what comes out are float32 as before."""
    changed = copy.deepcopy(model)
    constants, nodes = constants_of(changed), list[onnx.NodeProto]()
    for node in changed.graph.node:
        usual = [name for name in node.input if name in constants and _fits(constants[name])]
        if node.op_type != "MatMul" or not node.name.startswith(HEAD) or not usual:
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


def _fits(tensor: onnx.TensorProto) -> bool:
    """Whether this is what is usual, in float32, and fits into half precision."""
    if tensor.data_type != TensorProto.FLOAT or not tensor.name.endswith(USUAL):
        return False
    return bool(np.abs(numpy_helper.to_array(tensor)).max(initial=0) <= LARGEST)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=kind)
