"""The configuration of a run, from a YAML file and ``--set key=value``; a method's own recipe fills what is not given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field, ValidationError, create_model, model_validator

from dskd.runtime.configuration.strict_yaml import LARGEST_YAML, first_fault, parse_yaml
from dskd.runtime.errors import CallError, one_line
from dskd.train.key_hints import unknown
from dskd.train.methods import METHODS
from dskd.train.settings import RECIPES, RunConfig

OWN = {name: method.Settings for name, method in METHODS.all().items() if method.Settings.model_fields}


class _Completed(RunConfig):
    """Takes what is not given from the recipes of the method and of the backbone."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, fields: Any) -> Any:
        """The recipes of method and backbone below the given settings; settings of another method are refused."""
        name = fields.get("method", "dskd") if isinstance(fields, dict) else None
        if not isinstance(name, str) or name not in METHODS:
            return fields
        foreign = next((own for own in OWN if own != name and fields.get(own) is not None), None)
        if foreign:
            raise ValueError(
                f"{foreign} holds settings of another method than {name}; set method={foreign} or drop them"
            )
        filled = {**fields, **({name: fields.get(name) or {}} if name in OWN else {})}
        for recipes in (METHODS[name].recipe, RECIPES.get(str(fields.get("backbone")), {})):
            for section, recipe in recipes.items():
                given = filled.get(section, {})
                if isinstance(given, dict):
                    filled[section] = {**recipe, **given}
        return filled


if TYPE_CHECKING:
    TrainConfig = RunConfig
else:
    _sections = {name: (settings | None, Field(None, description=settings.__doc__)) for name, settings in OWN.items()}
    _method = (Literal[tuple(METHODS.all())], Field("dskd", description="training method"))
    TrainConfig = create_model(
        "TrainConfig", __base__=_Completed, __doc__="One training run.", method=_method, **_sections
    )


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
        raise CallError(f"{where}: {_explain(error, fields)}") from error
    limits = config.thresholds
    if limits.review_rate < limits.reject_rate:
        raise CallError(
            f"{where}: thresholds.review_rate {limits.review_rate} must not be under reject_rate {limits.reject_rate}"
        )
    if not any(config.map.scale_weights):
        raise CallError(f"{where}: map.scale_weights are all 0, and then there is no map; give one scale a weight")
    if config.map.distance == "joined" and config.map.fusion == "product":
        raise CallError(f"{where}: map.fusion product multiplies scales, and map.distance joined adds them; choose one")
    if config.map.shares and not any(config.map.shares):
        raise CallError(f"{where}: map.shares are all 0, and then there is no map; give one distance a share")
    if config.input.tiling and config.map.score != "max":
        raise CallError(f"{where}: map.score {config.map.score} has no meaning over tiles; a tiled picture's is max")
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


def _explain(error: ValidationError, fields: dict[str, object]) -> str:
    """The first fault; an unknown key with the nearest known one."""
    faults = [fault for fault in error.errors(include_url=False) if fault["type"] == "extra_forbidden"]
    if not faults:
        return first_fault(error).removeprefix("top level: Value error, ")
    others = [name for name in OWN if name != fields.get("method", "dskd")]
    # before all other faults: a misspelt key also leaves the true one missing
    return unknown(TrainConfig, fields, faults[0]["loc"], others)
