"""Each part is answered once, in order, in time."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from budget import cases
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.reason import Reason
from dskd.runtime.result import Answer, Dropped, Inspection, Verdict
from dskd.runtime.station import part_desk
from dskd.runtime.station.debounce import Debounce
from dskd.runtime.station.part_desk import LATE, NotReady, PartDesk


def inspection(part: str, verdict: Verdict = Verdict.PASS, captured: float | None = None) -> Inspection:
    return Inspection("top", f"frame-{part}", captured or time.time(), verdict, 0.5, 1.0, (), {}, "b", "x", part=part)


class Desk:
    """A desk, what it told and what it kept."""

    def __init__(self, deadline: float = 5.0, queue: int = 3, hindrance: str = "", refuses: bool = False) -> None:
        self.told: list[Answer] = []
        self.kept: list[Inspection] = []
        self.hindrance = hindrance
        self.asked: list[str] = []
        self.refuses = refuses
        self.desk = PartDesk(
            "top",
            deadline,
            queue,
            lambda: Verdict.REJECT,
            lambda answer, due: self.told.append(answer),
            lambda: self.hindrance,
            self.ask,
        )

    def ask(self, part: str) -> None:
        if self.refuses:
            raise DskdError("camera lost")
        self.asked.append(part)

    def inspected(self, part: str, verdict: Verdict = Verdict.PASS, captured: float | None = None) -> None:
        self.desk.inspected(inspection(part, verdict, captured), self.kept.append)

    @property
    def parts(self) -> list[str]:
        return [answer.part for answer in self.told]


def test_answers_keep_the_order_of_the_triggers() -> None:
    desk = Desk()
    for part in "abc":
        desk.desk.trigger(part)
    desk.inspected("c")
    desk.inspected("a", Verdict.REVIEW)
    assert desk.parts == ["a"]
    desk.desk.dropped(Dropped("top", "f", time.time(), Reason.BLACK, "lamp off", "b"))
    assert [(a.part, a.verdict, a.explanation) for a in desk.told] == [
        ("a", Verdict.REVIEW, "inspected"), ("b", Verdict.REJECT, "black: lamp off"), ("c", Verdict.PASS, "inspected"),
    ]  # fmt: skip
    assert desk.told[0].inspection is not None
    assert desk.told[1].inspection is None
    desk.desk.close()


def test_a_deadline_gives_the_fail_safe_verdict_and_a_late_inspection_is_kept_and_marked() -> None:
    desk = Desk(deadline=0.1)
    desk.desk.trigger("a")
    desk.desk.trigger("b")
    assert desk.desk.waits("a", time.time())
    assert not desk.desk.waits("a", time.time() - 10)  # an older frame, of an earlier part that was called the same
    assert not desk.desk.waits("c", time.time())
    start = time.monotonic()
    while len(desk.told) < 2 and time.monotonic() < start + 5:
        time.sleep(0.005)
    assert [(a.part, a.verdict, a.explanation) for a in desk.told] == [
        ("a", Verdict.REJECT, "no frame before the deadline"), ("b", Verdict.REJECT, "no frame before the deadline"),
    ]  # fmt: skip
    assert all(answer.answered - answer.triggered > 0.09 for answer in desk.told)
    assert not desk.desk.waits("a", time.time())  # its frame would be judged for nobody
    desk.inspected("a")
    assert desk.parts == ["a", "b"]
    assert LATE in desk.kept[0].timings_ms
    desk.desk.close()


def test_more_than_the_queue_holds_are_missed_triggers() -> None:
    desk = Desk(queue=2)
    desk.desk.trigger("a")
    assert desk.desk.ready
    desk.desk.trigger("b")
    assert not desk.desk.ready
    with pytest.raises(NotReady, match="2 parts are under way"):
        desk.desk.trigger("c")
    desk.inspected("a")
    assert desk.desk.ready
    assert (desk.desk.missed, desk.asked) == (1, ["a", "b"])
    desk.desk.close()


def test_a_part_under_way_a_camera_that_refuses_and_a_hindrance_are_missed_triggers() -> None:
    desk = Desk()
    desk.desk.trigger("a")
    with pytest.raises(NotReady, match="under way already"):
        desk.desk.trigger("a")
    desk.refuses = True
    with pytest.raises(NotReady, match="camera lost"):
        desk.desk.trigger("b")
    desk.refuses, desk.hindrance = False, "store full"
    with pytest.raises(NotReady, match="store full"):
        desk.desk.trigger("b")
    assert desk.desk.missed == 3
    assert desk.desk.busy == 1
    desk.desk.close()
    assert desk.told[0].reason is Reason.STATION_STOPPED
    with pytest.raises(NotReady, match="stops"):
        desk.desk.trigger("z")


@pytest.mark.parametrize("part", ["", "x" * 65, "a\nb", "\x1b[2J"])
def test_a_part_id_that_cannot_be_shown_is_refused(part: str) -> None:
    desk = Desk()
    with pytest.raises(CallError, match="printable"):
        desk.desk.trigger(part)
    desk.desk.close()


def test_an_earlier_part_of_the_same_name_does_not_answer_the_later_one() -> None:
    desk = Desk(deadline=0.05)
    before = time.time()
    desk.desk.trigger("a")
    time.sleep(0.2)
    desk.desk.trigger("a")
    desk.inspected("a", Verdict.PASS, before)
    assert len(desk.told) == 1
    desk.inspected("a", Verdict.PASS)
    assert [answer.verdict for answer in desk.told] == [Verdict.REJECT, Verdict.PASS]
    desk.desk.close()


@hypothesis_settings(max_examples=cases(40))
@given(st.permutations(range(8)), st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7)))
def test_whatever_comes_in_whatever_order_each_part_is_answered_once_and_in_order(
    order: list[int], dropped: set[int], twice: set[int]
) -> None:
    desk = Desk(queue=8)
    names = [desk.desk.trigger() for _ in range(8)]

    def judge(k: int) -> None:
        for _ in range(2 if k in twice else 1):
            if k in dropped:
                desk.desk.dropped(Dropped("top", str(k), time.time(), Reason.STOPPED, "gone", names[k]))
            else:
                desk.inspected(names[k])

    threads = [threading.Thread(target=lambda part=part: [judge(k) for k in part]) for part in (order[:4], order[4:])]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert desk.parts == names
    desk.desk.close()
    assert desk.parts == names


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
    monkeypatch.setattr(part_desk, "time", SimpleNamespace(monotonic=lambda: moment[0], time=time.time))
    desk = Desk(deadline=50.0, queue=8)
    for part in "abc":
        desk.desk.trigger(part)
    desk.inspected("b")  # in time, but held up by a
    moment[0] += 49.9
    desk.inspected("a")
    assert [(a.part, a.verdict) for a in desk.told] == [("a", Verdict.PASS), ("b", Verdict.PASS)]
    moment[0] += 0.2
    desk.inspected("c")
    assert (desk.told[2].verdict, desk.told[2].reason) == (Verdict.REJECT, Reason.NO_VERDICT)
    assert desk.kept[2].timings_ms[LATE] == pytest.approx(100.0, abs=0.01)
    for part in "de":
        desk.desk.trigger(part)
    desk.inspected("e")
    moment[0] += 51.0
    desk.inspected("d")
    assert [(a.part, a.verdict) for a in desk.told[3:]] == [("d", Verdict.REJECT), ("e", Verdict.REJECT)]
    desk.desk.close()
