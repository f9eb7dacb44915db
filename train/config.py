"""What a training run can be told, from a YAML file and ``--set key=value``. The field texts are the documentation."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from runtime.errors import CallError, one_line
from runtime.manifest import InputSpec, Rate, Side
from runtime.strict_yaml import LARGEST_YAML, Strict, first_fault, parse_yaml

Weight = Annotated[float, Field(ge=0)]


class TrainInput(InputSpec):
    """Network input; both sides multiples of 32."""

    height: Side = 256
    width: Side = 256


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


class DskdConfig(Strict):
    """Dual-student distillation and its ablations."""

    students: Literal["both", "encoder", "decoder"] = Field("both", description="'decoder' alone is RD's structure")
    fusion: bool = Field(True, description="embed all three scales; false: the coarsest only")
    joint: bool = Field(True, description="let the decoder student's loss reach the encoder student")
    mixed: float = Field(
        0.25, gt=0, le=1, description="share of the batch whose encoder student's features the embedding is fed as well"
    )
    encoder_rate: float = Field(1.0, gt=0, description="factor on the learning rate for the encoder student")


class RecipeConfig(Strict):
    """How long and how fast."""

    epochs: int = Field(30, gt=0, description="passes over the training images")
    batch: int = Field(8, gt=1, description="images per step and process")
    learning_rate: float = Field(0.005, gt=0, description="highest rate, after the warm-up; falls to 0 by a cosine")
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
    checkpoint_every: int = Field(200, gt=0, description="steps between checkpoints")


class AugmentConfig(Strict):
    """What training shows the networks instead of the plain image."""

    pseudo_anomalies: float = Field(1.0, ge=0, le=1, description="share of images that get a pseudo-anomaly to undo")
    flip: bool = Field(False, description="mirror half of the images left to right")
    flip_vertical: bool = Field(False, description="mirror half of the images top to bottom")
    gain: float = Field(0.0, ge=0, lt=1, description="standard deviation of a random exposure factor's logarithm")


class DataConfig(Strict):
    """Which good images are used for what."""

    held_out: float = Field(0.15, gt=0, lt=0.9, description="share of good images set aside for thresholds")


class MapConfig(Strict):
    """The anomaly map. It can be changed after training: the same command with the new setting takes seconds."""

    distance: Literal["local", "cosine"] = Field(
        "local",
        description="local: measured in what is usual at each position of the picture; cosine: the same everywhere",
    )
    components: int = Field(384, gt=1, le=4096, description="principal components that a local distance looks at")
    rank: int = Field(96, gt=0, le=1024, description="directions of usual error that it knows by name at each position")
    ridge: float = Field(0.1, gt=0, le=1000, description="share of the mean variance added to all directions")
    sigma: float = Field(4.0, ge=0, le=1000, description="Gaussian smoothing in network pixels")
    scale_weights: tuple[Weight, Weight, Weight] = Field(
        (0.0, 1.0, 1.0),
        description="weights of the three scales' distances in the fused map, fine to coarse; 0 leaves a scale out",
    )


class ThresholdConfig(Strict):
    """Rates at which good parts may be stopped."""

    review_rate: Rate = Field(0.05, description="share of good parts a person may have to look at")
    reject_rate: Rate = Field(0.01, description="share of good parts that may be rejected")


class TrainConfig(Strict):
    """One training run."""

    method: Literal["dskd"] = Field("dskd", description="training method")
    backbone: Literal["resnet18", "wide_resnet50_2"] = Field("resnet18", description="teacher and student width")
    input: TrainInput = TrainInput()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    dskd: DskdConfig = DskdConfig()
    loss: LossConfig = LossConfig()
    recipe: RecipeConfig = RecipeConfig()
    map: MapConfig = MapConfig()
    thresholds: ThresholdConfig = ThresholdConfig()


def load_config(file: Path | None, overrides: list[str]) -> TrainConfig:
    """Reads a YAML file (None: all defaults) and applies ``section.key=value`` overrides.

    Raises CallError that names the key, with the nearest known one where it is unknown.
    """
    fields = {} if file is None else _read_yaml(file)
    where = str(file) if file else "configuration"
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise CallError(f"--set {override}: write section.key=value, as in recipe.epochs=10")
        _assign(fields, key.split("."), _parse(value, f"--set {override}"), override)
    try:
        config = TrainConfig.model_validate(fields)
    except ValidationError as error:
        raise CallError(f"{where}: {_explain(error)}") from error
    limits = config.thresholds
    if limits.review_rate < limits.reject_rate:
        raise CallError(
            f"{where}: thresholds.review_rate {limits.review_rate} must not be under reject_rate {limits.reject_rate}"
        )
    if not any(config.map.scale_weights):
        raise CallError(f"{where}: map.scale_weights are all 0, and then there is no map; give one scale a weight")
    for side in ("height", "width"):
        if getattr(config.input, side) % 32:
            raise CallError(f"{where}: input.{side} {getattr(config.input, side)} must be a multiple of 32")
    return config


def _read_yaml(file: Path) -> dict[str, object]:
    try:
        with file.open("rb") as handle:
            raw = handle.read(LARGEST_YAML + 1)
        text = raw.decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "is no text in UTF-8"
        raise CallError(f"{file}: cannot be read ({reason}); name a YAML file") from error
    if len(raw) > LARGEST_YAML:
        raise CallError(f"{file}: is over {LARGEST_YAML} bytes, so it holds no settings; name a YAML file")
    fields = _parse(text, str(file))
    if not isinstance(fields, dict):
        raise CallError(f"{file}: is no mapping of settings; see train/configs for examples")
    return fields


def _parse(text: str, where: str) -> object:
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), one_line(getattr(error, "problem", None) or str(error))
        line = f" in line {mark.line + 1}" if mark else ""
        raise CallError(f"{where}: is not usable YAML{line} ({problem}); check quotes, colons, indentation") from error


def _assign(fields: dict[str, object], path: list[str], value: object, override: str) -> None:
    for part in path[:-1]:
        inner = fields.setdefault(part, {})
        if not isinstance(inner, dict):
            raise CallError(f"--set {override}: {part} has no keys inside")
        fields = inner
    fields[path[-1]] = value


def _elsewhere(key: str) -> list[str]:
    """The full name of a setting that was given without its section or in a wrong one, or with a slip."""
    sections = [(name, field.annotation) for name, field in TrainConfig.model_fields.items()]
    models = {name: kind for name, kind in sections if isinstance(kind, type) and issubclass(kind, BaseModel)}
    full = {inner: f"{name}.{inner}" for name, kind in models.items() for inner in kind.model_fields}
    return [full[inner] for inner in get_close_matches(key, full, 1)]


def _explain(error: ValidationError) -> str:
    """The first fault; an unknown key with the nearest known one."""
    faults = [fault for fault in error.errors(include_url=False) if fault["type"] == "extra_forbidden"]
    if not faults:
        return first_fault(error)
    fault = faults[0]  # before all others: a misspelt key also leaves the true one missing
    *sections, key = (str(part) for part in fault["loc"])
    model: type[BaseModel] = TrainConfig
    for section in sections:
        annotation = model.model_fields[section].annotation
        assert isinstance(annotation, type)
        model = annotation
    near = get_close_matches(key, model.model_fields, 1) or _elsewhere(key)
    hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(model.model_fields)}"
    return f"{'.'.join([*sections, key])} is unknown{hint}"
