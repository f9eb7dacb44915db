"""The archive says what was kept and what was not, whatever a kill, a full queue or a full disk took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from line_records import frame_of, inspection

from dskd.runtime.result import Inspection, Verdict
from dskd.runtime.sinks.archive import Archive, ArchiveConfig
from dskd.runtime.sinks.archive_account import NAME, ArchiveAccount
from dskd.runtime.store import Store


def opened(folder: Path, **options: object) -> Archive:
    config = {"kind": "archive", "keep": "all", "min_free_gb": 0, "overlay": False, "heat": False, **options}
    return Archive(ArchiveConfig.model_validate(config), folder)


def keep(archive: Archive, *found: Inspection) -> None:
    archive.write([(frame_of(one), one) for one in found])


def listed(folder: Path) -> list[int]:
    file = folder / NAME
    return [json.loads(line)["id"] for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.db")


def test_what_a_kill_took_is_listed_once_at_the_next_start(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    before = opened(folder)
    ArchiveAccount("archive", before, store).whole()
    found = [inspection(k) for k in range(4)]
    store.add(found)
    keep(before, found[0], found[2], found[3])
    half = before.details(store.after(2, 1)[0])
    assert half is not None
    half.unlink()  # killed before the JSON, which is written last

    after = opened(folder)
    ArchiveAccount("archive", after, store).whole()
    assert listed(folder) == [2, 3]
    assert not list(folder.rglob("*f000002*")), "what was not written to its end is removed"
    after.write([])
    assert after.summary() == "2 inspections kept; 2 were not (not_kept.jsonl)"
    again = opened(folder)
    ArchiveAccount("archive", again, store).whole()
    assert (listed(folder), again.not_kept) == ([2, 3], 2)


def test_only_what_the_rule_keeps_for_certain_is_missed(store: Store, tmp_path: Path) -> None:
    archive = opened(tmp_path / "archive", keep="rejects and 1 in 2 passes")
    account = ArchiveAccount("archive", archive, store)
    store.add([inspection(1), inspection(2, Verdict.REVIEW), inspection(3, Verdict.REJECT)])
    account.whole()
    assert listed(tmp_path / "archive") == [2, 3]


def test_what_was_deleted_to_make_room_is_no_loss(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    archive = opened(folder, max_count=2)
    account = ArchiveAccount("archive", archive, store)
    found = [inspection(k) for k in range(6)]
    store.add(found)
    keep(archive, *found[:3], *found[4:])
    account.whole()
    assert (listed(folder), archive.not_kept) == ([], 0), "the fourth would have gone before the fifth"
    store.add([inspection(6)])
    account.whole()
    assert listed(folder) == [7]


def test_while_the_station_runs_only_what_is_over_is_looked_for(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    account = ArchiveAccount("archive", opened(folder), store)
    store.add([inspection(1)])
    account.settle(waiting=0)
    assert listed(folder) == [], "it may be on its way"
    account.settle(waiting=1)
    assert listed(folder) == []
    account.settle(waiting=0)
    assert listed(folder) == [1]


def test_a_note_that_says_nothing_begins_at_what_is_there(store: Store, tmp_path: Path) -> None:
    store.add([inspection(1)])
    store.remember("archive archive", "[]")
    account = ArchiveAccount("archive", opened(tmp_path / "archive"), store)
    account.whole()
    assert listed(tmp_path / "archive") == []


def test_a_list_that_is_full_is_turned_over(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dskd.runtime.sinks.archive_account.LARGEST", 10)
    folder = tmp_path / "archive"
    account = ArchiveAccount("archive", opened(folder), store)
    for number in range(3):
        store.add([inspection(number)])
        account.whole()
    assert listed(folder) == [3]
    assert json.loads((folder / "not_kept.old.jsonl").read_text())["id"] == 2
