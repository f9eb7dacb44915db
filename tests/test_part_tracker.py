"""Each part is answered once, in order, in time."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from budget import cases
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.reason import Reason
from dskd.runtime.result import Answer, Dropped, Entry, Frame, Inspection, Verdict
from dskd.runtime.station import part_tracker
from dskd.runtime.station.free_running import Debounce
from dskd.runtime.station.part_tracker import LATE, NotReady, PartTracker


def inspection(part: str, verdict: Verdict = Verdict.PASS, captured: float | None = None) -> Inspection:
    return Inspection("top", f"frame-{part}", captured or time.time(), verdict, 0.5, 1.0, (), {}, "b", "x", part=part)


def frame_of(part: str, captured: float) -> Frame:
    return Frame("top", f"frame-{part}", captured, np.zeros((4, 4, 3), np.uint8), part=part)


class Line:
    """A tracker with a camera that can be set, what it answered and which inspections it stored."""

    name, fail_safe = "top", Verdict.REJECT

    def __init__(self, deadline: float = 5.0, queue: int = 3) -> None:
        self.answers: list[Answer] = []
        self.inspections: list[Inspection] = []
        self.not_ready, self.refuses = "", False
        self.requested: list[str] = []
        self.tracker = PartTracker(self, self, deadline=deadline, queue=queue)

    def not_ready_reason(self) -> str:
        return self.not_ready

    def request_frame(self, part: str) -> None:
        if self.refuses:
            raise DskdError("camera lost")
        self.requested.append(part)

    def put(self, record: Entry, frame: Frame | None = None, due: float = 0.0) -> None:
        if isinstance(record, Answer):
            self.answers.append(record)
        elif isinstance(record, Inspection):
            self.inspections.append(record)

    def inspected(self, part: str, verdict: Verdict = Verdict.PASS, captured: float | None = None) -> None:
        found = inspection(part, verdict, captured)
        self.tracker.inspected(frame_of(part, found.captured), found)

    def expects(self, part: str, captured: float) -> bool:
        return self.tracker.expects(frame_of(part, captured))

    @property
    def parts(self) -> list[str]:
        return [answer.part for answer in self.answers]


def test_answers_keep_the_order_of_the_triggers() -> None:
    line = Line()
    for part in "abc":
        line.tracker.trigger(part)
    line.inspected("c")
    line.inspected("a", Verdict.REVIEW)
    assert line.parts == ["a"]
    line.tracker.dropped(Dropped("top", "f", time.time(), Reason.BLACK, "lamp off", "b"))
    assert [(a.part, a.verdict, a.explanation) for a in line.answers] == [
        ("a", Verdict.REVIEW, "inspected"), ("b", Verdict.REJECT, "black: lamp off"), ("c", Verdict.PASS, "inspected"),
    ]  # fmt: skip
    assert line.answers[0].inspection is not None
    assert line.answers[1].inspection is None
    line.tracker.close()


def test_a_deadline_gives_the_fail_safe_verdict_and_a_late_inspection_is_kept_and_marked() -> None:
    line = Line(deadline=0.1)
    line.tracker.trigger("a")
    line.tracker.trigger("b")
    assert line.expects("a", time.time())
    assert not line.expects("a", time.time() - 10)  # an older frame, of an earlier part that was called the same
    assert not line.expects("c", time.time())
    start = time.monotonic()
    while len(line.answers) < 2 and time.monotonic() < start + 5:
        time.sleep(0.005)
    assert [(a.part, a.verdict, a.explanation) for a in line.answers] == [
        ("a", Verdict.REJECT, "no verdict before the deadline"), ("b", Verdict.REJECT, "no frame before the deadline"),
    ]  # fmt: skip
    assert all(answer.answered - answer.triggered > 0.09 for answer in line.answers)
    assert not line.expects("a", time.time())  # its frame would be judged for nobody
    line.inspected("a")
    assert line.parts == ["a", "b"]
    assert LATE in line.inspections[0].timings_ms
    line.tracker.close()


def test_more_than_the_queue_holds_are_missed_triggers() -> None:
    line = Line(queue=2)
    line.tracker.trigger("a")
    assert line.tracker.ready
    line.tracker.trigger("b")
    assert not line.tracker.ready
    with pytest.raises(NotReady, match="2 parts are under way"):
        line.tracker.trigger("c")
    line.inspected("a")
    assert line.tracker.ready
    assert (line.tracker.missed, line.requested) == (1, ["a", "b"])
    line.tracker.close()


def test_a_part_under_way_a_camera_that_refuses_and_a_camera_that_is_not_ready_are_missed_triggers() -> None:
    line = Line()
    line.tracker.trigger("a")
    with pytest.raises(NotReady, match="under way already"):
        line.tracker.trigger("a")
    line.refuses = True
    with pytest.raises(NotReady, match="camera lost"):
        line.tracker.trigger("b")
    line.refuses, line.not_ready = False, "store full"
    with pytest.raises(NotReady, match="store full"):
        line.tracker.trigger("b")
    assert line.tracker.missed == 3
    assert line.tracker.busy == 1
    line.tracker.close()
    assert line.answers[0].reason is Reason.STATION_STOPPED
    with pytest.raises(NotReady, match="stops"):
        line.tracker.trigger("z")


@pytest.mark.parametrize("part", ["", "x" * 65, "a\nb", "\x1b[2J"])
def test_a_part_id_that_cannot_be_shown_is_refused(part: str) -> None:
    line = Line()
    with pytest.raises(CallError, match="printable"):
        line.tracker.trigger(part)
    line.tracker.close()


def test_an_earlier_part_of_the_same_name_does_not_answer_the_later_one() -> None:
    line = Line(deadline=0.05)
    before = time.time()
    line.tracker.trigger("a")
    time.sleep(0.2)
    line.tracker.trigger("a")
    line.inspected("a", Verdict.PASS, before)
    assert len(line.answers) == 1
    line.inspected("a", Verdict.PASS)
    assert [answer.verdict for answer in line.answers] == [Verdict.REJECT, Verdict.PASS]
    line.tracker.close()


@hypothesis_settings(max_examples=cases(40))
@given(st.permutations(range(8)), st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7)))
def test_whatever_comes_in_whatever_order_each_part_is_answered_once_and_in_order(
    order: list[int], dropped: set[int], twice: set[int]
) -> None:
    line = Line(queue=8)
    names = [line.tracker.trigger() for _ in range(8)]

    def judge(k: int) -> None:
        for _ in range(2 if k in twice else 1):
            if k in dropped:
                line.tracker.dropped(Dropped("top", str(k), time.time(), Reason.STOPPED, "gone", names[k]))
            else:
                line.inspected(names[k])

    threads = [threading.Thread(target=lambda part=part: [judge(k) for k in part]) for part in (order[:4], order[4:])]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert line.parts == names
    line.tracker.close()
    assert line.parts == names


@pytest.mark.parametrize(
    ("need", "window", "seen", "said"),
    [
        (1, 1, "PRP", "PRP"),
        (2, 2, "RRPP", "PRPP"),  # both of two
        (2, 3, "RPRPPR", "PPRPPP"),  # two of three
        (2, 2, "VRRP", "PVRP"),  # a reject is at least a review
        (2, 3, "RVPP", "PVVP"),
    ],
)
def test_debounce(need: int, window: int, seen: str, said: str) -> None:
    short = {"P": Verdict.PASS, "V": Verdict.REVIEW, "R": Verdict.REJECT}
    debounce = Debounce(need, window)
    verdicts = []
    for letter in seen:
        before = debounce.verdict
        assert debounce.add(short[letter]) == (debounce.verdict is not before)
        verdicts.append(debounce.verdict)
    assert verdicts == [short[letter] for letter in said]


def test_a_verdict_is_judged_at_the_moment_of_telling_by_the_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under load the timer may come to a part later than its verdict does; the wall clock says nothing about it."""
    moment = [100.0]
    monkeypatch.setattr(part_tracker, "time", SimpleNamespace(monotonic=lambda: moment[0], time=time.time))
    line = Line(deadline=50.0, queue=8)
    for part in "abc":
        line.tracker.trigger(part)
    line.inspected("b")  # in time, but held up by a
    moment[0] += 49.9
    line.inspected("a")
    assert [(a.part, a.verdict) for a in line.answers] == [("a", Verdict.PASS), ("b", Verdict.PASS)]
    moment[0] += 0.2
    line.inspected("c")
    assert (line.answers[2].verdict, line.answers[2].reason) == (Verdict.REJECT, Reason.NO_VERDICT)
    assert line.inspections[2].timings_ms[LATE] == pytest.approx(100.0, abs=0.01)
    for part in "de":
        line.tracker.trigger(part)
    line.inspected("e")
    moment[0] += 51.0
    line.inspected("d")
    assert [(a.part, a.verdict) for a in line.answers[3:]] == [("d", Verdict.REJECT), ("e", Verdict.REJECT)]
    line.tracker.close()
