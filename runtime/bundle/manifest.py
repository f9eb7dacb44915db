"""What ``manifest.yaml`` of a bundle says, key by key."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from dskd.runtime.configuration.strict_yaml import Strict

SCHEMA = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(gt=0, lt=1 << 63)]
NotNegative = Annotated[int, Field(ge=0, lt=1 << 31)]
Side = Annotated[int, Field(gt=0, le=8192)]  # pixels of a network input; 8192 x 8192 needs over 100 GB
Rate = Annotated[float, Field(gt=0, lt=1)]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Reading = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Tiling(Strict):
    """Frames are cut into overlapping square tiles, each of which is resized to the graph's input."""

    side: Side = Field(description="of a tile, in frame pixels")
    overlap: NotNegative = Field(32, description="frame pixels that neighbours share at least; at most half a tile")

    @model_validator(mode="after")
    def _advances(self) -> Tiling:
        if 2 * self.overlap > self.side:
            raise ValueError(f"overlap {self.overlap} is over half of side {self.side}; give less overlap")
        return self


class InputSpec(Strict):
    """What the graph takes: uint8 BGR [N, height, width, 3] after crop and resize, or a tile of the frame resized."""

    height: Side
    width: Side
    crop: tuple[NotNegative, NotNegative, Positive, Positive] | None = Field(
        None, description="the part of the frame that is looked at: x, y, width, height in frame pixels"
    )
    tiling: Tiling | None = None

    @model_validator(mode="after")
    def _tiles_fit(self) -> InputSpec:
        if self.tiling and self.crop:
            raise ValueError("tiles cover the whole frame; leave crop out, and give the runtime a region of interest")
        if self.tiling and self.height != self.width:
            raise ValueError(f"tiles are square, so height {self.height} and width {self.width} must be equal")
        return self

    @model_serializer(mode="wrap")
    def _without_none(self, fields: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leaves an absent tiling out: bundles without one keep their id, and older runtimes read them."""
        dumped: dict[str, object] = fields(self)
        if self.tiling is None:
            del dumped["tiling"]
        return dumped


class Threshold(Strict):
    """A score that good parts exceed at a known rate (split-conformal, finite sample)."""

    score: Finite
    false_reject_rate: Rate = Field(description="rate the user asked for")
    supported_rate: Rate = Field(description="rate that the number of images guarantees")
    images: Positive = Field(description="held-out good images behind it")


class Thresholds(Strict):
    """Scores over ``review`` are looked at by a person, over ``reject`` thrown out."""

    review: Threshold
    reject: Threshold


class Parity(Strict):
    """Worst difference between two forms of the same model on the same images."""

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    images: Positive
    max_abs_diff_score: Finite
    max_abs_diff_map: Finite
    model_config = ConfigDict(populate_by_name=True)


class Tolerance(Strict):
    """How far a backend may be from the trained model's golden answers, in a bundle whose graphs have none of their own."""

    score: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    map: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Provenance(Strict):
    """Where the model comes from and under which terms it may be used."""

    licence: str
    training_data_sha256: Sha256
    training_images: Positive
    held_out_images: int
    held_out_data_sha256: Sha256 | None = Field(None, description="older bundles have none")
    teacher_weights: str
    teacher_weights_sha256: Sha256
    checkpoint_sha256: Sha256
    versions: dict[str, str]
    config: dict[str, object]
    choices: dict[str, str] = Field({}, description="what training chose from good pictures, and why")

    @model_serializer(mode="wrap")
    def _without_none(self, fields: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leaves choices out where none were made: older bundles keep their id."""
        dumped: dict[str, object] = fields(self)
        if not self.choices:
            del dumped["choices"]
        return dumped


class Graph(Strict):
    """One ONNX file with what it was proved to be, and the thresholds that hold for its scores."""

    precision: Precision
    opset: Positive
    parameters: Positive
    macs: Positive
    thresholds: Thresholds
    tolerance: Tolerance | None = Field(None, description="of older bundles, whose graphs have no golden answers")


class Manifest(Strict):
    """Everything the runtime must know about a bundle."""

    schema_version: Literal[1] = 1
    name: str
    created: str
    method: str
    backbone: str
    bottleneck_source: Reading = Field(description="the inference path: what feeds the embedding")
    input: InputSpec
    max_batch: Positive = Field(description="largest batch that the graph was exported for")
    graphs: dict[str, Graph] = Field(description="by file; FILE@bf16 is the same file, computed in bfloat16")
    golden: Positive
    parity: list[Parity]
    provenance: Provenance
    files: dict[str, Sha256]
