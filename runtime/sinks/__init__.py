"""Where inspections go: files, MQTT, webhooks. Each kind is one file, the same in a station and in ``dskd runtime``.

Packages bring more by the entry point group ``dskd.sinks``; docs/plugins.md shows how. Knows no cameras.
"""

from __future__ import annotations

from dskd.runtime.configuration.registry import Registry
from dskd.runtime.sinks.base import Sink, SinkConfig, SinkContext, SinkKind

_FILES = {"sqlite": "sqlite", "jsonl": "jsonl", "csv": "csv", "images": "images", "archive": "archive", "mqtt": "mqtt", "webhook": "webhook"}  # fmt: skip


def _check(name: str, found: SinkKind) -> None:
    """Raises TypeError where what a package brings is no kind of sink."""
    if not isinstance(found, SinkKind) or not issubclass(found.config, SinkConfig) or not (found.sink or found.target):
        raise TypeError("needs a SinkKind with a SinkConfig and a sink or target")


SINKS: Registry[SinkKind] = Registry(
    "sink", "dskd.sinks", {name: f"{__name__}.{file}:KIND" for name, file in _FILES.items()}, _check
)
SCHEMES = {"http": "webhook", "https": "webhook", "mqtts": "mqtt"}  # of a URI, where it is not the kind's own name

__all__ = ["SCHEMES", "SINKS", "Sink", "SinkConfig", "SinkContext", "SinkKind"]
