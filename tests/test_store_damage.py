"""Whatever bytes of a store are damaged: its own error or right data; and the store is put right."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from budget import cases
from conftest import ROOT
from line_records import answer, dropped, inspection
from station_files import wait_for, write_station

from dskd.runtime.result import Verdict
from dskd.runtime.station import housekeeping
from dskd.runtime.station.control import PartStatus
from dskd.runtime.station.load import load_station
from dskd.runtime.station.station import Station
from dskd.runtime.store import Label, Store, StoreBroken, StoreDamaged, StoreError, StoreReader, repair, writable_file
from dskd.runtime.store.records import Record

COUNT = 120


def filled(path: Path, count: int = COUNT) -> list[Record]:
    """A store with records of all kinds; what it gives."""
    store = Store(path)
    store.cursor("mes")
    found = [inspection(k, list(Verdict)[k % 3], part=f"p{k}") for k in range(1, count + 1, 3)]
    store.add([record for k, one in enumerate(found) for record in (one, dropped(3 * k + 2), answer(3 * k + 3, one))])
    store.label(1, Label.GOOD, "ann")
    store.advance("mes", 60)
    rows = store.after(0, 10_000)
    store.close()
    return rows


def damage(path: Path, first: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(first)
        file.write(b"\xa5" * length)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    path = tmp_path_factory.mktemp("small") / "line.db"
    return path, filled(path)


@pytest.mark.budget
def test_a_flipped_byte_gives_right_data_or_the_stores_own_error(
    small: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    source, rows = small
    data, known, rng = source.read_bytes(), {row.id: row for row in rows}, random.Random(7)
    path, refused = tmp_path / "line.db", 0
    for number in range(cases(1200)):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 8))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        for leftover in tmp_path.iterdir():
            leftover.unlink()
        path.write_bytes(changed)
        refused += not ask_everything(Store if number % 5 == 0 else StoreReader, path, known)
    assert refused > 10


def ask_everything(kind: type[StoreReader], path: Path, known: dict[int, Record]) -> bool:
    """Whether the store answered all; what it answers of records must be what was written."""
    try:
        store = kind(path)
    except StoreError:
        return False
    try:
        for row in [*store.after(0, 1000), *store.latest(50)]:
            assert row.as_dict() == {**known[row.id].as_dict(), "key": row.key}
        store.newest(), store.counts(0, 2e9), store.totals(0, 2e9), store.sources(), store.cursors()
        store.scores("top", 50), store.scores("top", 5, "confirmed good"), store.audit_log(9), store.recall("store")
        if isinstance(store, Store):
            store.cursor("other")
            (number,) = store.add([inspection(999)])
            assert store.record(number).frame == "f000999"  # type: ignore[union-attr]
            store.check(threading.Event())
    except StoreError:
        return False
    finally:
        store.close()
    return True


def test_a_damaged_store_is_moved_aside_and_what_can_be_read_copied(tmp_path: Path) -> None:
    path = tmp_path / "line.db"
    rows = filled(path, 3000)
    middle = path.stat().st_size // 2
    damage(path, middle - middle % 4096, 3 * 4096)
    before = path.read_bytes()
    store = Store(path)
    found = {row.id: row for row in store.after(0, 10_000)}
    assert len(rows) - 200 < len(found) < len(rows)
    assert all(row == next(known for known in rows if known.id == number) for number, row in list(found.items())[:50])
    assert f"{len(found)} of" in store.repaired
    (aside,) = tmp_path.glob("line.db.damaged-*[0-9]")
    assert aside.read_bytes() == before
    assert aside.name in store.repaired
    assert store.cursors() == {"mes": 60}
    assert store.record(1).label == "confirmed good"  # type: ignore[union-attr]
    assert store.add([inspection(1)]) == [3001]
    assert store.identity == rows[0].key.rpartition("-")[0]
    assert [entry.action for entry in store.audit_log(1)] == ["store repaired"]
    store.check(threading.Event())
    store.close()
    again = Store(path)
    assert again.repaired == ""
    assert again.newest() == 3001
    again.close()


def test_damage_met_while_a_line_runs_is_put_right_by_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "line.db"
    filled(path)
    store = Store(path)
    store.cursor("mes")
    flip_in_record(path, 50)
    with pytest.raises(StoreDamaged, match="record 50 is not what was written"):
        store.after(0, 1000)
    assert store.add([inspection(1000)]) == [COUNT + 1]
    ids = [row.id for row in store.after(0, 1000)]
    assert ids == [k for k in range(1, COUNT + 2) if k != 50]
    assert f"{COUNT - 1} of {COUNT} records copied" in store.repaired
    store.advance("mes", 70)
    assert store.cursors() == {"mes": 70}
    store.close()


def flip_in_record(path: Path, number: int) -> None:
    """Changes a record behind the store's back, checksum and all the rest as they were."""
    database = sqlite3.connect(path)
    database.execute("DROP TRIGGER record_changed")
    database.execute("UPDATE records SET source = 'tpp' WHERE id = ?", (number,))
    database.commit()
    database.close()


