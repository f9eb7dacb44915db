"""What settings are made of: names, paths, addresses and secrets, each refused where it cannot be meant."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, ValidationInfo

from dskd.runtime.errors import CallError

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _plain(text: str) -> str:
    """Whatever is no secret is written out: a variable in it would be taken literally."""
    if "${" in text:
        raise ValueError("${NAME} is for secrets only (camera address, user, password, header_token); write it out")
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
    host, _, port = text.rpartition(":")
    try:
        ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        raise ValueError(f"{text!r} is no ADDRESS:PORT such as 127.0.0.1:8080") from None
    if not 0 <= number < 1 << 16 or not port.isdigit():
        raise ValueError(f"port {port} must lie between 0 (any free one) and 65535")
    return text


def told_by(key: str) -> Discriminator:
    """For a union of models each with its ``Tag``: the text under ``key`` says which one is meant."""

    def tag(value: object) -> str | None:
        found = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        return found if isinstance(found, str) else None

    return Discriminator(tag)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_plain)]
Secret = Annotated[str, Field(max_length=256), AfterValidator(_secret)]  # ``${NAME}``: the value never stands here
LocalPath = Annotated[Path, BeforeValidator(_local)]
Address = Annotated[str, Field(max_length=64), AfterValidator(_address)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


def reveal(text: str, quoted: bool = False) -> str:
    """``text`` with its ${NAME} replaced from the environment. Raises CallError that names what is not set."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match.group(1))
        if not found:
            raise CallError(f"environment variable {match.group(1)} is not set; the station file needs it for a secret")
        return quote(found, safe="") if quoted else found

    return VARIABLE.sub(value, text)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of a listening address."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
