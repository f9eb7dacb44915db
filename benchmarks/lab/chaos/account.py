"""What became of every part whose trigger was acknowledged, after a chaos run; and whether each sink heard of all."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dskd.benchmarks.lab.chaos.truth import Span
from dskd.benchmarks.lab.station.drill import csv_keys
from dskd.benchmarks.lab.station.soak_station import gaps
from dskd.runtime.reason import Reason

REFUSES = frozenset({"store locked", "disk full", "descriptors exhausted"})  # in which the store takes no records
AFTERWARDS = 10.0  # seconds in which what waited in memory is stored


@dataclass
class Account:
    """Parts by what became of them. All but ``missing`` and ``passed_uninspected`` is as documented."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    inspected: int = 0
    fail_safe: int = 0
    listed: int = 0  # the station was killed before it answered
    in_taken_stores: int = 0  # in a file that was moved away, or in the copy of one that was then damaged
    killed_while_refusing: int = 0  # as docs/station.md says: health had said that the store takes no records
    not_stored: int = 0  # the station was stopped before the store took records again, and its log names them
    missing: list[str] = field(default_factory=list)
    passed_uninspected: int = 0
    told: int = 0
    told_and_not_stored: int = 0
    gaps: dict[str, list[int]] = field(default_factory=dict)  # ids of records by sink

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return dict(self.__dict__)

    def wrong(self) -> bool:
        """Whether anything is not as it must be."""
        return bool(self.missing or self.passed_uninspected or self.told_and_not_stored or any(self.gaps.values()))


def account(
    store: Path,
    aside: Sequence[Path],
    acknowledged: Mapping[str, Mapping[str, float]],
    told: Sequence[str],
    spans: Sequence[Span],
    kills: Sequence[float],
    named: Collection[str] = (),
) -> Account:
    """Looks each part up. ``kills``: when (monotonic) a station ended without finishing its work. ``named``: in its log."""
    now, before = answers(store), Counter[str]()
    for file in aside:
        before.update(answers(file).keys())
        before.update(announced(file))
    found = Account({way: len(parts) for way, parts in acknowledged.items()}, told=len(told))
    for part, at in ((part, at) for parts in acknowledged.values() for part, at in parts.items()):
        why = now.get(part)
        if why is None:
            if part in before:
                found.in_taken_stores += 1
            elif part in named:
                found.not_stored += 1
            elif excused(at, spans, kills):
                found.killed_while_refusing += 1
            else:
                found.missing.append(part)
        elif why.startswith(str(Reason.STATION_KILLED)):
            found.listed += 1
        elif why == str(Reason.INSPECTED):
            found.inspected += 1
        else:
            found.fail_safe += 1
    known = now.keys() | before.keys()
    moments = {part: at for parts in acknowledged.values() for part, at in parts.items()}
    untold = set(told) - known - set(named)
    lost = [part for part in untold if part not in moments or not excused(moments[part], spans, kills)]
    found.told_and_not_stored = len(lost)
    question = "SELECT count(*) FROM answers WHERE verdict = 'PASS' AND inspection IS NULL"
    found.passed_uninspected = sum(int(str(number)) for file in (store, *aside) for (number,) in _rows(file, question))
    return found


def excused(at: float, spans: Sequence[Span], kills: Sequence[float]) -> bool:
    """Whether a part that was acknowledged at ``at`` may be without a trace: the store refused then, and a kill came."""
    for span in spans:
        if span.kind.name not in REFUSES or not span.begin - 2 <= at <= span.end + AFTERWARDS:
            continue
        if any(at <= kill <= span.end + AFTERWARDS for kill in kills):
            return True
    return False


def answers(store: Path) -> dict[str, str]:
    """Reasons by part."""
    return {str(part): str(reason) for part, reason in _rows(store, "SELECT part, reason FROM answers")}


def not_stored(log: Path) -> set[str]:
    """Parts that a station's log names as not stored when it was stopped."""
    return set(re.findall(r"not stored: .*?part(?:=|\": )['\"]([^'\"]+)", log.read_text(errors="replace")))


def announced(store: Path) -> set[str]:
    """Parts that had no answer yet."""
    return {str(row[0]) for row in _rows(store, "SELECT part FROM announced")}


def sink_gaps(store: Path, folder: Path, mqtt: Iterable[str], webhook: Iterable[str]) -> dict[str, list[int]]:
    """Ids of records of the last store that a sink was not told of although it was told of a later one."""
    name = str(_rows(store, "SELECT value FROM notes WHERE name = 'store'")[0][0])
    rows = _rows(store, "SELECT id, kind FROM records")
    csv = set[str]()
    for file in folder.glob("sink*.csv"):
        csv |= csv_keys(file)[0]
    inspections = {f"{name}-{k}" for k, kind in rows if kind == "inspection"}
    told = {"csv": csv, "mqtt": set(mqtt), "webhook": set(webhook)}
    wanted = {"csv": {f"{name}-{k}" for k, _ in rows}, "mqtt": inspections, "webhook": inspections}
    ours = {sink: {key for key in keys if key.startswith(f"{name}-")} for sink, keys in told.items()}
    return {sink: gaps(wanted[sink], ours[sink]) for sink in told}


def _rows(store: Path, question: str) -> list[tuple[object, ...]]:
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30)) as database:
        return database.execute(question).fetchall()
    return []
