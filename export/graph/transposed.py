"""2x2 transposed convolutions of stride 2, rewritten exactly as 1x1 convolution and depth-to-space.

Their kernels do not overlap, so each output pixel is one 1x1 convolution of one input pixel. A quantised 1x1
convolution has kernels everywhere; for a quantised transposed one TensorRT finds no tactic on some devices, and
onnxruntime has none on CPUs.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dskd.export.graph.parts import constants_of, remove_unused_constants, set_constant

STRIDE = 2


def rewrite_transposed(model: onnx.ModelProto) -> int:
    """Rewrites them in place; returns how many. Raises ValueError for one whose kernels overlap."""
    constants, nodes, count = constants_of(model), [], 0
    for node in model.graph.node:
        if node.op_type != "ConvTranspose":
            nodes.append(node)
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])  # [in, out, 2, 2]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if weight.shape[2:] != (STRIDE, STRIDE) or list(attributes.get("strides", [])) != [STRIDE, STRIDE]:
            raise ValueError(f"{node.name}: kernel {weight.shape[2:]} with stride {attributes.get('strides')} overlaps")
        # Channel c of the result at offset (i, j) inside its 2x2 block comes from row 4 c + 2 i + j (mode CRD).
        rows = weight.transpose(1, 2, 3, 0).reshape(-1, weight.shape[0], 1, 1)
        set_constant(model, node.input[1], numpy_helper.from_array(np.ascontiguousarray(rows)))
        inputs = [node.input[0], node.input[1]]
        if len(node.input) > 2:
            bias = numpy_helper.to_array(constants[node.input[2]]).repeat(STRIDE**2)
            set_constant(model, node.input[2], numpy_helper.from_array(bias))
            inputs.append(node.input[2])
        folded, name = f"{node.output[0]}_blocks", node.name.replace("ConvTranspose", "Conv")
        nodes.append(helper.make_node("Conv", inputs, [folded], name=name, kernel_shape=[1, 1]))
        nodes.append(
            helper.make_node(
                "DepthToSpace", [folded], list(node.output), name=f"{node.name}_blocks", blocksize=STRIDE, mode="CRD"
            )
        )
        count += 1
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    remove_unused_constants(model)
    return count
