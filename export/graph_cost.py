"""What an ONNX file itself says of its size: parameters and multiply-accumulates of its convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx
from onnx import shape_inference


@dataclass(frozen=True)
class GraphCost:
    """``parameters``: weights and biases of convolutions. ``macs``: of one image. ``owners``: module names of weights."""

    parameters: int
    macs: int
    owners: frozenset[str]


def graph_cost(model: onnx.ModelProto) -> GraphCost:
    """Counts over the graph's Conv and ConvTranspose nodes. Raises ValueError where a shape cannot be inferred."""
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    places = {value.name: _spatial(value) for value in [*graph.input, *graph.value_info, *graph.output]}
    parameters, macs, owners = 0, 0, set()
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        kernel = weights[node.input[1]]
        parameters += sum(prod(weights[name]) for name in node.input[1:] if name)
        # A kernel is applied once per output position, a transposed one once per input position.
        macs += prod(places[node.output[0] if node.op_type == "Conv" else node.input[0]]) * prod(kernel)
        owners.add(node.name.strip("/").replace("/", "."))
    return GraphCost(parameters, macs, frozenset(owners))


def _spatial(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim[2:])
