"""As much of the tensorrt module as the builder touches, for what needs a device or a version that is not here.

Everything that TensorRT-RTX can do is tested with that instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

OLD_FLAGS = ["FP16", "INT8", "GPU_FALLBACK", "TF32", "OBEY_PRECISION_CONSTRAINTS"]
NEW_FLAGS = ["GPU_FALLBACK", "TF32"]


class Severity(IntEnum):
    """As in TensorRT."""

    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


class Logger:
    """trt.ILogger."""

    Severity = Severity


class DataType(IntEnum):
    """Some of TensorRT's types."""

    FLOAT, HALF, INT8, INT32, UINT8 = range(5)


@dataclass
class Tensor:
    """A tensor of the parsed graph."""

    name: str
    dtype: DataType = DataType.FLOAT
    shape: tuple[int, ...] = (-1, 64, 96, 3)


@dataclass
class Layer:
    """A layer of the parsed graph."""

    name: str
    kind: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    dla: bool = False
    precision: DataType | None = None
    output_types: dict[int, DataType] = field(default_factory=dict)

    @property
    def type(self) -> SimpleNamespace:
        """Its LayerType."""
        return SimpleNamespace(name=self.kind)

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_input(self, k: int) -> Tensor | None:
        return self.inputs[k]

    def get_output(self, k: int) -> Tensor:
        return self.outputs[k]

    def set_output_type(self, k: int, dtype: DataType) -> None:
        self.output_types[k] = dtype


def small_network(half: bool) -> list[Layer]:
    """Cast, convolution, cast, matrix product, maximum: as 8.6 shows it, where every float tensor is called FLOAT."""
    image, a, b, c, d, e = (Tensor(name) for name in ("image", "a", "b", "c", "d", "e"))
    weight, shape = Tensor("weight"), Tensor("shape", DataType.INT32)
    first = Tensor("a", DataType.HALF) if half else a
    return [
        Layer("in", "CAST", [image], [first]),
        Layer("weights", "CONSTANT", [], [weight]),
        Layer("trunk", "CONVOLUTION", [a, weight], [b], dla=True),
        Layer("relu", "ACTIVATION", [b], [b], dla=True),
        Layer("sizes", "SHAPE", [b], [shape]),
        Layer("out", "CAST", [b], [c]),
        Layer("head", "MATRIX_MULTIPLY", [c, weight], [d]),
        Layer("score", "REDUCE", [d, None], [e]),
    ]


class FakeTensorRT:
    """A tensorrt module. What the code under test did with it can be read from ``seen`` and ``config``."""

    ILogger, DataType = Logger, DataType
    MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"], start=0)
    ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["DETAILED"], start=0)
    DeviceType = IntEnum("DeviceType", ["GPU", "DLA"], start=0)

    def __init__(
        self,
        version: str = "10.3.0",
        layers: list[Layer] | None = None,
        log: list[tuple[Severity, str]] | None = None,
        plan: bytes | None = b"plan",
        parse_error: Any = None,
        dla_cores: int = 0,
    ) -> None:
        old, eleven = version.startswith("8."), version.startswith("11.")
        kinds = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
        kinds = {"EXPLICIT_BATCH": 0} if old else {"STRONGLY_TYPED": 1} if eleven else kinds
        self.__version__ = version
        self.NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", kinds)
        self.BuilderFlag = IntEnum("BuilderFlag", NEW_FLAGS if eleven else OLD_FLAGS, start=0)
        self.layers, self.log, self.plan, self.parse_error = layers or [], log or [], plan, parse_error
        self.dla_cores, self.seen = dla_cores, {}  # type: dict[str, Any]
        self.config = Config(self)
        flags = ["NATIVE_INSTANCENORM", *(["ADJUST_FOR_DLA"] if version.startswith("11.4") else [])]
        self.OnnxParserFlag = IntEnum("OnnxParserFlag", flags, start=0)

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        self.logger = logger
        return SimpleNamespace(
            num_DLA_cores=self.dla_cores,
            create_network=self._create_network,
            create_builder_config=lambda: self.config,
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda name, *shapes: self.seen.update(profile=shapes)
            ),
            build_serialized_network=self._build,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(
            set_flag=lambda flag: self.seen.setdefault("parser flags", []).append(flag),
            num_errors=int(self.parse_error is not None),
            get_error=lambda k: self.parse_error,
            parse_from_file=self._parse,
        )

    def _create_network(self, flags: int) -> Any:
        self.seen["flags"] = flags
        return SimpleNamespace(
            num_layers=len(self.layers), get_layer=lambda k: self.layers[k],
            num_inputs=1, get_input=lambda k: Tensor("image", DataType.UINT8),
            num_outputs=2, get_output=lambda k: Tensor(["score", "anomaly_map"][k]),
        )  # fmt: skip

    def _parse(self, file: str) -> bool:
        if self.parse_error is not None:
            self._say()
        return self.parse_error is None

    def _build(self, network: Any, config: Any) -> bytes | None:
        self._say()
        return self.plan

    def _say(self) -> None:
        for severity, message in self.log:
            self.logger.log(severity, message)


class Config:
    """trt.IBuilderConfig."""

    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt
        self.flags = {"TF32"}
        self.good_cache = b""  # what set_timing_cache takes
        self.measured = b"measured"
        self.cache: bytes | None = None

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._trt.seen["workspace"] = size

    def add_optimization_profile(self, profile: Any) -> int:
        return 0

    def can_run_on_DLA(self, layer: Layer) -> bool:  # noqa: N802
        return layer.dla

    def create_timing_cache(self, data: bytes) -> bytes | None:
        return None if data == b"broken" else data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        fits = cache in (b"", self.good_cache) and not ignore_mismatch
        self.cache = cache if fits else self.cache
        return fits

    def get_timing_cache(self) -> Any:
        return None if self.cache is None else SimpleNamespace(serialize=lambda: self.cache + self.measured)
