"""What the layers of a graph are and where they run: DLA or GPU."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from dskd.runtime.errors import DskdError


@dataclass(frozen=True)
class Layer:
    """One layer of the parsed graph. ``outputs`` are their element types; ``device`` is DLA or GPU."""

    name: str
    type: str
    outputs: list[str]
    device: str


@dataclass(frozen=True)
class LayerReport:
    """The layers in the graph's order.

    ``switches`` counts the tensors that leave one device for the other: each is a copy and a change of layout, and
    more than a few eat up what the DLA gains.
    """

    layers: list[Layer]
    on_dla: int
    on_gpu: int
    switches: int

    def to_json(self, engine: object) -> str:
        """The report with what TensorRT made of the layers (``engine``), as JSON text."""
        return json.dumps({**asdict(self), "engine": engine}, indent=1) + "\n"


def report_layers(network: Any, config: Any, dla_core: int | None) -> LayerReport:
    """Asks TensorRT for each layer of the network whether the DLA takes it; without a DLA core all are the GPU's.

    Constants belong to the layer that reads them and are left out.
    """
    layers: list[Layer] = []
    makers: dict[str, str] = {}  # device by tensor
    crossing: set[str] = set()
    for k in range(network.num_layers):
        layer = network.get_layer(k)
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        if layer.type.name == "CONSTANT":
            continue
        device = "DLA" if dla_core is not None and config.can_run_on_DLA(layer) else "GPU"
        layers.append(Layer(layer.name, layer.type.name, [tensor.dtype.name for tensor in outputs], device))
        makers.update((tensor.name, device) for tensor in outputs)
        inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
        crossing |= {t.name for t in inputs if t is not None and makers.get(t.name, device) != device}
    on_dla = sum(one.device == "DLA" for one in layers)
    return LayerReport(layers, on_dla, len(layers) - on_dla, len(crossing))


def engine_layers(trt: Any, plan: bytes, logger: Any) -> object:
    """What the engine inspector says of a plan on this device: fused layers, their types and tactics."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise DskdError("TensorRT cannot load the engine that it has just built; free memory and build again")
    inspector = engine.create_engine_inspector()
    found: object = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    return found
