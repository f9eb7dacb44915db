"""A station whose clock jumps keeps its records, says so, and goes on when a person accepts it."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
from station_files import wait_for, write_station

from dskd.runtime.errors import DskdError
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped
from dskd.runtime.station import housekeeping
from dskd.runtime.station import station as module
from dskd.runtime.station.control import PartStatus
from dskd.runtime.station.load import load_station
from dskd.runtime.station.station import Station
from dskd.runtime.store import Store
from dskd.runtime.wall_clock import DAY, WallClock


def clock_of(station: Station) -> PartStatus:
    return next(part for part in station.status().parts if part.kind == "clock")


@pytest.mark.parametrize("jump", [400 * DAY, 31 * DAY, -20 * 365 * DAY])
def test_records_outlive_a_clock_that_jumped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    ahead = [0.0]
    monkeypatch.setattr(module, "WallClock", partial(WallClock, wall=lambda: time.time() + ahead[0]))
    monkeypatch.setattr(housekeeping, "EVERY", 0.05)
    file = write_station(
        tmp_path, store={"max_age_days": 30}, cameras={"top": {"source": "watch://in", "recipe": "good"}}
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "data").mkdir()
    store = Store(tmp_path / "data" / "store.db")
    store.add(
        [Dropped("top", "old", time.time() - 29 * DAY, Reason.BLACK), Dropped("top", "new", time.time(), Reason.BLACK)]
    )
    store.close()
    for attempt in range(2):  # while it runs, and at a start
        station = Station(load_station(file))
        station.start()
        try:
            if attempt == 0:
                assert clock_of(station).health == "ok"
            ahead[0] = jump
            assert clock_of(station).health == "warning"
            assert "--accept-clock" in clock_of(station).detail
            looks = [0]
            prune = station.store.prune

            def counted(*limits: object, looks: list[int] = looks, prune: object = prune) -> int:
                looks[0] += 1
                return prune(*limits)  # type: ignore[operator, no-any-return]

            monkeypatch.setattr(station.store, "prune", counted)
            wait_for(lambda looks=looks: looks[0] >= 2)
            assert [record.frame for record in station.store.after(0, 10)] == ["old", "new"]
            if attempt == 1 and jump < 0:
                with pytest.raises(DskdError, match="set it first"):
                    station.accept_clock("Ada")
            elif attempt == 1:
                station.accept_clock("Ada")
                assert clock_of(station).health == "ok"
                assert station.store.audit_log(1)[0].action == "clock"
        finally:
            station.stop()


@pytest.mark.parametrize("lost", [("store.db", "store.db-wal", "store.db-shm"), ("clock.json",)])
def test_neither_a_lost_store_nor_a_lost_file_takes_the_clock_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: tuple[str, ...]
) -> None:
    ahead = [0.0]
    monkeypatch.setattr(module, "WallClock", partial(WallClock, wall=lambda: time.time() + ahead[0]))
    file = write_station(tmp_path, cameras={"top": {"source": "watch://in", "recipe": "good"}})
    (tmp_path / "in").mkdir()
    healths = []
    for jump in (0.0, 3600.0):
        ahead[0] = jump
        station = Station(load_station(file))
        station.start()
        healths.append(clock_of(station).health)
        station.stop()
        for name in lost:
            (tmp_path / "data" / name).unlink(missing_ok=True)
    assert healths == ["ok", "warning"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"boot": "", "spans": [], "latest": NaN}', b"[" * 100_000])
def test_a_file_of_the_clock_that_means_nothing_is_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clock.json").write_bytes(content)
    store = Store(tmp_path / "store.db")
    clock = WallClock(housekeeping.kept_clock(store, tmp_path))
    assert clock.doubt() == ""
    assert clock.safe_now() is not None
    store.close()
