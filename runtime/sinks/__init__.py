"""Where inspections go. Each kind of sink is one file; ``open_sinks`` picks them by URI."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import CallError
from runtime.manifest import InputSpec
from runtime.sinks.base import Sink
from runtime.sinks.images import ImagesSink
from runtime.sinks.jsonl import JsonlSink
from runtime.sinks.sqlite import SqliteSink
from runtime.sources import uri_path, uri_scheme

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
            path = uri_path(uri)
            match uri_scheme(uri):
                case "sqlite":
                    sinks.append(SqliteSink(path))
                case "images":
                    sinks.append(ImagesSink(path, spec))
                case _:
                    sinks.append(JsonlSink(path))
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    return sinks


__all__ = ["FORMS", "Sink", "open_sinks"]
