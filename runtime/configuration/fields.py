"""What settings are made of: names, paths, addresses and secrets, each refused where it cannot be meant."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, get_args
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, BeforeValidator, Discriminator, Field, ValidationInfo

from dskd.runtime.errors import CallError

Place = tuple[str | int, ...]  # keys from the top of a file down
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _plain(text: str) -> str:
    """Whatever is no secret is written out: a variable in it would be taken literally."""
    if "${" in text:
        raise ValueError("${NAME} is for secrets and camera addresses only; write it out")
    return text


def _secret(text: str) -> str:
    if VARIABLE.fullmatch(text) is None:
        raise ValueError("a secret does not belong in the file; write ${NAME} and set that environment variable")
    return text


def _local(path: object, info: ValidationInfo) -> Path:
    """A path beside the file it is written in."""
    if isinstance(path, Path):
        return path
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError("a path is needed: text that is not empty and holds no NUL byte")
    _plain(path)
    folder = (info.context or {}).get("folder", Path())
    return Path(folder) / Path(path)


def _address(text: str) -> str:
    split_address(text)
    return text


class _MayHoldSecret:
    """Marks a setting whose ${NAME} are read from the environment when it is used."""


MAY_HOLD_SECRET = _MayHoldSecret()


def secrets_in(settings: object, place: Place = (), marked: bool = False) -> Iterator[tuple[Place, str]]:
    """Place and text of every setting, at any depth, whose type is marked by ``MAY_HOLD_SECRET``."""
    if isinstance(settings, str):
        if marked:
            yield place, settings
    elif isinstance(settings, BaseModel):
        for name, field in type(settings).model_fields.items():
            own = MAY_HOLD_SECRET in field.metadata or _is_marked(field.annotation)
            yield from secrets_in(getattr(settings, name), (*place, name), own)
    elif isinstance(settings, Mapping | list | tuple):
        for key, value in settings.items() if isinstance(settings, Mapping) else enumerate(settings):
            yield from secrets_in(value, (*place, key), marked)


def _is_marked(kind: object) -> bool:
    return MAY_HOLD_SECRET in getattr(kind, "__metadata__", ()) or any(map(_is_marked, get_args(kind)))


def discriminator(key: str) -> Discriminator:
    """For a union of models each with its ``Tag``: the text under ``key`` says which one is meant."""

    def tag(value: object) -> str | None:
        found = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        return found if isinstance(found, str) else None

    return Discriminator(tag)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_plain)]
Secret = Annotated[
    str, Field(max_length=256), AfterValidator(_secret), MAY_HOLD_SECRET
]  # ``${NAME}``: the value never stands here
LocalPath = Annotated[Path, BeforeValidator(_local)]
Address = Annotated[str, Field(max_length=64), AfterValidator(_address)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Milliseconds = Annotated[int, Field(ge=0, le=60_000)]


def reveal(text: str, quoted: bool = False) -> str:
    """``text`` with its ${NAME} replaced from the environment. Raises CallError that names what is not set."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match.group(1))
        if not found:
            raise CallError(f"environment variable {match.group(1)} is not set, and a secret is read from it")
        return quote(found, safe="") if quoted else found

    return VARIABLE.sub(value, text)


def split_address(address: str) -> tuple[str, int]:
    """IP address and port to listen at. Names are not taken: what they mean may change. Raises ValueError."""
    host, _, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ip_address(host)
        number = int(port)
    except ValueError:
        raise ValueError(f"{address!r} is no ADDRESS:PORT such as 127.0.0.1:8080") from None
    if not 0 <= number < 1 << 16 or not port.isdigit():
        raise ValueError(f"port {port} must lie between 0 (any free one) and 65535")
    return host, number
