"""The interface of an output, and what a kind of output registers: its settings and how it is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dskd.runtime.configuration.fields import Place
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.result import Answer
from dskd.runtime.station.control import PartStatus

if TYPE_CHECKING:
    from dskd.runtime.station.outputs.handshake import ServedCamera


class Output(Protocol):
    """Tells the line. ``answer`` is called in the order of the answers, from one thread, and must not block."""

    name: str

    def hears(self, camera: str) -> bool:
        """Whether answers of that camera matter to it."""
        ...

    def answer(self, answer: Answer) -> None:
        """Takes an answer of a camera that it hears."""
        ...

    def status(self) -> PartStatus:
        """How it is."""
        ...

    def drain(self, timeout: float) -> None:
        """Waits until what it was told is done."""
        ...

    def close(self) -> None:
        """Leaves the line at its safe level and releases it."""
        ...


class OutputConfig(Strict):
    """The settings of one kind of output, and what ``--check-config`` asks of them. Places are keys below the output."""

    kind: str

    def cameras_named(self) -> Iterator[tuple[Place, str]]:
        """Where it names a camera, and which."""
        return iter(())

    def claims(self) -> Iterator[tuple[str, object]]:
        """Keys of what only one part of a station may have: a listening address, a line."""
        return iter(())

    def faults(self, deadlines: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """Keys and what is wrong with them; ``deadlines`` are milliseconds by camera, 0 where it has none."""
        return iter(())


@dataclass(frozen=True)
class OutputContext:
    """What an output is opened in. ``set_job(camera, job, who)`` loads the recipe of that number, or raises CallError."""

    name: str
    cameras: Mapping[str, ServedCamera]
    set_job: Callable[[str, int, str], None]


@dataclass(frozen=True)
class OutputKind:
    """What is registered under a kind's name. ``open`` raises CallError or MissingPart where it cannot be used."""

    config: type[OutputConfig]
    open: Callable[[Any, OutputContext], Output]
