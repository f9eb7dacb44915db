"""One route of the page's interface: its path, who may call it, what it takes and what it does."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from dskd.runtime.web.auth import Person
from dskd.runtime.web.visitor import visitor_of

MOST_ID = 1 << 62  # SQLite's ids end at 2^63


class Refused(Exception):
    """The answer is an error that the caller can mend."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


@dataclass(frozen=True)
class Call:
    """A request that passed the door: ``person`` is None for a viewer; ``body`` is checked."""

    request: Request
    person: Person | None
    body: Any = None

    @property
    def query(self) -> Mapping[str, str]:
        """What stands behind the question mark."""
        return self.request.query_params

    @property
    def who(self) -> str:
        """Who asks, for the audit log: a name and an address."""
        address = visitor_of(self.request.scope).address
        return f"{self.person.name if self.person else 'somebody'} ({address or 'local'})"

    def path(self, name: str) -> str:
        """A variable part of the path."""
        return str(self.request.path_params[name])

    def record_id(self) -> int:
        """The record that the path names."""
        text = self.path("id")
        if not text.isascii() or not text.isdecimal() or len(text) > len(str(MOST_ID)) or int(text) > MOST_ID:
            raise Refused(404, "there is no such record")
        return int(text)

    def whole(self, name: str, default: int | None, least: int, most: int) -> int | None:
        """A whole number from the query."""
        text = self.query.get(name, "")
        if not text:
            return default
        if not text.isascii() or not text.isdecimal() or len(text) > 19 or not least <= int(text) <= most:
            raise Refused(400, f"{name}: a whole number from {least} to {most} is needed")
        return int(text)

    def number(self, name: str, default: float) -> float:
        """A finite number from the query."""
        try:
            value = float(self.query.get(name) or default)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or abs(value) > 1e12:
            raise Refused(400, f"{name}: a number is needed")
        return value

    def given(self, name: str) -> float | None:
        """A finite number from the query, None where it is not there."""
        return self.number(name, 0.0) if self.query.get(name) else None


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """``changes`` asks for the token; ``open`` is for everybody, even where viewing is not free."""

    method: str
    path: str
    summary: str
    handler: Handler
    changes: bool = False
    open: bool = False
    body: type[BaseModel] | None = None
    query: dict[str, str] = field(default_factory=dict)
