"""A store is brought to the newest version of its tables from every earlier one, whole or not at all."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from line_records import inspection

from dskd.runtime.result import Verdict
from dskd.runtime.store import Store, StoreBroken, StoreReader, schema
from dskd.runtime.store.records import COLUMNS

OLD = ROOT / "tests/data/store-2.db"  # written by commit 86fd172
FRAMES = [f"f{k:06}" for k in range(1, 13)]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copy(OLD, tmp_path / "line.db"))


def version_of(path: Path) -> int:
    database = sqlite3.connect(path)
    try:
        return schema.number(database, "PRAGMA user_version")
    finally:
        database.close()


def store_of_version(path: Path, version: int) -> None:
    """A store as the program of that version made it, with the old store's records."""
    shutil.copy(OLD, path)
    database = sqlite3.connect(path, isolation_level=None)
    for step in schema.STEPS[: version - schema.FIRST]:
        step(database)
    database.execute(f"PRAGMA user_version={version}")
    database.close()


@pytest.mark.parametrize("version", range(schema.FIRST, schema.newest_version() + 1))
def test_a_store_of_each_version_is_whole_afterwards(tmp_path: Path, version: int) -> None:
    path = tmp_path / "line.db"
    store_of_version(path, version)
    store = Store(path)
    rows = store.after(0, 100)
    assert [row.id for row in rows] == list(range(1, 16))
    assert [row.frame for row in rows if row.kind == "inspection"] == FRAMES
    assert rows[2].verdict is Verdict.PASS
    assert (rows[13].part, rows[13].inspection) == ("p3", 3)
    assert store.cursors() == {"mes": 9}
    assert [row.id for row in store.scores("top", 5, "known defects")] == [3]
    assert store.recall("thresholds") == "{}"
    assert sum(count.number for count in store.counts(0, 2e9)) == 14
    assert [entry.action for entry in store.audit_log(9)] == ["set thresholds", "label"]
    assert store.add([inspection(99)]) == [16]
    assert store.after(15, 1)[0].frame == "f000099"
    store.close()
    assert version_of(path) == schema.newest_version()


def test_a_new_store_and_an_old_one_have_the_same_tables(old: Path, tmp_path: Path) -> None:
    Store(old).close()
    Store(tmp_path / "new.db").close()
    tables = []
    for path in (old, tmp_path / "new.db"):
        database = sqlite3.connect(path)
        tables.append(database.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall())
        database.close()
    assert tables[0] == tables[1]


def test_a_store_of_a_later_version_names_the_program_it_needs(tmp_path: Path) -> None:
    store = Store(tmp_path / "line.db")
    store.remember(schema.WRITTEN_BY, "7.2.0")
    store.close()
    later = schema.newest_version() + 1
    database = sqlite3.connect(store.path)
    database.execute(f"PRAGMA user_version={later}")
    database.close()
    before = store.path.read_bytes()
    for opened in (Store, StoreReader):
        with pytest.raises(StoreBroken, match=rf"needs dskd 7\.2\.0 or newer: its tables are of version {later}"):
            opened(store.path)
    assert store.path.read_bytes() == before


def test_a_reader_leaves_an_old_store_to_whoever_writes_it(old: Path) -> None:
    with pytest.raises(StoreBroken, match="earlier dskd; open it once"):
        StoreReader(old)
    assert version_of(old) == 2
    Store(old).close()
    StoreReader(old).close()


KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from dskd.runtime.store import Store, schema
moment = int(sys.argv[2])
class Dying:
    def __init__(self, database): self.database, self.left = database, moment
    def execute(self, *words):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return self.database.execute(*words)
def twice(database):
    database.execute("CREATE TABLE added (a)")
    database.execute("INSERT INTO added SELECT id FROM records")
prepared = schema.prepare
import dskd.runtime.store.file as file
file.prepare = lambda database, program: prepared(Dying(database), program)
schema.STEPS = (*schema.STEPS, twice)
Store(Path(sys.argv[1])).close()
print("whole")
"""


def test_killed_at_any_statement_the_old_store_is_usable(old: Path) -> None:
    statements = 0
    while True:
        words = [sys.executable, "-c", KILLED, str(old), str(statements)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert version_of(old) == 2
        database = sqlite3.connect(old)
        assert database.execute("SELECT count(*) FROM records").fetchone() == (15,)
        assert database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'added'").fetchone() == (0,)
        database.close()
        statements += 1
    assert statements > 8  # begin, two questions, four changes of two steps, version, note, commit
    assert version_of(old) == schema.newest_version() + 1


def test_a_record_changed_by_hand_is_taken_as_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path / "line.db")
    store.add([inspection(1, part="p1"), inspection(2, part="p2")])
    database = sqlite3.connect(store.path)
    database.execute("UPDATE records SET part = NULL WHERE id = 1")
    database.commit()
    assert database.execute("SELECT id, checksum < 0 FROM records").fetchall() == [(1, 1), (2, 0)]
    database.close()
    assert [row.part for row in store.after(0, 5)] == [None, "p2"]
    store.close()


def test_columns_of_records_are_those_of_the_tables(tmp_path: Path) -> None:
    Store(tmp_path / "line.db").close()
    database = sqlite3.connect(tmp_path / "line.db")
    found = [row[1] for row in database.execute("PRAGMA table_info(records)")]
    database.close()
    assert sorted(found) == sorted(["id", *COLUMNS, "checksum"])
