"""Where frames come from. Each kind of source is one file, registered under a URI's scheme; ``open_source`` picks it.

Packages bring more by the entry point group ``dskd.sources``; docs/plugins.md shows how.
"""

from __future__ import annotations

from pathlib import Path

from dskd.runtime.capture.sources.base import (
    Reader,
    Source,
    SourceContext,
    SourceEnded,
    SourceKind,
    SourceLost,
    Trigger,
    frames,
)
from dskd.runtime.configuration.options import read_options
from dskd.runtime.configuration.registry import Registry
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.configuration.uri import uri_scheme, without_password
from dskd.runtime.errors import CallError, DskdError

_KINDS = {
    "folder": "folder:KIND",
    "file": "by_path:KIND",
    "watch": "watched_folder:KIND",
    "v4l2": "v4l2:KIND",
    "csi": "by_pipeline:CSI",
    "rtsp": "rtsp:KIND",
    "rtsps": "rtsp:KIND_TLS",
    "gige": "gige:KIND",
    "gst": "by_pipeline:GST",
    "test": "pattern:KIND",
}


def _check(name: str, found: SourceKind) -> None:
    """Raises TypeError where what a package brings is no kind of source."""
    if not isinstance(found, SourceKind) or not issubclass(found.options, Strict):
        raise TypeError("needs a SourceKind whose options are a Strict model")


SOURCES: Registry[SourceKind] = Registry(
    "source", "dskd.sources", {scheme: f"{__name__}.{kind}" for scheme, kind in _KINDS.items()}, _check
)


def forms() -> list[str]:
    """How the URI of each kind is written."""
    return ["a path", *(kind.form for kind in SOURCES.all().values())]


def open_source(uri: str, trigger: Trigger = "free", reader: Reader | None = None) -> Source:
    """The source that ``uri`` names; no camera is touched before its ``open``.

    ``trigger``: what starts an exposure, where a camera can be told. ``reader`` decodes picture files (default: in this
    process). Raises CallError where there is no such kind or path, or an option is wrong.
    """
    if not uri:
        raise CallError(f"source: is empty; use {', '.join(forms())}")
    if "://" not in uri:
        from dskd.runtime.capture.sources.by_path import by_path

        return by_path(uri, Path(uri), reader)
    scheme, shown = uri_scheme(uri), without_password(uri)
    if scheme not in SOURCES:
        raise CallError(f"source {shown}: there is no such kind of source; use {', '.join(forms())}")
    kind = SOURCES[scheme]
    if trigger == "line" and not kind.line_input:
        raise CallError(f"source {shown}: has no input line that starts an exposure; use another trigger")
    options = None if not kind.options.model_fields else read_options(uri, kind.options)[1]
    try:
        return kind.open(uri, options, SourceContext(trigger, reader))
    except (DskdError, OSError):
        raise
    except Exception as error:  # a package's code may raise anything
        raise DskdError(f"source {shown}: cannot be opened ({type(error).__name__})") from error


__all__ = [
    "SOURCES",
    "Reader",
    "Source",
    "SourceContext",
    "SourceEnded",
    "SourceKind",
    "SourceLost",
    "Trigger",
    "forms",
    "frames",
    "open_source",
]
