"""CSV delivered from the store into files that are cut, full, moved and another's."""

from __future__ import annotations

import csv
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from broker import wait_for
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from line_records import answer, dropped, inspection

from dskd.runtime.result import Verdict
from dskd.runtime.sinks.csv import COLUMNS, CsvConfig, CsvTarget, header_line, line, safe
from dskd.runtime.sinks.delivery import Delivery, DeliveryFailed, Target
from dskd.runtime.store import Record, Store, StoreReader

Start = Callable[[Target], Delivery]


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def csv_target(path: Path, **options: object) -> CsvTarget:
    return CsvTarget(CsvConfig.model_validate({"kind": "csv", "path": str(path), **options}))


def test_csv_has_a_line_per_record(store: Store, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "out" / "line.csv"
    delivery = start(csv_target(path, records=["inspection", "dropped", "answer"]))
    found = inspection(1, Verdict.REJECT, part="p1")
    store.add([found, dropped(2), answer(3, found), answer(4)])
    wait_for(lambda: delivery.status().behind == 0)
    header, *rows = rows_of(path)
    assert tuple(header) == COLUMNS
    assert rows[0] == [
        f"{store.identity}-1", "inspection", "2026-09-21T14:13:21.000+00:00", "top", "f000001", "p1", "REJECT", "0.01",
        "1.0", "1", "",
    ]  # fmt: skip
    assert rows[1][-1] == "blank: all black"
    assert [row[1] for row in rows] == ["inspection", "dropped", "answer", "answer"]


anything = st.none() | st.text(st.characters(), max_size=40)


@given(texts=st.lists(anything, min_size=4, max_size=4), score=st.none() | st.floats(allow_nan=False))
def test_any_record_is_one_line_of_all_columns_without_a_formula(texts: list[str | None], score: float | None) -> None:
    base = inspection(1)
    record = Record(
        id=1, key="abc-1", kind="inspection", source=texts[0] or "", frame=texts[1], captured=base.captured,
        part=texts[2], verdict=Verdict.PASS, score=score, threshold=1.0, regions=(), timings_ms={}, bundle="b",
        backend="cpu", reason=texts[3], triggered=None, answered=None, inspection=None,
    )  # fmt: skip
    text = line(record)
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    (row,) = csv.reader([text])
    assert len(row) == len(COLUMNS)
    assert [row[k] for k in (3, 4, 5, 10)] == [safe(text) for text in texts]
    for cell in (row[3], row[4], row[5], row[10]):
        for piece in cell.replace(",", ";").replace("|", ";").split(";"):
            assert not piece.strip().startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"), ("  =cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"), ("-2", "'-2"), ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'=1"), ("a;=1", "a;'=1"), ("plain - text", "plain - text"), ("a\nb", "a b"), ("", ""), (None, ""),
    ],
)  # fmt: skip
def test_formulas_are_disarmed(text: str | None, cell: str) -> None:
    assert safe(text) == cell


def test_a_cut_line_is_taken_away_and_nothing_comes_twice(store: Store, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "line.csv"
    delivery = start(csv_target(path))
    store.add([inspection(k) for k in range(1, 251)])
    wait_for(lambda: delivery.status().behind == 0)
    assert delivery.stop()
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])  # a power cut in the last line
    store.advance("hook", 40)  # and a cursor that was not synced
    again = start(csv_target(path))
    wait_for(lambda: again.status().behind == 0)
    assert path.read_bytes() == whole
    path.write_bytes(header_line().encode()[:9])  # cut in the header
    third = CsvTarget(CsvConfig(kind="csv", path=path))
    third.open()
    third.close()
    assert path.read_text() == header_line()


