"""Reads ``station.yaml``: every fault with its line, before anything is opened."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dskd.runtime.bundle.loading import read_regular
from dskd.runtime.capture.sources import SOURCES
from dskd.runtime.configuration.chosen import Chosen
from dskd.runtime.configuration.fields import Place, reveal, secrets_in
from dskd.runtime.configuration.strict_yaml import LARGEST_YAML, nodes_of, parse_yaml
from dskd.runtime.configuration.uri import uri_scheme
from dskd.runtime.errors import CallError, one_line
from dskd.runtime.station.config import StationConfig

_KEY = "[key]"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong; ``line`` counts from 1, 0 where it is nowhere in particular."""

    file: Path
    line: int
    where: str
    what: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return one_line(f"{place}: {self.where + ': ' if self.where else ''}{self.what}")


def read_station(path: Path) -> tuple[StationConfig | None, list[Fault]]:
    """The checked file, None where its form is wrong; and all faults. Raises CallError where it cannot be read."""
    try:
        text = read_regular(path, LARGEST_YAML).decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise CallError(f"{one_line(str(path))}: cannot be read ({reason}); name a station file") from error
    try:
        fields = parse_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        return None, [Fault(path, line, "", f"is not plain YAML: {getattr(error, 'problem', None) or error}")]
    folder = Path(path).absolute().parent
    try:
        config = StationConfig.model_validate(fields, context={"folder": folder})
    except ValidationError as error:
        lines = _Lines(path, text)
        found = [_fault(lines, fields, detail) for detail in error.errors(include_url=False)]
        return None, sorted(found, key=lambda fault: fault.line)
    lines = _Lines(path, text)
    wrong = [lines.at(place, what) for place, what in _references(config)]
    return config, sorted(wrong, key=lambda fault: fault.line)


def load_station(path: Path) -> StationConfig:
    """The checked file. Raises CallError with the first fault."""
    config, faults = read_station(path)
    if config is None or faults:
        more = f" (and {len(faults) - 1} more; --check-config shows all)" if len(faults) > 1 else ""
        raise CallError(f"{faults[0]}{more}")
    return config


def _references(config: StationConfig) -> Iterator[tuple[Place, str]]:
    """Names that lead nowhere, things claimed twice, and secrets that are not set."""
    for name, served in config.cameras.items():
        yield from _missing(("cameras", name, "recipe"), "recipe", served.recipe, config.recipes)
        scheme = uri_scheme(served.source)
        if scheme and scheme not in SOURCES:
            yield from _missing(("cameras", name, "source"), "kind of source", scheme, dict.fromkeys(SOURCES))
    jobs = [recipe.job for recipe in config.recipes.values() if recipe.job]
    for name, recipe in config.recipes.items():
        if jobs.count(recipe.job) > 1:
            yield ("recipes", name, "job"), f"number {recipe.job} is given to {jobs.count(recipe.job)} recipes"
        if recipe.review is not None and recipe.reject is not None and recipe.review > recipe.reject:
            yield ("recipes", name, "review"), f"{recipe.review} is over the reject threshold {recipe.reject}"
    deadlines = {name: getattr(camera.trigger, "deadline_ms", 0) for name, camera in config.cameras.items()}
    for name, output in config.outputs.items():
        for key, camera in output.cameras_named():
            yield from _missing(("outputs", name, *key), "camera", camera, config.cameras)
        yield from ((("outputs", name, key), what) for key, what in output.faults(deadlines))
    for name, sink in config.sinks.items():
        yield from ((("sinks", name, key), what) for key, what in sink.faults(config.data))
    for place, secret in secrets_in(config):
        yield from _unset(place, secret)
    archives = [name for name, sink in config.sinks.items() if sink.kind == "archive"]
    for name in archives[1:]:
        yield ("sinks", name), f"there is an archive already: {archives[0]}"
    yield from _claimed_twice(config)


def _claimed_twice(config: StationConfig) -> Iterator[tuple[Place, str]]:
    """A listening address or a GPIO line has one owner."""
    claims: list[tuple[Place, object]] = []
    for name, output in config.outputs.items():
        claims += [(("outputs", name, key), own) for key, own in output.claims()]
    for name, camera in config.cameras.items():
        if camera.trigger.kind == "gpio":
            claims.append((("cameras", name, "trigger", "line"), (camera.trigger.chip, camera.trigger.line)))
    for key in ("web", "metrics"):
        if part := getattr(config, key):
            claims.append(((key, "listen"), part.listen))
    taken: dict[object, Place] = {}
    for place, claim in claims:
        if claim in taken and not (isinstance(claim, str) and claim.endswith(":0")):
            yield place, f"is taken by {'.'.join(map(str, taken[claim]))}"
        taken[claim] = place


