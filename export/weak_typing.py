"""What a TensorRT that chooses types by itself must be told, so that it keeps to those in the ONNX file.

TensorRT 8.6 knows no typed networks, and TensorRT 10 none on the DLA. There flags allow half precision and INT8, and
the part that the file keeps in float32 (distance, fusion and score) is pinned layer by layer.
"""

from __future__ import annotations

from typing import Any

HALF, FLOAT = "HALF", "FLOAT"
# they compute nothing whose precision could be chosen
UNTYPED = {"ASSERTION", "CAST", "CONSTANT", "DEQUANTIZE", "QUANTIZE", "SHAPE"}


def keep_types(trt: Any, network: Any, config: Any, on_dla: bool) -> None:
    """Sets the flags that the graph's types need, and pins its float32 layers where it has half ones."""
    layers = [network.get_layer(k) for k in range(network.num_layers)]
    regions = float_regions(network)
    if any(layer.type.name == "QUANTIZE" for layer in layers):
        config.set_flag(trt.BuilderFlag.INT8)
    has_half = HALF in regions.values()
    if has_half or on_dla:  # the DLA computes in half precision or INT8 only
        config.set_flag(trt.BuilderFlag.FP16)
    if not has_half:
        return
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for layer in layers:
        if layer.type.name not in UNTYPED and regions.get(layer.name) == FLOAT and _gives_float(trt, layer):
            layer.precision = trt.DataType.FLOAT
            for k in range(layer.num_outputs):
                layer.set_output_type(k, trt.DataType.FLOAT)


def float_regions(network: Any) -> dict[str, str]:
    """HALF or FLOAT by layer name, read from the casts: a tensor keeps the type of the last cast before it.

    The tensors' own types cannot be asked for: without typed networks TensorRT calls every one of them float.
    """
    tensors: dict[str, str] = {}
    layers: dict[str, str] = {}
    for k in range(network.num_layers):
        layer = network.get_layer(k)
        kind = layer.type.name
        inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
        known = [tensors[tensor.name] for tensor in inputs if tensor is not None and tensor.name in tensors]
        if kind == "CAST":
            name = layer.get_output(0).dtype.name
            region = name if name in (HALF, FLOAT) else None
        else:
            region = None if kind == "SHAPE" or not known else HALF if HALF in known else FLOAT
        if region:
            layers[layer.name] = region
            tensors.update((layer.get_output(i).name, region) for i in range(layer.num_outputs))
    return layers


def _gives_float(trt: Any, layer: Any) -> bool:
    return all(layer.get_output(k).dtype == trt.DataType.FLOAT for k in range(layer.num_outputs))
