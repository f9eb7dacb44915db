"""The store: what was added is there, in order and once, whoever locks, fills, moves or kills."""

from __future__ import annotations

import json
import math
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from budget import cases
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from line_records import answer, dropped, inspection

from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Verdict
from dskd.runtime.sinks.by_uri import open_sinks
from dskd.runtime.store import Label, Search, Store, StoreBroken, StoreLocked, StoreReader


def test_records_of_all_kinds_rise_under_one_id_and_come_back_whole(store: Store) -> None:
    found = inspection(3, Verdict.REJECT, part="p3")
    ids = store.add([inspection(1), dropped(2), found, answer(3, found), answer(4)])
    assert ids == [1, 2, 3, 4, 5]
    rows = store.after(0, 10)
    assert [row.kind for row in rows] == ["inspection", "dropped", "inspection", "answer", "answer"]
    told = rows[2].as_dict()
    assert {key: told[key] for key in found.as_dict()} == found.as_dict()
    assert rows[1].as_dict()["dropped"] == "blank: all black"
    assert (rows[3].inspection, rows[3].score, rows[3].verdict) == (3, found.score, Verdict.REJECT)
    assert (rows[4].inspection, rows[4].reason) == (None, "no verdict before the deadline")
    assert [row.key for row in rows] == [f"{store.identity}-{k}" for k in ids]
    assert [json.loads(row.as_json())["id"] for row in rows] == ids


def test_an_answer_finds_its_inspection_of_an_earlier_commit(store: Store) -> None:
    found = inspection(3, part="p3")
    store.add([inspection(1), found])
    store.add([answer(3, found)])
    assert store.after(2, 1)[0].inspection == 2


def test_views_have_the_columns_that_other_programs_know(store: Store) -> None:
    store.add([inspection(1), dropped(2)])
    database = sqlite3.connect(store.path)
    names = [row[1] for row in database.execute("PRAGMA table_info(inspections)")]
    assert names[:11] == [
        "id", "source", "frame", "captured", "verdict", "score", "threshold", "regions", "timings_ms", "bundle", "backend",
    ]  # fmt: skip
    assert [row[1] for row in database.execute("PRAGMA table_info(dropped)")][:5] == [
        "id", "source", "frame", "captured", "reason",
    ]  # fmt: skip
    assert database.execute("SELECT count(*) FROM inspections").fetchone() == (1,)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=cases(60))
@given(
    texts=st.lists(st.text(st.characters(), max_size=30), min_size=4, max_size=4),
    captured=st.floats(),
)
def test_any_text_is_stored_and_never_stops_the_batch(store: Store, texts: list[str], captured: float) -> None:
    """File names and parts may hold anything, lone surrogates and NUL bytes too; clocks may be broken."""
    before = store.newest()
    source, frame, reason, part = texts
    found = inspection(1, source=source, part=part, captured=captured)
    store.add([Dropped(source, frame, captured, Reason.UNUSABLE, reason, part), found, dropped(1)])
    store.add([replace(answer(1, found), camera=source, part=part)])
    row, other, _, told = store.after(before, 10)
    assert row.captured == other.captured == (captured if math.isfinite(captured) else None)
    assert row.reason == (reason or "unusable").encode(errors="backslashreplace").decode()
    assert told.inspection == (other.id if math.isfinite(captured) else None)
    assert all(json.loads(one.as_json()) for one in (row, other, told))
    store.audit(source, frame, reason)


def test_the_sqlite_sink_writes_the_same_file(tmp_path: Path) -> None:
    (sink,) = open_sinks([f"sqlite://{tmp_path}/a.db"])
    sink.write([dropped(1)])
    sink.close()
    reader = StoreReader(tmp_path / "a.db")
    assert [row.frame for row in reader.after(0, 5)] == ["f000001"]
    reader.close()


# ------------------------------------------------------------------------------------------------------------ questions