def _missing(place: Place, kind: str, name: str, known: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    if name not in known:
        yield place, f"there is no {kind} {name!r}{_nearest(name, list(known))}"


def _unset(place: Place, text: str) -> Iterator[tuple[Place, str]]:
    try:
        reveal(text)
    except CallError as error:
        yield place, str(error)


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; one of: {', '.join(known[:20])}"


def _fault(lines: _Lines, fields: object, detail: ErrorDetails) -> Fault:
    place: Place = detail["loc"]
    if detail["type"] == "extra_forbidden":
        what = f"unknown key{_nearest(str(place[-1]), _keys_at(place[:-1], fields))}"
    elif detail["type"] == "missing":
        what = "is missing"
    elif detail["type"] == "union_tag_not_found":
        what = "needs a kind"
    elif detail["type"] == "union_tag_invalid":
        known = detail["ctx"]["expected_tags"].replace("'", "").split(", ")
        what = f"there is no kind {detail['ctx']['tag']!r}{_nearest(detail['ctx']['tag'], known)}"
    else:
        what = detail["msg"].removeprefix("Value error, ")
    if place[-1:] == (_KEY,):  # pydantic's mark of a mapping's key
        place = place[:-1]
    return lines.at(place, what, key=detail["type"] in ("extra_forbidden", "missing"))


def _keys_at(place: Place, fields: Any) -> list[str]:
    """The keys that the model at ``place`` knows; ``fields`` are what the file holds. A union's tag is a step there."""
    kinds: list[Any] = [StationConfig]
    for step in place:
        kinds = [inner for kind in kinds for inner in _below(kind, step, fields)]
        with suppress(KeyError, IndexError, TypeError):  # a tag is no key of the file
            fields = fields[step]
    return [key for kind in kinds for model in _models(kind, fields) for key in model.model_fields]


def _models(kind: Any, value: object) -> list[type[BaseModel]]:
    """The models that a type may be where ``value`` is read: itself, the one of its kind, or the members of a union."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    if get_origin(kind) is Annotated:
        inner, *marks = get_args(kind)
        chosen = next((mark.model_of(value) for mark in marks if isinstance(mark, Chosen)), None)
        return [chosen] if chosen else _models(inner, value)
    return [] if get_origin(kind) in (dict, list) else [m for inner in get_args(kind) for m in _models(inner, value)]


def _below(kind: Any, step: str | int, value: object) -> list[Any]:
    """What lies one step under a type: a model's field, a mapping's value, a union's member of that tag."""
    if get_origin(kind) in (dict, list):
        return [get_args(kind)[-1]]
    models = _models(kind, value)
    tagged = [model for model in models if step in get_args(_kind_of(model))] if len(models) > 1 else []
    fields = [model.model_fields[step].annotation for model in models if step in model.model_fields]
    return list(tagged) or fields


def _kind_of(model: type[BaseModel]) -> Any:
    return model.model_fields["kind"].annotation if "kind" in model.model_fields else Literal[""]


class _Lines:
    """Where things stand in a file, looked up once however many faults it has."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._top = path, nodes_of(text)
        self._keys: dict[int, dict[str, tuple[yaml.Node, yaml.Mark]]] = {}  # by the mapping's identity

    def at(self, place: Place, what: str, key: bool = True) -> Fault:
        """The fault with its line: where the last part of ``place`` stands that the file holds.

        A union's tag is a step of ``place`` and no key; ``key`` says whether the last step is one in any case.
        """
        node = self._top
        line, shown = 0, list[str]()
        for number, step in enumerate(place):
            found: tuple[yaml.Node, yaml.Mark] | None = None
            if isinstance(node, yaml.MappingNode):
                found = self._keys_of(node).get(str(step))
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                found = (node.value[step], node.value[step].start_mark)
            if found:
                node, line = found[0], found[1].line + 1
            if found or (key and number == len(place) - 1):
                shown.append(str(step))
        return Fault(self._path, line, ".".join(shown), what)

    def _keys_of(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Mark]]:
        if id(node) not in self._keys:
            pairs = [(key, value) for key, value in reversed(node.value) if isinstance(key, yaml.ScalarNode)]
            self._keys[id(node)] = {key.value: (value, key.start_mark) for key, value in pairs}
        return self._keys[id(node)]
