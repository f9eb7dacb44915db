"""What any sink that delivers from the store can rely on: its thread, its position, its store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from broker import wait_for
from line_records import inspection

from dskd.runtime.sinks.delivery import Delivery, Target
from dskd.runtime.store import Record, Store, StoreError, StoreReader

Start = Callable[[Target], Delivery]


class Odd:
    """A target whose library raises what it likes."""

    kind = "odd"

    def __init__(self) -> None:
        self.closed = self.opened = 0
        self.fail = True
        self.got: list[int] = []

    def open(self) -> None:
        self.opened += 1

    def wants(self, record: Record) -> bool:
        return True

    def deliver(self, records: object, done: Callable[[Record], None]) -> None:
        for record in records:  # type: ignore[attr-defined]
            if self.fail and record.id == 2:
                raise ZeroDivisionError("inside")
            self.got.append(record.id)
            done(record)

    def check(self) -> None: ...

    def interrupt(self) -> None: ...

    def close(self) -> None:
        self.closed += 1


def test_whatever_a_library_raises_the_thread_outlives_it(store: Store, start: Start) -> None:
    target = Odd()
    delivery = start(target)
    store.add([inspection(k) for k in range(1, 4)])
    wait_for(lambda: target.opened > 3)
    told = ("fault", "ZeroDivisionError: inside", 2)  # between two attempts: each connects before it fails
    wait_for(lambda: ((s := delivery.status()).health, s.detail.partition(";")[0], s.behind) == told)
    target.fail = False
    wait_for(lambda: delivery.status().behind == 0)
    assert target.got == [1, 2, 3]
    assert delivery.stop()
    assert target.opened == target.closed


def test_a_store_that_is_locked_or_moved_stops_no_sink_for_good(store: Store, start: Start, tmp_path: Path) -> None:
    target = Odd()
    target.fail = False
    delivery = start(target)
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().behind == 0)
    for file in tmp_path.glob("line.db*"):
        file.rename(tmp_path / f"moved-{file.name}")
    for attempt in range(3):
        try:
            store.add([inspection(k) for k in range(5)])
            break
        except StoreError:
            assert attempt == 0
    wait_for(lambda: target.got == [1, 1, 2, 3, 4, 5])
    assert delivery.status().behind == 0


def test_positions_are_kept_for_the_next_start(store: Store, start: Start, tmp_path: Path) -> None:
    target = Odd()
    target.fail = False
    delivery = start(target)
    store.add([inspection(k) for k in range(1, 1001)])
    wait_for(lambda: delivery.status().behind == 0)
    assert delivery.stop()
    assert store.cursors() == {"hook": 1000}
    reader = StoreReader(store.path)
    assert reader.cursors() == {"hook": 1000}
    reader.close()