def test_questions_of_the_page(store: Store) -> None:
    verdicts = [Verdict.PASS, Verdict.REVIEW, Verdict.REJECT]
    store.add([inspection(k, verdicts[k % 3], source="top" if k % 2 else "side", part=f"p{k}") for k in range(30)])
    store.add([dropped(31), answer(32)])
    assert [row.id for row in store.latest(3)] == [30, 29, 27]
    assert [row.id for row in store.latest(2, [Verdict.REJECT], source="top")] == [30, 24]
    assert [row.id for row in store.latest(2, before=27)] == [26, 24]
    assert store.sources() == ["side", "top"]
    assert store.totals(0, 2e9) == {"PASS": 10, "REVIEW": 10, "REJECT": 10, "dropped": 1, "fail-safe": 1}
    assert store.totals(0, 2e9, "side") == {"PASS": 5, "REVIEW": 5, "REJECT": 5}
    assert sum(count.number for count in store.counts(0, 2e9)) == 32
    assert store.counts(0, 1.0) == []
    assert [row.score for row in store.scores("top", 3)] == [0.29, 0.27, 0.25]
    assert [row.score for row in store.scores("top", 2, "passes", oldest=True)] == [0.03, 0.09]


def test_labels_are_kept_replaced_audited_and_give_confirmed_good_scores(store: Store) -> None:
    store.add([inspection(k, Verdict.REJECT) for k in range(4)])
    store.label(2, Label.DEFECT, "ann")
    store.label(2, Label.FALSE_ALARM, "bob")
    store.label(3, Label.GOOD, "bob")
    store.label(4, Label.DEFECT, "bob")
    assert [row.id for row in store.scores("top", 9, "confirmed good")] == [3, 2]
    assert store.latest(4)[2].label == "false alarm"
    assert [(entry.who, entry.detail) for entry in store.audit_log(2)] == [
        ("bob", "record 4: confirmed defect"), ("bob", "record 3: confirmed good"),
    ]  # fmt: skip
    assert [entry.id for entry in store.audit_log(5, before=3)] == [2, 1]


def test_a_label_names_a_kind_of_defect_and_is_taken_away(store: Store) -> None:
    store.add([inspection(k, Verdict.REJECT, part=f"p{k}") for k in range(4)])
    store.label(1, Label.DEFECT, "ann", "scratch", "left side")
    store.label(2, Label.DEFECT, "ann", "dent")
    store.label(3, Label.DEFECT, "ann", "dent")
    assert store.kinds_of_defect() == ["dent", "scratch"]
    found = store.record(1)
    assert found is not None
    assert (found.label, found.defect, found.note) == ("confirmed defect", "scratch", "left side")
    store.label(1, None, "bob")
    assert [row.id for row in store.scores("top", 9, "known defects")] == [3, 2]
    assert store.audit_log(1)[0].detail == "record 1: no label"


@pytest.mark.parametrize("order", ["newest", "oldest", "score"])
def test_pages_of_a_search_hold_each_inspection_once_in_its_order(store: Store, order: Any) -> None:
    everything = tuple(Verdict)
    scores = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    store.add([inspection(k, everything[k % 3], score=score / 9) for k, score in enumerate(scores)])
    ranks = {"newest": lambda k: -k, "oldest": lambda k: k, "score": lambda k: (-scores[k], -k)}
    expected = [k + 1 for k in sorted(range(len(scores)), key=ranks[order])]
    found: list[int] = []
    while page := store.search(Search(everything, order=order), 3, found[-1] if found else None):
        found += [record.id for record in page]
    assert found == expected


def test_inspections_are_found_by_part_time_score_and_label(store: Store) -> None:
    everything = tuple(Verdict)
    store.add([inspection(k, everything[k % 3], part=f"p{k}", score=k / 4) for k in range(8)])
    store.label(3, Label.GOOD, "ann")

    def ids(**asked: object) -> list[int]:
        return [row.id for row in store.search(Search(everything, **asked), 99)]  # type: ignore[arg-type]

    assert ids() == [8, 7, 6, 5, 4, 3, 2, 1]
    assert ids(part="p7") == [8]
    assert ids(part="f00000") == ids()
    assert ids(since=1_790_000_002.0, until=1_790_000_004.0) == [4, 3]
    assert ids(least=1.5, most=1.75) == [8, 7]
    assert ids(label="good") == ids(label="any") == [3]
    assert ids(label="defect") == []
    assert 3 not in ids(label="none")
    assert ids(part="%") == []