def test_damage_that_comes_back_at_once_is_told_not_repaired_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "line.db"
    filled(path)
    store = Store(path)
    for again in range(2):
        flip_in_record(path, 50 + again)
        with pytest.raises(StoreDamaged):
            store.after(0, 1000)
        if again:
            with pytest.raises(StoreDamaged):
                store.add([inspection(1)])
        else:
            store.add([inspection(1)])
    assert len(list(tmp_path.glob("line.db.damaged-*[0-9]"))) == 1
    store.close()


def test_what_looks_damaged_for_a_moment_only_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "line.db"
    filled(path)
    store = Store(path)
    store._noticed(StoreDamaged("a reader thought so"))
    assert store.add([inspection(1)]) == [COUNT + 1]
    assert store.repaired == ""
    assert sorted(p.name for p in tmp_path.glob("line.db*") if "wal" not in p.name and "shm" not in p.name) == [
        "line.db"
    ]
    store.close()


def test_where_cursors_are_lost_sinks_begin_with_the_oldest_record(tmp_path: Path) -> None:
    path = tmp_path / "line.db"
    filled(path)
    database = sqlite3.connect(path)
    (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'cursors'").fetchone()
    database.close()
    damage(path, (page - 1) * 4096, 4096)
    store = Store(path)
    assert "damaged" in store.repaired
    assert store.cursor("mes") == 0
    store.close()
    again = Store(path)
    assert again.cursors() == {"mes": 0}
    assert again.cursor("a new one") == COUNT
    again.close()


def test_of_very_many_records_the_newest_and_what_sinks_still_need_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "line.db"
    filled(path)
    flip_in_record(path, 50)
    monkeypatch.setattr(repair, "MOST_COPIED", 30)
    for position, oldest in ((COUNT, COUNT - 29), (60, 61)):
        again = Path(shutil.copy(path, tmp_path / f"{position}.db"))
        database = sqlite3.connect(again)
        database.execute("UPDATE cursors SET position = ?", (position,))
        database.commit()
        database.close()
        store = Store(again)
        store._noticed(StoreDamaged("record 50"))
        store.add([inspection(1)])
        assert store.after(0, 1)[0].id == oldest
        assert f"{COUNT + 1 - oldest} of {COUNT} records copied" in store.repaired
        store.close()


@pytest.mark.parametrize("own", [False, True])
def test_a_file_that_is_no_store_any_more(tmp_path: Path, own: bool) -> None:
    """Without our mark it may be anybody's; in a station's data folder it is the store, whatever became of it."""
    path = tmp_path / "store.db"
    path.write_bytes(b"\0" * 8192)
    if not own:
        with pytest.raises(StoreBroken):
            Store(path)
        assert path.read_bytes() == b"\0" * 8192
        return
    store = Store(path, own=True)
    assert store.add([inspection(1)]) == [1]
    assert "0 of 0 records" in store.repaired
    store.close()


def test_another_programs_database_is_never_moved(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE theirs (a)")
    database.close()
    with pytest.raises(StoreBroken, match="another program's tables"):
        Store(path, own=True)


def test_a_deleted_folder_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "data/line.db")
    store.add([inspection(1)])
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(StoreBroken, match="moved or deleted"):
        store.add([inspection(2)])
    assert store.add([inspection(2)]) == [1]
    assert (tmp_path / "data/line.db").is_file()
    store.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from dskd.runtime.store import Store, repair
left = [int(sys.argv[2])]
def dying(name):
    real = getattr(os, name)
    def call(*words, **more):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return real(*words, **more)
    setattr(os, name, call)
for name in ("rename", "unlink"):
    dying(name)
store = Store(Path(sys.argv[1]))
print(len(store.after(0, 10_000)), store.cursors())
store.close()
"""


def test_killed_in_the_middle_of_a_repair_nothing_that_could_be_read_is_lost(tmp_path: Path) -> None:
    rows = filled(tmp_path / "line.db", 600)
    middle = (tmp_path / "line.db").stat().st_size // 2
    damage(tmp_path / "line.db", middle - middle % 4096, 4096)
    whole = 0
    for moment in range(12):
        folder = tmp_path / f"killed-{moment}"
        folder.mkdir()
        path = Path(shutil.copy(tmp_path / "line.db", folder / "line.db"))
        words = [sys.executable, "-c", KILLED, str(path)]
        done = subprocess.run([*words, str(moment)], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        store = Store(path)
        found = len(store.after(0, 10_000))
        assert len(rows) - 60 < found <= len(rows)
        whole = whole or found
        assert found == whole
        assert store.cursors() == {"mes": 60}
        store.close()
    assert moment > 1
    assert done.stdout.split()[0] == str(whole)


def test_a_start_does_not_wait_for_a_look_through_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "line.db")
    looked: list[float] = []
    monkeypatch.setattr(writable_file, "quick_check", lambda database, stopping, seconds: looked.append(seconds))
    Store(tmp_path / "line.db").close()
    assert looked == [writable_file.START_CHECK]


def store_of(station: Station) -> PartStatus:
    return next(part for part in station.status().parts if part.kind == "store")


def test_a_station_starts_with_a_damaged_store_and_says_so(tmp_path: Path) -> None:
    file = write_station(tmp_path)
    (tmp_path / "data").mkdir()
    filled(tmp_path / "data/store.db")
    damage(tmp_path / "data/store.db", 0, 16)  # no SQLite file any more
    station = Station(load_station(file))
    station.start()
    try:
        wait_for(lambda: station.store.newest_known > 0)
        assert store_of(station).health == "warning"
        assert "was damaged" in store_of(station).detail
        assert station.status().health == "warning"
    finally:
        station.stop()
    assert len(list((tmp_path / "data").glob("store.db.damaged-*[0-9]"))) == 1


def test_a_station_finds_damage_while_it_runs_and_outlives_its_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "FIRST_CHECK", 0.1)
    file = write_station(tmp_path)
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/store.db"
    filled(path)
    flip_in_record(path, 50)
    station = Station(load_station(file))
    station.start()
    try:
        assert store_of(station).health == "ok"  # a start does not read every record
        wait_for(lambda: store_of(station).health == "warning")
        assert station.store.record(49) is not None
        assert station.store.record(50) is None
        before = station.store.newest_known
        wait_for(lambda: station.store.newest_known > before)
        shutil.rmtree(tmp_path / "data")
        wait_for(path.exists)
        wait_for(lambda: store_of(station).health == "warning" and not station.recorder.spooled)
        assert station.store.newest() > 0
    finally:
        station.stop()


@pytest.mark.parametrize("gone", [("-wal",), ("-shm",), ("-wal", "-shm")])
def test_a_log_that_is_taken_away_from_an_open_store_costs_nothing(tmp_path: Path, gone: tuple[str, ...]) -> None:
    """SQLite would go on writing into the file that has no name any more: all of it lost at a kill, and nobody could read."""
    path, away = tmp_path / "store.db", tmp_path / "away"
    away.mkdir()
    store = Store(path)
    store.add([inspection(1)])
    assert len(store.after(0, 10)) == 1
    for end in gone:
        Path(f"{path}{end}").rename(away / f"log{end}")
    with suppress(StoreError):
        store.add([inspection(2)])
    store.add([inspection(3)])
    before = len(store.after(0, 10))
    assert before >= 2
    for end in ("", "-wal"):  # what a kill at this moment leaves
        if Path(f"{path}{end}").exists():
            shutil.copy(f"{path}{end}", tmp_path / f"killed.db{end}")
    killed = Store(tmp_path / "killed.db")
    assert [record.frame for record in killed.after(0, 10)] == [record.frame for record in store.after(0, 10)]
    killed.close()
    store.close()


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("gone", [("-wal", "-shm"), ("-wal",), ("",), ("", "-wal", "-shm")])
def test_a_file_that_is_taken_away_while_the_store_opens_is_missed(
    tmp_path: Path, gone: tuple[str, ...], others: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, in the moment between SQLite's opening and our first look: a chaos run met it.

    ``others``: a reader has made another log by then, so that all seems to be in its place.
    """
    path, away = tmp_path / "store.db", tmp_path / "away"
    away.mkdir()

    def check_and_take(*words: object) -> None:
        quick_check(*words)  # type: ignore[arg-type]
        monkeypatch.undo()
        for end in gone:
            Path(f"{path}{end}").rename(away / f"log{end}")
            if others and end:
                Path(f"{path}{end}").touch()

    store = Store(path)
    store.add([inspection(1)])
    quick_check = writable_file.quick_check
    monkeypatch.setattr(writable_file, "quick_check", check_and_take)
    path.rename(away / "store.db")  # so the next one begins a new store
    for number in (2, 3, 4, 5):
        with suppress(StoreError):
            store.add([inspection(number)])
    store.add([inspection(6)])
    fresh = StoreReader(path)
    frames = [record.frame for record in fresh.after(0, 10)]
    assert inspection(6).frame in frames
    assert frames == [record.frame for record in store.after(0, 10)]
    fresh.close()
    store.close()


def test_who_reads_while_the_log_is_taken_away_holds_nothing_up(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store(path)
    store.add([inspection(k) for k in range(50)])
    over, asked, answers = threading.Event(), threading.Event(), list[int]()

    def look() -> None:
        while not over.is_set():
            with suppress(StoreError):
                answers.append(len(store.after(0, 1000)))
                asked.set()

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for number in range(50, 70):
            assert asked.wait(20)
            asked.clear()
            for end in ("-wal", "-shm"):
                Path(f"{path}{end}").unlink(missing_ok=True)
            for _ in range(50):
                try:
                    store.add([inspection(number)])
                    break
                except StoreError:
                    continue
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert len(store.after(0, 1000)) == 70
    store.close()
