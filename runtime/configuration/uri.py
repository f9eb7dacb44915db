"""Source and sink URIs: scheme, path, options, and how they are shown without passwords."""

from __future__ import annotations

import difflib
import math
import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from dskd.runtime.errors import CallError, one_line

_SECRET_OPTION = re.compile(r"\b(user-id|user-pw|user|username|password|passwd|pwd|token)=(\"[^\"]*\"|[^&\s]+)", re.I)


def uri_scheme(uri: str) -> str:
    """What stands before ``://``, empty where there is none."""
    return uri.partition("://")[0].lower() if "://" in uri else ""


def uri_path(uri: str) -> Path:
    """The path in a URI; ``file://clip.mp4`` is relative, ``file:///clip.mp4`` absolute.

    ``?`` and ``#`` are part of the path, as in a shell. Raises CallError where there is none or it holds a NUL byte.
    """
    path = unquote(uri.partition("://")[2])
    if not path or "\0" in path:
        raise CallError(f"{uri}: names no path; write SCHEME:///absolute/path or SCHEME://relative/path")
    return Path(path)


def without_password(uri: str) -> str:
    """``uri`` as it may be shown: one line, no user, no password, no token."""
    words = one_line(uri).split(" ")
    return _SECRET_OPTION.sub(r"\1=***", " ".join(re.sub(r"://\S*@", "://", word) for word in words))


class Options:
    """What stands behind ``?`` in a camera's URI. Each method raises CallError with the key where a value is wrong."""

    def __init__(self, uri: str) -> None:
        self.uri = without_password(uri)
        self.address, _, query = uri.partition("://")[2].partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        self._given = dict(pairs)
        self._known: list[str] = []
        if len(self._given) < len(pairs):
            raise CallError(f"source {self.uri}: gives an option twice")

    def whole(self, key: str, least: int, most: int) -> int | None:
        """A whole number, None where it is not given."""
        text = self.text(key)
        if text is None:
            return None
        if not re.fullmatch(r"\d{1,9}", text) or not least <= int(text) <= most:
            raise CallError(f"source {self.uri}: {key}={text} must be a whole number from {least} to {most}")
        return int(text)

    def number(self, key: str, least: float, most: float) -> float | None:
        """A number, None where it is not given."""
        text = self.text(key)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise CallError(f"source {self.uri}: {key}={text} must be a number from {least:g} to {most:g}")
        return value

    def text(self, key: str, pattern: str = r"[\w.:+-]{1,64}") -> str | None:
        """A word, None where it is not given."""
        self._known.append(key)
        text = self._given.get(key)
        if text is not None and not re.fullmatch(pattern, text):
            raise CallError(f"source {self.uri}: {key}={one_line(text)} is not what this option takes")
        return text

    def end(self) -> None:
        """Raises CallError where an option was given that nobody asked for."""
        for key in self._given.keys() - set(self._known):
            near = difflib.get_close_matches(key, self._known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self._known) or 'none'}"
            raise CallError(f"source {self.uri}: has no option {one_line(key)}; {hint}")
