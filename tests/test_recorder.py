"""Store first, but the line does not wait for a store that hangs, and nothing that was inspected is lost."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from station_files import wait_for

from dskd.runtime.reason import Reason
from dskd.runtime.result import Answer, Dropped, Frame, Inspection, Verdict
from dskd.runtime.station import recorder as recorder_module
from dskd.runtime.station.recorder import MOST_FRAMES, STORE_WAIT, Recorded, Recorder
from dskd.runtime.store import Store, StoreLocked


class Line:
    """A recorder on a real store; what it handed on and when."""

    def __init__(self, folder: Path, spool: int = 1000) -> None:
        self.path = folder / "store.db"
        self.store = Store(self.path)
        self.handed: list[tuple[float, Recorded]] = []
        self.recorder = Recorder(self.store, self.take, spool)
        self.recorder.start()
        self.stored_when_handed: list[int] = []

    def take(self, entries: Sequence[Recorded]) -> None:
        self.stored_when_handed.append(self.count())
        self.handed += [(time.monotonic(), entry) for entry in entries]

    def count(self) -> int:
        with sqlite3.connect(f"file:{self.path}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM records").fetchone()[0])

    def put(self, number: int) -> None:
        inspection = Inspection(
            "top", str(number), float(number), Verdict.PASS, 0.1, 1.0, (), {}, "b", "x", part=str(number)
        )
        self.recorder.put(inspection, Frame("top", str(number), float(number), np.zeros((4, 4, 3), np.uint8)))
        self.recorder.put(Answer("top", str(number), Verdict.PASS, Reason.INSPECTED, 0.0, 1.0, inspection))


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.recorder.close(5)
    made.store.close()


def blocked(path: Path) -> sqlite3.Connection:
    """Another program that holds the store for writing."""
    database = sqlite3.connect(path, isolation_level=None, timeout=10)
    database.execute("BEGIN IMMEDIATE")
    return database


def test_records_are_stored_before_anybody_hears_of_them(line: Line) -> None:
    for number in range(20):
        line.put(number)
        wait_for(lambda number=number: len(line.handed) == 2 * (number + 1))  # type: ignore[misc]
    assert line.count() == 40
    assert all(stored > 0 for stored in line.stored_when_handed)
    assert [entry.record.part for _, entry in line.handed] == [str(n) for n in range(20) for _ in range(2)]


def test_what_is_told_is_stored_though_the_store_refused_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another thread's commit takes long: a kill just then must lose nothing that the line was told."""
    monkeypatch.setattr(recorder_module, "MOMENT", 60.0)
    monkeypatch.setattr(recorder_module, "LONGEST_WAIT", 60.0)
    line, refusals = Line(tmp_path), [StoreLocked("another thread writes")]
    add = line.store.add

    def busy(*given: object) -> list[int]:
        if refusals:
            raise refusals.pop()
        return add(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(line.store, "add", busy)
    line.recorder.put(Answer("top", "1", Verdict.REJECT, Reason.NO_FRAME, 0.0, 1.0), due=time.monotonic() + 60)
    wait_for(lambda: line.handed)
    assert line.stored_when_handed == [1]
    assert line.recorder.close(5) == 0
    line.store.close()


def test_a_locked_store_holds_nobody_up_and_loses_nothing(line: Line) -> None:
    line.put(0)
    wait_for(lambda: line.count() == 2)
    other = blocked(line.path)
    start = time.monotonic()
    line.put(1)
    wait_for(lambda: len(line.handed) == 4)
    assert line.handed[-1][0] - start < STORE_WAIT + 1.0  # the machine is shared; without a bound it would be for ever
    wait_for(lambda: line.recorder.fault)
    for number in range(2, 50):
        line.put(number)
    wait_for(lambda: len(line.handed) == 100)
    assert line.recorder.spooled == 98
    other.rollback()
    other.close()
    wait_for(lambda: line.recorder.spooled == 0)
    assert line.count() == 100
    assert not line.recorder.fault
    assert [entry.record.part for _, entry in line.handed] == [str(n) for n in range(50) for _ in range(2)]


def test_a_full_spool_says_so_and_dropped_frames_become_one_record(tmp_path: Path) -> None:
    line = Line(tmp_path, spool=10)
    other = blocked(line.path)
    for number in range(5):
        line.put(number)
    assert line.recorder.full
    for number in range(1000):
        line.recorder.put(Dropped("top", str(number), 1.0, Reason.STORE_FULL))
    assert line.recorder.spooled == 10
    other.rollback()
    other.close()
    wait_for(lambda: line.count() == 11)
    with sqlite3.connect(line.path) as database:
        assert database.execute("SELECT frame, reason FROM dropped").fetchall() == [
            ("0 to 999", "1000 frames: store full")
        ]
    assert not line.recorder.full
    line.recorder.close(5)
    line.store.close()


def test_answers_are_given_while_the_store_is_full_and_take_no_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = Line(tmp_path, spool=10)
    other = blocked(line.path)
    for number in range(5):
        line.put(number)
    for number in range(100):
        line.recorder.put(Answer("top", f"late-{number}", Verdict.REJECT, Reason.OVERFLOW, 0.0, 1.0))
        line.recorder.put(Dropped("top", str(number), 1.0, Reason.OVERFLOW, f"{number} frames wait"))
    wait_for(lambda: len(line.handed) == 110)
    assert line.recorder.spooled == 10
    other.rollback()
    other.close()
    wait_for(lambda: line.count() == 11)
    with sqlite3.connect(line.path) as database:
        assert database.execute("SELECT frame, reason FROM dropped").fetchall() == [
            ("0 to 99", "100 frames: overflow: 0 frames wait")
        ]
    assert any("100 answers were given while it was full" in message for message in caplog.messages)
    line.put(6)
    wait_for(lambda: line.count() == 13)  # it counts on rightly
    wait_for(lambda: len(line.handed) == 113)
    line.recorder.close(5)
    line.store.close()


def test_a_source_hears_when_what_became_of_its_frame_is_stored(line: Line) -> None:
    heard: list[str] = []
    other = blocked(line.path)
    frame = Frame("top", "a", 1.0, np.zeros((4, 4, 3), np.uint8), stored=lambda: heard.append("a"))
    line.recorder.put(Inspection("top", "a", 1.0, Verdict.PASS, 0.1, 1.0, (), {}, "b", "x"), frame)
    line.recorder.put(Dropped("top", "b", 1.0, Reason.BLANK, stored=lambda: heard.append("b")))
    wait_for(lambda: len(line.handed) == 2)
    assert heard == []
    other.rollback()
    other.close()
    wait_for(lambda: heard == ["a", "b"])
    assert line.count() == 2


def test_what_cannot_be_stored_at_the_end_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    line = Line(tmp_path)
    other = blocked(line.path)
    line.put(7)
    wait_for(lambda: line.recorder.fault)
    assert line.recorder.close(0.3) == 2
    assert sum("not stored: " in message for message in caplog.messages) == 2
    other.close()
    line.store.close()


def test_outputs_that_fail_or_block_are_no_reason_to_lose_records(tmp_path: Path) -> None:
    store, release = Store(tmp_path / "store.db"), []

    def hand_on(entries: Sequence[Recorded]) -> None:
        wait_for(lambda: release)
        raise RuntimeError("an output's own fault")

    recorder = Recorder(store, hand_on)
    recorder.start()
    frame = Frame("top", "0", 0.0, np.zeros((4, 4, 3), np.uint8))
    for _ in range(MOST_FRAMES):
        recorder.put(Inspection("top", "0", 0.0, Verdict.PASS, 0.1, 1.0, (), {}, "b", "x"), frame)
    start = time.monotonic()
    wait_for(lambda: store.newest() == MOST_FRAMES)
    assert time.monotonic() - start < 10
    release.append(True)
    recorder.await_room()
    assert recorder.close(5) == 0
    store.close()
