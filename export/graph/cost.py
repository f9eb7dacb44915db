"""What an ONNX file itself says of its size: its trunk's parameters and its convolutions' multiply-accumulates."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx
from onnx import shape_inference

from dskd.export.graph.parts import TRUNK


@dataclass(frozen=True)
class GraphCost:
    """``parameters``: weights and biases of convolutions, matrices of products. ``macs``: of one image's convolutions.

    ``owners``: module names of convolutions. ``activations``: numbers that these convolutions read and write.
    """

    parameters: int
    macs: int
    owners: frozenset[str]
    activations: int = 0


def graph_cost(model: onnx.ModelProto) -> GraphCost:
    """Counts over the trunk's nodes, each matrix once. Raises ValueError where a shape cannot be inferred."""
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    places = {value.name: _spatial(value) for value in [*graph.input, *graph.value_info, *graph.output]}
    parameters, macs, activations, owners, matrices = 0, 0, 0, set(), set()
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith(TRUNK):
            matrices |= set(node.input) & set(weights)
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        kernel = weights[node.input[1]]
        parameters += sum(prod(weights[name]) for name in node.input[1:] if name)
        # A kernel is applied once per output position, a transposed one once per input position.
        macs += prod(places[node.output[0] if node.op_type == "Conv" else node.input[0]]) * prod(kernel)
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        taken, given = (kernel[1] * groups, kernel[0]) if node.op_type == "Conv" else (kernel[0], kernel[1] * groups)
        activations += taken * prod(places[node.input[0]]) + given * prod(places[node.output[0]])
        owners.add(node.name.strip("/").replace("/", "."))
    parameters += sum(prod(weights[name]) for name in matrices)
    return GraphCost(parameters, macs, frozenset(owners), activations)


def _spatial(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim[2:])
