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


class Fixture(Strict):
    """How the part is found in a frame. A picture of ``width`` x ``height`` frame pixels is cut out around it, turned
    upright; the network sees that picture. Training writes it.
    """

    finder: Literal["contour", "template"] = Field(
        description="contour: the one thing that differs from a plain background; template: what a box shows"
    )
    width: Side = Field(description="of the picture that is cut out, in frame pixels")
    height: Side = Field(description="of the picture that is cut out, in frame pixels")
    turn: float = Field(180, ge=0, le=180, description="degrees up to which the part may lie turned, either way")
    reference: str = Field(
        max_length=1 << 16, description="how the part looks: a square grey picture, PNG in base64; around its centre"
    )
    reach: float = Field(gt=0, le=8192, description="half a side of the reference, in frame pixels")
    centre: tuple[Finite, Finite] = Field(description="of the reference in the picture that is cut out: x, y")
    likeness: float = Field(gt=0, lt=1, description="least correlation with the reference of what counts as the part")
    contrast: int = Field(0, ge=0, le=255, description="contour: grey levels by which the part differs from its ground")
    area: tuple[NotNegative, NotNegative] = Field((0, 0), description="contour: least and largest area in frame pixels")
    box: tuple[NotNegative, NotNegative] = Field((0, 0), description="template: width and height, in frame pixels")


class InputSpec(Strict):
    """What the graph takes: uint8 BGR [N, height, width, 3] after crop and resize, or a tile of the frame resized."""

    height: Side
    width: Side
    crop: tuple[NotNegative, NotNegative, Positive, Positive] | None = Field(
        None, description="the part of the frame that is looked at: x, y, width, height in frame pixels"
    )
    tiling: Tiling | None = None
    fixture: Fixture | None = Field(None, description="how the part is found; training writes it")

    @model_validator(mode="after")
    def _tiles_fit(self) -> InputSpec:
        if self.fixture and (self.tiling or self.crop):
            other = "tiling" if self.tiling else "crop"
            raise ValueError(f"a fixture cuts out the part itself, so it goes with no {other}; leave one of them out")
        if self.tiling and self.crop:
            raise ValueError("tiles cover the whole frame; leave crop out, and give the runtime a region of interest")
        if self.tiling and self.height != self.width:
            raise ValueError(f"tiles are square, so height {self.height} and width {self.width} must be equal")
        return self

    def of_upright(self) -> InputSpec:
        """The same for pictures in which the part was found and cut out already."""
        return self.model_copy(update={"fixture": None})

    def of_box(self, box: tuple[int, int, int, int] | None) -> InputSpec:
        """The same for what a box (x, y, width, height) of the frame shows, as it lies there."""
        return self.model_copy(update={"fixture": None, "crop": box})

    @model_serializer(mode="wrap")
    def _without_none(self, fields: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leaves absent tiling and fixture out: bundles without keep their id, and older runtimes read them."""
        dumped: dict[str, object] = fields(self)
        for name in ("tiling", "fixture"):
            if getattr(self, name) is None:
                del dumped[name]
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
