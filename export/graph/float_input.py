"""A bundle's graph for those who give it float pictures plane by plane: DeepStream's nvinfer, Isaac ROS."""

from __future__ import annotations

import copy

import onnx
from onnx import TensorProto, helper

from dskd.export.graph.parts import INPUT, remove_unused_constants


def with_float_input(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that takes ``image`` as float32 [N, 3, H, W], BGR from 0 to 255, instead of uint8 [N, H, W, 3].

    Raises ValueError where the graph does not begin with a cast and a transposition.
    """
    changed = copy.deepcopy(model)
    graph = changed.graph
    image = graph.input[0]
    cast = [n for n in graph.node if image.name in n.input and n.op_type == "Cast" and n.name.startswith(INPUT)]
    turned = [n for n in graph.node if cast and cast[0].output[0] in n.input]
    if len(cast) != 1 or [n.op_type for n in turned] != ["Transpose"]:
        raise ValueError("the graph does not begin with a cast and a transposition: export the bundle again")
    batch, height, width, channels = image.type.tensor_type.shape.dim
    shape = [d.dim_param or d.dim_value for d in (batch, channels, height, width)]
    image.CopyFrom(helper.make_tensor_value_info(image.name, TensorProto.FLOAT, shape))
    for node in graph.node:
        node.input[:] = [image.name if name == turned[0].output[0] else name for name in node.input]
    for node in (cast[0], turned[0]):
        graph.node.remove(node)
    del graph.value_info[:]
    remove_unused_constants(changed)
    onnx.checker.check_model(changed, full_check=True)
    return changed
