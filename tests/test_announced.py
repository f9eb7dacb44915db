"""A trigger that was acknowledged leaves a trace, whenever the station is killed."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from station_files import rows, wait_for, write_station

from dskd.runtime.reason import Reason
from dskd.runtime.result import Announced, Answer, Verdict
from dskd.runtime.station import camera as camera_module
from dskd.runtime.station.load import load_station
from dskd.runtime.station.station import Station
from dskd.runtime.store import Store

CAMERA = {
    "source": "test://pattern?size=64x64&fps=50",
    "recipe": "good",
    "trigger": {"kind": "software", "deadline_ms": 60_000},
}


def part(number: int) -> Announced:
    return Announced("top", f"part {number}", 1_790_000_000.125 + number / 3)


def answer(number: int) -> Answer:
    announced = part(number)
    return Answer("top", announced.part, Verdict.PASS, Reason.INSPECTED, announced.triggered, announced.triggered + 1)


def test_a_part_is_announced_until_it_is_answered(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    ids = store.add([part(1), part(2), answer(1), part(3)])
    assert ids == [0, 0, 1, 0]
    assert store.newest_known == 1
    assert store.announced() == [part(2), part(3)]
    store.close()
    store = Store(tmp_path / "store.db")
    assert store.announced() == [part(2), part(3)]
    store.add([answer(3), part(2)])
    assert store.announced() == [part(2)]
    store.close()


def test_a_kill_with_parts_under_way_lists_them_as_not_inspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the data folder, taken when the last trigger is acknowledged, is what a kill at that moment leaves."""
    monkeypatch.setattr(camera_module.StationCamera, "next_frame", lambda camera: None)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    trigger = {**CAMERA["trigger"], "queue": 64}  # type: ignore[dict-item]
    file = write_station(first, cameras={"top": {**CAMERA, "trigger": trigger}})
    station = Station(load_station(file))
    station.start()
    try:
        wait_for(lambda: station.status().cameras[0].ready)
        acknowledged: list[str] = []
        threads = [
            threading.Thread(target=lambda name=f"p{k}": acknowledged.append(station.trigger("top", name)))
            for k in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not station.recorder.fault
        shutil.copytree(first, second, ignore=shutil.ignore_patterns(".lock"))
    finally:
        station.stop()
    assert len(acknowledged) == 10
    monkeypatch.undo()
    again = Station(load_station(second / "station.yaml"))
    again.start()
    try:
        told = again.store.after(0, 100)
    finally:
        again.stop()
    assert sorted(record.part or "" for record in told) == sorted(acknowledged)
    assert {(record.kind, record.verdict, record.reason) for record in told} == {
        ("answer", Verdict.REJECT, str(Reason.STATION_KILLED))
    }
    assert rows(second, "SELECT count(*) FROM announced") == [(0,)]
    assert rows(first, "SELECT count(*) FROM announced") == [(0,)], "a stop answers them"


def test_the_acknowledgement_waits_for_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_station(tmp_path, cameras={"top": CAMERA})
    station = Station(load_station(file))
    station.start()
    try:
        wait_for(lambda: station.status().cameras[0].ready)
        entered, may = threading.Event(), threading.Event()
        add = station.store.add

        def slow(*given: object) -> list[int]:
            entered.set()
            assert may.wait(20)
            return add(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(station.store, "add", slow)
        monkeypatch.setattr(camera_module, "ACKNOWLEDGE", 30.0)
        done = threading.Event()
        thread = threading.Thread(target=lambda: (station.trigger("top", "a"), done.set()))
        thread.start()
        assert entered.wait(20)
        assert not done.is_set()
        may.set()
        thread.join(20)
        assert done.is_set()
    finally:
        station.stop()
    assert rows(tmp_path, "SELECT part, verdict FROM answers") == [("a", "PASS")]