def test_old_records_go_only_when_told_and_once_every_sink_has_them(store: Store) -> None:
    assert (store.cursor("slow"), store.cursor("fast")) == (0, 0)
    store.add([inspection(k) for k in range(1200)])
    store.label(5, Label.GOOD, "ann")
    store.advance("fast", 1200)
    assert store.prune(keep=100) == 0
    store.advance("slow", 600)
    assert store.prune(keep=100) == 599
    store.forget_sink("slow")
    assert store.prune(before=1_790_000_000.0 + 700) == 100
    assert [row.id for row in store.after(0, 2)] == [5, 701]
    assert store.totals(0, 2e9) == {"PASS": 1200}
    assert store.prune(keep=0) == 500
    assert store.add([inspection(1)]) == [1201]  # an id is never used twice


def test_records_of_a_clock_that_was_ahead_hold_no_others(store: Store) -> None:
    ahead, now = 1_900_000_000.0, 1_790_000_000.0
    store.add([replace(inspection(k), captured=ahead + k) for k in range(150)])
    store.add([inspection(k) for k in range(150, 400)])
    store.add([replace(answer(k), answered=now + k) for k in range(400, 403)])
    assert store.prune(before=now + 401.5) == 250 + 2
    assert len(store.after(0, 500)) == 151
    assert store.prune(before=2 * ahead) == 151


def test_a_new_sink_starts_now_and_a_known_one_where_it_was(store: Store) -> None:
    store.add([inspection(1), inspection(2)])
    assert store.cursor("mes") == 2
    store.add([inspection(3)])
    assert store.cursor("mes") == 2
    store.advance("mes", 3)
    store.close()
    again = Store(store.path)
    assert again.cursors() == {"mes": 3}
    again.close()


def test_what_is_remembered_is_recalled(store: Store) -> None:
    assert store.recall("x") is None
    store.remember("x", "1")
    store.remember("x", "2")
    assert store.recall("x") == "2"


def test_readers_and_writers_do_not_disturb_each_other(store: Store) -> None:
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            rows = store.after(0, 10_000)
            if [row.id for row in rows] != list(range(1, len(rows) + 1)):
                wrong.append(len(rows))
            store.latest(5)

    def label() -> None:
        while not stop.is_set():
            store.audit("ann", "looked", "")
            time.sleep(0.01)

    threads = [threading.Thread(target=work) for work in (read, read, label)]
    for thread in threads:
        thread.start()
    for k in range(60):
        store.add([inspection(k), inspection(k)])
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert store.newest() == 120


# ------------------------------------------------------------------------------------------------------------- failures

