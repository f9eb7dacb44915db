"""Reasons are data: PLCs, Prometheus and counts read the enum, and what was stored as text stays what it was."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from line_records import answer

from dskd.runtime.errors import DskdError
from dskd.runtime.reason import NotInspected, Reason
from dskd.runtime.result import Answer, Dropped, Verdict
from dskd.runtime.station.control import PlcState
from dskd.runtime.station.outputs.handshake import Handshake
from dskd.runtime.station.outputs.registers import INPUT_REGISTERS, address
from dskd.runtime.store import Store

OLD_STORE = Path(__file__).parent / "data" / "store-2.db"
# Sentences of commit 0896740, which took them apart: the sentence, its label in Prometheus, the value of register 18.
BEFORE = [
    (Reason.REPLACED, "a newer frame came before this one was taken", "replaced: a newer frame came before this one was taken", "replaced", 2),
    (Reason.OVERFLOW, "16 frames wait already; inspection is too slow", "overflow: 16 frames wait already; inspection is too slow", "overflow", 2),
    (Reason.UNASKED, "no part asked for this frame", "unasked: no part asked for this frame", "unasked", 2),
    (Reason.INCOMPLETE, "timeout; check cable", "incomplete: timeout; check cable", "incomplete", 2),
    (Reason.CAMERA_LOST, "source rtsp://10.0.0.5/: no frame", "camera lost: source rtsp://10.0.0.5/: no frame", "camera lost", 2),
    (Reason.ENDED, "the source gave all it had", "ended: the source gave all it had", "ended", 2),
    (Reason.STOPPED, "the station stops", "stopped: the station stops", "stopped", 2),
    (Reason.FROZEN, "the same picture as before", "frozen: the same picture as before", "frozen", 2),
    (Reason.BLACK, "95 % of the picture are darker", "black: 95 % of the picture are darker", "black", 2),
    (Reason.OVER_EXPOSED, "95 % are brighter", "over-exposed: 95 % are brighter", "over-exposed", 2),
    (Reason.BLANK, "one even colour", "blank: one even colour", "blank", 2),
    (Reason.BLURRED, "sharpness 3 is under 9", "blurred: sharpness 3 is under 9", "blurred", 2),
    (Reason.SIZE, "9x9 instead of 8x8", "size: 9x9 instead of 8x8", "size", 2),
    (Reason.STORE_FULL, "it takes no records", "store full: it takes no records", "store full", 2),
    (Reason.LATE, "the part was answered at its deadline", "late: the part was answered at its deadline", "late", 1),
    (Reason.ROI, "the mask is 9x9", "region of interest: the mask is 9x9", "region of interest", 2),
    (Reason.MAP, "holds values", "anomaly map: holds values", "anomaly map", 2),
    (Reason.BACKEND_FAILED, "CUDA error", "backend failed: CUDA error", "backend failed", 2),
    (Reason.BACKEND_CLOSED, "no GPU", "backend cannot be opened: no GPU", "backend cannot be opened", 2),
    (Reason.INSPECTION_FAILED, "KeyError: 3", "inspection failed: KeyError: 3", "inspection failed", 2),
    (Reason.UNUSABLE, "/in/a.png: cut-off PNG", "/in/a.png: cut-off PNG", "other", 2),
    (Reason.NO_FRAME, "", "no frame before the deadline", None, 1),
    (Reason.NO_VERDICT, "", "no verdict before the deadline", None, 1),
    (Reason.STATION_STOPPED, "", "the station stopped", None, 2),
    (Reason.INSPECTED, "", "inspected", None, 0),
]  # fmt: skip
SINCE = {  # of no fixed label before: there it began with the camera's name, or came with later versions
    Reason.MISSED_TRIGGER: ("missed trigger", 2),
    Reason.PART_NOT_FOUND: ("part not found", 2),
    Reason.STATION_KILLED: ("the station was killed before it answered", 2),
}


class Camera:
    def trigger(self, part: str | None) -> str:
        return part or ""

    def plc_state(self) -> PlcState:
        return PlcState(True, 0, 0, 1, 0)


def register(reason: Reason) -> int:
    shake = Handshake(Camera(), lambda job: None, 4)
    shake.answer(Answer("top", "p", Verdict.REJECT, reason, 1.0, 2.0))
    return shake.input_registers()[address(INPUT_REGISTERS, "Reason")]


@pytest.mark.parametrize(("reason", "detail", "text", "label", "number"), BEFORE)
def test_texts_labels_and_register_18_are_those_of_before(
    reason: Reason, detail: str, text: str, label: str | None, number: int
) -> None:
    assert reason.text(detail) == text
    assert label in (None, reason.label)
    assert register(reason) == number


def test_every_reason_is_compared() -> None:
    assert {reason for reason, *_ in BEFORE} | SINCE.keys() == set(Reason)
    assert {reason: (reason.label, register(reason)) for reason in SINCE} == SINCE


def test_what_is_stored_is_the_text_of_before(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "s.db")) as store:
        store.add([Dropped("top", str(k), 1.0, reason, detail) for k, (reason, detail, *_) in enumerate(BEFORE)])
        store.add([Dropped("top", "1 to 3", 1.0, Reason.STORE_FULL, "no room", frames=3), answer(4)])
        told = [record.reason for record in store.after(0, 100)]
    texts = [text for _, _, text, _, _ in BEFORE]
    assert told == [*texts, "3 frames: store full: no room", "no verdict before the deadline"]


def test_a_store_of_before_is_read_with_its_texts(tmp_path: Path) -> None:
    """Texts of stores are shown, never taken apart."""
    texts = ["", "black: lamp off", "camera top: not ready", "7 frames: overflow: x", "words of a version long gone"]
    path = tmp_path / "s.db"
    shutil.copy(OLD_STORE, path)
    with closing(sqlite3.connect(path)) as database, database:
        newest = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'").fetchone()[0]
        rows = [(text,) for text in texts]
        columns = "kind, source, frame, captured, reason"
        database.executemany(f"INSERT INTO records ({columns}) VALUES ('dropped', 'top', 'f', 1.0, ?)", rows)
    with closing(Store(path)) as store:
        assert [record.reason for record in store.after(newest, 10)] == texts
        assert [record.as_dict()["dropped"] for record in store.after(newest, 10)] == texts


def test_an_error_that_names_no_reason_is_about_an_unusable_picture() -> None:
    known = NotInspected(Reason.SIZE, "9x9")
    assert NotInspected.of(known) is known
    assert (str(known), NotInspected.of(DskdError("a\nb")).detail) == ("size: 9x9", "a b")
