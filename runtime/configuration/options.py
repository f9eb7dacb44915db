"""What stands behind ``?`` in a camera's URI, read into a model as settings of a file are."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, get_args
from urllib.parse import parse_qsl

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.configuration.uri import without_password
from dskd.runtime.errors import CallError

Word = Annotated[str, Field(pattern=r"^[\w.:+-]{1,64}$")]
Model = TypeVar("Model", bound=Strict)


class NoOptions(Strict):
    """For URIs whose ``?`` begins no options."""


def read_options(uri: str, model: type[Model]) -> tuple[str, Model]:
    """Address and options of ``uri``.

    Raises CallError with the key where a value is wrong, and without the value: it may be a password.
    """
    shown = without_password(uri)
    address, _, query = uri.partition("://")[2].partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    given, known = dict(pairs), list(model.model_fields)
    if len(given) < len(pairs):
        raise CallError(f"source {shown}: gives an option twice")
    for key in given.keys() - set(known):
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
        raise CallError(f"source {shown}: is given an option that it does not have; {hint}")
    try:
        return address, model.model_validate(given)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        raise CallError(f"source {shown}: {key} {_wanted(model.model_fields[key], given[key])}") from None


def _wanted(field: FieldInfo, text: str) -> str:
    """What is said of a value that a field does not take."""
    bounds = {
        name: bound
        for part in _parts(field)
        for name in ("ge", "le")
        if (bound := getattr(part, name, None)) is not None
    }
    if not text.strip() or len(bounds) < 2:
        return "is given something that this option does not take"
    what = "a whole number" if int in {field.annotation, *get_args(field.annotation)} else "a number"
    return (
        f"must be {what} from {bounds['ge']:g} to {bounds['le']:g}"
        if what == "a number"
        else (f"must be {what} from {bounds['ge']} to {bounds['le']}")
    )


def _parts(field: FieldInfo) -> Iterator[Any]:
    """The constraints of a field, also those of the type inside an Optional."""
    yield from field.metadata
    for inner in get_args(field.annotation):
        for part in getattr(inner, "__metadata__", ()):
            yield from getattr(part, "metadata", [part])