HOLD = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
database.execute("ROLLBACK")
print("free", flush=True)
sys.stdin.readline()
"""


def test_a_lock_of_another_process_is_told_in_time_and_passes(store: Store) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin
    assert holder.stdout
    try:
        assert holder.stdout.readline() == "held\n"
        start = time.monotonic()
        with pytest.raises(StoreLocked, match="another program"):
            store.add([inspection(1)], patience=0.05)
        assert time.monotonic() - start < 2
        assert store.after(0, 5) == []  # readers are not held up
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "free\n"
        assert store.add([inspection(1)], patience=0.05) == [1]
    finally:
        holder.kill()
        holder.communicate()


def test_a_thread_that_writes_long_is_told_in_time(store: Store) -> None:
    with store._write_lock, pytest.raises(StoreLocked, match="another thread"):
        store.add([inspection(1)], patience=0.05)


def test_a_store_that_is_taken_away_is_noticed_and_begun_anew_for_all_sinks(store: Store, tmp_path: Path) -> None:
    store.cursor("mes")
    store.add([inspection(1)])
    before = store.identity
    for file in tmp_path.glob("line.db*"):
        file.rename(tmp_path / f"moved-{file.name}")
    with pytest.raises(StoreBroken, match="moved"):
        store.add([inspection(2)])
    assert store.add([inspection(2)]) == [1]
    assert store.identity != before
    assert [row.frame for row in store.after(0, 5)] == ["f000002"]
    assert store.cursor("mes") == 0


def test_a_reader_refuses_a_damaged_store_and_leaves_it(store: Store) -> None:
    store.add([inspection(k) for k in range(500)])
    store.close()
    data = bytearray(store.path.read_bytes())
    data[4096:40960] = b"\xff" * (40960 - 4096)
    store.path.write_bytes(data)
    with pytest.raises(StoreBroken):
        StoreReader(store.path).after(0, 1000)
    assert store.path.read_bytes() == data


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    with pytest.raises(StoreBroken, match="closed"):
        store.add([inspection(1)])
    with pytest.raises(StoreBroken, match="closed"):
        store.after(0, 1)


FILL = """
import os, sys
from pathlib import Path
sys.path.insert(0, "tests")
from line_records import inspection
from dskd.runtime.store import Store, StoreFull
folder = Path(sys.argv[1])
store = Store(folder / "a.db")
ballast = folder / "ballast"
ballast.write_bytes(b"x" * 300_000)
kept = 0
try:
    for k in range(100_000):
        store.add([inspection(kept, regions=50)])
        kept += 1
except StoreFull as error:
    print(error)
for _ in range(5):
    try:
        store.add([inspection(kept, regions=50)])
        kept += 1
    except StoreFull:
        pass
ballast.unlink()
store.add([inspection(kept, regions=50)])
kept += 1
frames = [row.frame for row in store.after(0, 100_000)]
assert frames == [f"f{k:06}" for k in range(kept)], (kept, len(frames))
store.close()
print("whole", kept)
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare is not installed: no small file system can be made")
def test_a_full_disk_is_told_as_full_loses_nothing_and_passes(tmp_path: Path) -> None:
    """On a file system of two megabytes: everything that was added is there, nothing else, and it goes on afterwards."""
    (tmp_path / "small").mkdir()
    mount = 'mount -t tmpfs -o size=2m none "$1" && shift && exec "$@"'
    tried = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", tmp_path / "small", sys.executable, "-c", FILL, tmp_path / "small"],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    if "unshare" in tried.stderr or "mount:" in tried.stderr:
        pytest.skip(f"no small file system can be mounted here: {tried.stderr.strip()}")
    assert tried.returncode == 0, tried.stderr
    full, whole = tried.stdout.splitlines()
    assert "the disk is full; delete something" in full
    assert int(whole.split()[1]) > 50


REPORT = """
import os, sys
sys.path.insert(0, "tests")
from line_records import answer, dropped, inspection
from pathlib import Path
from dskd.runtime.store import Store
store = Store(Path(sys.argv[1]))
k = store.newest()
while True:
    found = inspection(k)
    ids = store.add([found, dropped(k), answer(k, found)])
    os.write(1, f"{ids[0]} {ids[-1]}\\n".encode())
    k += 1
"""


@pytest.mark.slow
def test_nothing_reported_is_missing_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    """Twenty kills of the same store: what was reported is there, ids have no gap, and counts fit the records."""
    path, rng, reported = tmp_path / "a.db", random.Random(4), 0
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", REPORT, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        rest = process.stdout.read().decode().split("\n")
        process.wait()
        process.stdout.close()
        told = [int(line.split()[1]) for line in rest[:-1] if line]
        reported = max([reported, *told])
        database = sqlite3.connect(path)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        ids = [row[0] for row in database.execute("SELECT id FROM records ORDER BY id")]
        counted = dict(database.execute("SELECT outcome, sum(number) FROM quarters GROUP BY outcome"))
        database.close()
        assert ids == list(range(1, len(ids) + 1))
        assert len(ids) >= reported
        assert len(ids) % 3 == 0  # a commit is whole
        assert counted == {"PASS": len(ids) // 3, "dropped": len(ids) // 3}