def test_a_full_file_is_turned_over_and_the_oldest_go(store: Store, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "line.csv"
    delivery = start(csv_target(path, max_mb=0.005, max_files=2))
    for k in range(0, 500, 50):
        store.add([inspection(number) for number in range(k, k + 50)])
        wait_for(lambda: delivery.status().behind == 0)
    full = sorted(tmp_path.glob("line-*.csv"))
    assert len(full) == 2
    frames = [row[4] for file in (*full, path) for row in rows_of(file)[1:]]
    assert frames == [f"f{k:06}" for k in range(500 - len(frames), 500)]


def test_only_full_files_of_its_own_go(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "line[1].csv"
    others = ["line[1]-Totals.csv", "line[1]-rejects-20261129T120000000000.csv", "line1-20261129T120000000000.csv"]
    for other in others:
        (tmp_path / other).write_text("mine")
    target = csv_target(path, max_mb=0.001, max_files=1)
    store.add([inspection(number) for number in range(100)])
    target.open()
    for record in StoreReader(tmp_path / "line.db").after(0, 100):
        target.deliver([record], lambda *_: None)
    target.close()
    assert [(tmp_path / other).read_text() for other in others] == ["mine"] * 3
    assert len(list(tmp_path.glob("line[[]1]-2*.csv"))) == 1


def test_what_stands_in_a_full_file_is_not_written_again(store: Store, tmp_path: Path) -> None:
    """Whoever delivers comes back with records that may be there already; also when a file was just turned over."""
    target = csv_target(tmp_path / "line.csv", max_mb=0.001)
    store.add([inspection(number) for number in range(30)])
    records = StoreReader(tmp_path / "line.db").after(0, 30)
    target.open()
    for _ in range(2):
        target.deliver(records, lambda *_: None)
    target.close()
    rows = [row for file in tmp_path.glob("line*.csv") for row in rows_of(file)[1:]]
    assert sorted(row[4] for row in rows) == [f"f{k:06}" for k in range(30)]


def test_anothers_file_is_never_touched(store: Store, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "precious.csv"
    path.write_text("name,phone\nann,1\n")
    delivery = start(csv_target(path))
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().health == "fault")
    assert "holds something else" in delivery.status().detail
    assert path.read_text() == "name,phone\nann,1\n"


def test_a_file_that_is_taken_away_is_begun_anew(store: Store, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "line.csv"
    delivery = start(csv_target(path))
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().behind == 0)
    path.rename(tmp_path / "mine.csv")
    wait_for(path.exists)
    store.add([inspection(2)])
    wait_for(lambda: delivery.status().behind == 0)
    assert [row[4] for row in rows_of(path)] == ["frame", "f000002"]


def test_a_full_disk_is_waited_out(store: Store, tmp_path: Path) -> None:
    """A limit on file size stands in for it: the line that did not fit whole is there once, whole."""
    path = tmp_path / "line.csv"
    target = csv_target(path)
    target.open()
    store.add([inspection(k) for k in range(1, 101)])
    records = store.after(0, 100)
    done: list[int] = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
        with pytest.raises(DeliveryFailed, match="cannot be written"):
            target.deliver(records, lambda record, refused="": done.append(record.id))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert done == []
    target.close()
    target.open()
    target.deliver(records, lambda record, refused="": done.append(record.id))
    target.close()
    assert done == list(range(1, 101))
    assert [row[4] for row in rows_of(path)[1:]] == [f"f{k:06}" for k in range(1, 101)]


WRITER = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from line_records import inspection
from dskd.runtime.sinks.delivery import Delivery
from dskd.runtime.sinks.csv import CsvConfig, CsvTarget
from dskd.runtime.store import Store
store = Store(Path(sys.argv[1]))
Delivery("csv", store, CsvTarget(CsvConfig(kind="csv", path=sys.argv[2]))).start()
number = store.newest()
while True:
    number += 1
    store.add([inspection(number)])
    print(number, flush=True)
"""


@pytest.mark.slow
def test_kills_at_any_moment_leave_a_whole_csv_without_gap(tmp_path: Path) -> None:
    store_path, path, rng, reported = tmp_path / "a.db", tmp_path / "a.csv", random.Random(6), 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store_path), str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        lines = process.communicate()[0].split("\n")
        reported = max([reported, *(int(text) for text in lines[:-1] if text)])
    store = Store(store_path)
    delivery = Delivery("csv", store, csv_target(path))
    delivery.start()
    wait_for(lambda: delivery.status().behind == 0)
    assert delivery.stop()
    frames = [row[4] for row in rows_of(path)[1:]]
    assert frames == [f"f{k:06}" for k in range(1, store.newest() + 1)]
    assert len(frames) >= reported
    store.close()
