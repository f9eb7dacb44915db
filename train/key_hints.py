"""What a setting that does not exist was meant to be, by its full name: who follows the hint has a setting that exists."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel, ValidationError

WRITTEN = "input.fixture"  # by training, so nobody meant a setting in it who did not name it
Model = type[BaseModel]


def unknown(model: Model, fields: object, where: Collection[object], left_out: Collection[str]) -> str:
    """One sentence about the unknown key at the path ``where`` of ``fields``, which ``model`` refused.

    Sections ``left_out`` are not offered: they belong to another method.
    """
    given = [str(part) for part in where]
    value = fields
    for part in given:
        value = value.get(part) if isinstance(value, dict) else None
    while isinstance(value, dict) and value:  # a misspelt section: its first key says what was wanted
        key, value = next(iter(value.items()))
        given.append(str(key))
    near = _nearest(model, given, left_out) or _anywhere(model, given[-1], value, left_out)
    hint = f"did you mean {near}?" if near else f"known are {', '.join(_known(model, given, left_out))}"
    return f"{'.'.join(given)} is unknown; {hint}"


def section_of(model: Model, name: str) -> Model | None:
    """The settings that the field ``name`` holds, also where it may be absent; None for a plain value."""
    annotation = model.model_fields[name].annotation
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _near(model: Model, key: str, left_out: Collection[str]) -> str | None:
    known = [name for name in model.model_fields if name not in left_out]
    return key if key in known else next(iter(get_close_matches(key, known, 1)), None)


def _nearest(model: Model, given: list[str], left_out: Collection[str]) -> str | None:
    """The setting in a section that was named, or nearly so; None where there is none."""
    path = ""
    for key in given:
        name = _near(model, key, left_out)
        section = section_of(model, name) if name else None
        if section is None:
            return f"{path}{name}" if name and path else None
        path, model, left_out = f"{path}{name}.", section, ()
    return None


def _takes(section: Model, value: object) -> bool:
    """Whether a section takes a plain value: some are given in a word."""
    try:
        section.model_validate(value)
    except ValidationError:
        return False
    return True


def _anywhere(model: Model, key: str, value: object, left_out: Collection[str]) -> str | None:
    """The setting at the top that is called nearly so, or one that was given without its section or in another one."""
    sections = {name: section_of(model, name) for name in model.model_fields if name not in left_out}
    full = {name: name if _takes(section, value) else "" for name, section in sections.items() if section}
    for name in sorted(_names(model, left_out), key=lambda full: full.count(".")):
        full.setdefault(name.rpartition(".")[2], name)
    return next((full[near] or None for near in get_close_matches(key, full, 1)), None)


def _names(model: Model, left_out: Collection[str], before: str = "") -> Iterator[str]:
    """The full names of all settings that hold a plain value."""
    for name in model.model_fields:
        full, section = before + name, section_of(model, name)
        if section is None:
            yield full
        elif full not in left_out and full != WRITTEN:
            yield from _names(section, left_out, f"{full}.")


def _known(model: Model, given: list[str], left_out: Collection[str]) -> list[str]:
    """The full names of what there is in the innermost section that was named, nearly so at least."""
    path, names = "", [name for name in model.model_fields if name not in left_out]
    for key in given:
        name = _near(model, key, left_out)
        section = section_of(model, name) if name else None
        if section is None:
            break
        path, model, left_out = f"{path}{name}.", section, ()
        names = [path + inner for inner in model.model_fields]
    return names
