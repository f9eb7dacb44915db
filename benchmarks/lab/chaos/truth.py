"""Whether health told the truth: what it said at each moment, held against the faults of that moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALL = frozenset({"*"})  # parts that a fault may touch: any
SILENCE = 8.0  # seconds without an answer of a station that runs
SETTLING = 40.0  # seconds after a start in which cameras, sinks and page come up
STARTING = 90.0  # seconds that a start may take on a machine that is shared


@dataclass(frozen=True)
class Kind:
    """What a fault must and may do to health. ``detect`` and ``recover``: within how many seconds.

    ``shows``: one of these parts must not be ok while it lasts; empty: nothing need be seen. ``may``: further parts
    that it may touch. ``restarts``: the station ends, or is ended. ``pauses``: it stands still all the while.
    """

    name: str
    shows: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    detect: float = 10.0
    recover: float = 40.0
    restarts: bool = False
    pauses: bool = False


@dataclass(frozen=True)
class Span:
    """A fault from ``begin`` to ``end``, seconds by the monotonic clock."""

    kind: Kind
    begin: float
    end: float


@dataclass(frozen=True)
class Sample:
    """What health said, asked at ``at``; None where nothing answered. ``since``: when the station was started, None while none runs.

    What it said was so at some moment between ``at`` and ``answered``.
    """

    at: float
    answered: float
    parts: dict[str, str] | None
    since: float | None


@dataclass(frozen=True)
class Lie:
    """Health said something else than what was. ``what``: hidden, false alarm or silent."""

    what: str
    at: float
    detail: str


def lies(samples: Sequence[Sample], spans: Sequence[Span]) -> list[Lie]:
    """Every lie; one that goes on is one."""
    found = [*_hidden(samples, spans), *_false_alarms(samples, spans), *_silences(samples, spans)]
    return sorted(found, key=lambda lie: lie.at)


def _hidden(samples: Sequence[Sample], spans: Sequence[Span]) -> list[Lie]:
    found = []
    for span in spans:
        if not span.kind.shows:
            continue
        for sample in samples:
            if sample.parts is None or sample.since is None:
                continue
            begun = max(
                span.begin,
                sample.since + SETTLING if sample.since > span.begin else span.begin,
                *_resumed(spans, sample),
            )
            if not begun + span.kind.detect < sample.at <= sample.answered < span.end:
                continue
            if all(sample.parts.get(part, "ok") == "ok" for part in span.kind.shows):
                found.append(Lie("hidden", sample.at, f"{span.kind.name}: {', '.join(sorted(span.kind.shows))} ok"))
                break
    return found


def _resumed(spans: Sequence[Span], sample: Sample) -> list[float]:
    """When a station that was paused went on: until then it saw nothing."""
    return [span.end for span in spans if span.kind.pauses and span.begin <= sample.at]


def _false_alarms(samples: Sequence[Sample], spans: Sequence[Span]) -> list[Lie]:
    found, told = [], dict[str, float]()
    for sample in samples:
        if sample.parts is None or sample.since is None or sample.at < sample.since + SETTLING:
            continue
        for part in (name for name, health in sample.parts.items() if health != "ok"):
            if any(_explains(span, part, sample) for span in spans):
                continue
            if sample.at - told.get(part, -1e9) > SILENCE:
                found.append(Lie("false alarm", sample.at, f"{part} is {sample.parts[part]}"))
            told[part] = sample.at
    return found


def _explains(span: Span, part: str, sample: Sample) -> bool:
    touched = span.kind.shows | span.kind.may
    meets = span.begin <= sample.answered and sample.at <= span.end + span.kind.recover
    return meets and ("*" in touched or part in touched)


def _silences(samples: Sequence[Sample], spans: Sequence[Span]) -> list[Lie]:
    """A station that was started and answers nobody, though nothing has ended it."""
    found = []
    begun: float | None = None
    for sample in samples:
        excused = sample.since is None or sample.at < sample.since + STARTING or _ended(spans, sample.at)
        if sample.parts is not None or excused:
            begun = None
            continue
        begun = sample.at if begun is None else begun
        if sample.at - begun > SILENCE:
            found.append(Lie("silent", sample.at, f"no answer for {SILENCE:g} seconds"))
            begun = sample.at
    return found


def _ended(spans: Iterable[Span], at: float) -> bool:
    return any(span.kind.restarts and span.begin <= at <= span.end + STARTING for span in spans)
