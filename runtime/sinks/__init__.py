"""Where inspections go: files, MQTT, webhooks; each kind of sink is one file, ``open_sinks`` picks them by URI. Knows no cameras."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.configuration.uri import uri_path, uri_scheme
from dskd.runtime.errors import CallError
from dskd.runtime.sinks.base import Sink

FORMS = "jsonl://PATH (- for standard output), images://FOLDER, sqlite://PATH"
STORE_FIRST = ("sqlite", "images", "jsonl")  # an inspection is in the store before anybody hears of it


def open_sinks(uris: Sequence[str], spec: InputSpec) -> list[Sink]:
    """The sinks that ``uris`` name, the store first. Raises CallError where there is no such kind."""
    for uri in uris:
        if uri_scheme(uri) not in STORE_FIRST:
            raise CallError(f"sink {uri}: is of no known kind; use {FORMS}")
    ordered = sorted(uris, key=lambda uri: STORE_FIRST.index(uri_scheme(uri)))
    sinks: list[Sink] = []
    try:
        for uri in ordered:
            sinks.append(_sink(uri_scheme(uri), uri_path(uri), spec))
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    return sinks


def _sink(scheme: str, path: Path, spec: InputSpec) -> Sink:
    """Each kind is imported where it is asked for, as sources are."""
    match scheme:
        case "sqlite":
            from dskd.runtime.sinks.sqlite import SqliteSink

            return SqliteSink(path)
        case "images":
            from dskd.runtime.sinks.images import ImagesSink

            return ImagesSink(path, spec)
    from dskd.runtime.sinks.jsonl import JsonlSink

    return JsonlSink(path)


__all__ = ["FORMS", "Sink", "open_sinks"]
