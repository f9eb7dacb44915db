"""The interface of a sink, and what a kind of sink registers: its settings, its URI and how it is opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.configuration.uri import uri_path
from dskd.runtime.errors import DskdError
from dskd.runtime.result import Result
from dskd.runtime.wall_clock import WallClock

if TYPE_CHECKING:
    from dskd.runtime.sinks.delivery import Target
    from dskd.runtime.sinks.mqtt_commands import Station
    from dskd.runtime.store import Store

Fields = dict[str, object]


class Sink(ABC):
    """Takes what became of every frame as it comes. One thread uses it at a time.

    ``needs_map``: inspections are to bring their anomaly maps. ``to_stdout``: it writes to standard output, where
    nothing else may then be printed. ``store``: what it writes to, where other sinks can deliver from that.
    """

    needs_map: bool = False
    to_stdout: bool = False
    store: Store | None = None

    def wants(self, result: Result) -> bool:
        """Whether to be given this result; asked once for each."""
        return True

    @abstractmethod
    def write(self, results: Sequence[Result]) -> None:
        """Takes inspections with their frames, and dropped frames; nothing at the start. Returns when they are as safe
        as this sink makes them. Raises DskdError or OSError.
        """

    def close(self) -> None:  # noqa: B027 most sinks hold nothing
        """Flushes and releases."""

    def summary(self) -> str:
        """What a status says while all is well."""
        return "written"


class SinkConfig(Strict):
    """The settings of one kind of sink, in a station file and behind its URI."""

    kind: str

    def faults(self, data: Path) -> Iterator[tuple[str, str]]:
        """Keys and what is wrong with them in a station whose data folder is ``data``."""
        return iter(())


@dataclass(frozen=True)
class SinkContext:
    """What a sink is opened in. ``name`` is its name in a station file, or its URI without passwords.

    ``identity`` is that of the store that records come from. In a station ``data`` is the folder of its data and
    ``station`` takes commands; both are None in ``dskd runtime``.
    """

    name: str
    identity: str = ""
    data: Path | None = None
    station: Station | None = None
    clock: WallClock = field(default_factory=WallClock)


@dataclass(frozen=True)
class SinkKind:
    """What is registered under a kind's name.

    ``form``: how its URI is written, for help. ``fields``: the keys of ``config`` that a URI gives. ``sink`` opens one
    that takes results as they come, ``target`` one that records are delivered to from the store, in order, as often as
    it takes. With both, ``dskd runtime`` uses the first and a station the second.
    """

    config: type[SinkConfig]
    form: str
    fields: Callable[[str], Fields]
    sink: Callable[[Any, SinkContext], Sink] | None = None
    target: Callable[[Any, SinkContext], Target] | None = None

    def open_sink(self, config: SinkConfig, context: SinkContext) -> Sink:
        """Raises DskdError where it cannot be opened, whatever a package's code raises."""
        assert self.sink is not None
        with _in_one_line(context.name):
            return self.sink(config, context)

    def open_target(self, config: SinkConfig, context: SinkContext) -> Target:
        """Raises DskdError where it cannot be opened, whatever a package's code raises."""
        assert self.target is not None
        with _in_one_line(context.name):
            return self.target(config, context)


@contextmanager
def _in_one_line(name: str) -> Iterator[None]:
    try:
        yield
    except (DskdError, OSError):
        raise
    except Exception as error:
        raise DskdError(f"sink {name}: cannot be opened ({type(error).__name__}: {error})") from error


def path_as(key: str) -> Callable[[str], Fields]:
    """``fields`` of a kind whose URI is a path: SCHEME://PATH gives ``key``."""
    return lambda uri: {key: uri_path(uri)}


def options(text: str) -> Fields:
    """``key=value&key=value`` as settings; a value with commas is a list where the setting is one."""
    return dict(parse_qsl(text, keep_blank_values=True))


def address_as(key: str) -> Callable[[str], Fields]:
    """``fields`` of a kind whose URI is SCHEME://ADDRESS?key=value: ADDRESS gives ``key``, the rest other settings."""

    def fields(uri: str) -> Fields:
        address, _, query = uri.partition("://")[2].partition("?")
        return {key: address, **options(query)}

    return fields
