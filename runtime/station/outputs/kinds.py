"""Which kinds of output there are: each is one file here.

Packages bring more by the entry point group ``dskd.outputs``; docs/plugins.md shows how.
"""

from __future__ import annotations

from dskd.runtime.configuration.registry import Registry
from dskd.runtime.station.outputs.base import Output, OutputConfig, OutputContext, OutputKind


def _check(name: str, found: OutputKind) -> None:
    """Raises TypeError where what a package brings is no kind of output."""
    if not isinstance(found, OutputKind) or not issubclass(found.config, OutputConfig):
        raise TypeError("needs an OutputKind with an OutputConfig")


OUTPUTS: Registry[OutputKind] = Registry(
    "output", "dskd.outputs", {name: f"{__package__}.{name}:KIND" for name in ("gpio", "modbus")}, _check
)

__all__ = ["OUTPUTS", "Output", "OutputConfig", "OutputContext", "OutputKind"]
