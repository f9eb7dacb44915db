"""The archive: whole pictures, found by record, kept as long as there is room, never waited for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from broker import wait_for
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from line_records import frame_of, inspection
from pydantic import ValidationError

from dskd.runtime.inspection.overlay import heat_layer
from dskd.runtime.result import Found, Frame, Inspection, Verdict
from dskd.runtime.sinks import archive as module
from dskd.runtime.sinks.archive import Archive, ArchiveConfig
from dskd.runtime.sinks.queued import MOST_WAITING, Queued
from dskd.runtime.store import Store
from dskd.runtime.web.archive import Archive as Pictures

NOW = 1_790_000_000.0
HOUR = 3600.0


def opened(folder: Path, **options: object) -> Queued:
    """An archive as a station runs it."""
    config = ArchiveConfig.model_validate({"kind": "archive", "keep": "all", "min_free_gb": 0, **options})
    return Queued("archive", "archive", Archive(config, folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def keep(archive: Queued, *found: Inspection) -> None:
    before = archive.status().delivered
    for one in found:
        assert archive.offer((frame_of(one), one))
    wait_for(lambda: archive.status().delivered == before + len(found))


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def running(folder: Path) -> Iterator[Queued]:
    archive = opened(folder)
    archive.start()
    yield archive
    assert archive.stop()


def test_the_page_is_told_where_the_part_was_found(running: Queued, tmp_path: Path) -> None:
    where = Found(((1.0, 2.0), (9.0, 2.5), (8.5, 7.0), (0.5, 6.5)), 3.5, 0.97)
    found, plain = replace(inspection(7, Verdict.REJECT), found=where), inspection(8, Verdict.REJECT)
    keep(running, found, plain)
    store = Store(tmp_path / "line.db")
    store.add([found, plain])
    first, other = store.after(0, 2)
    assert Pictures(running.sink).layers(first)["found"] == {
        "corners": list(where.corners),
        "angle": 3.5,
        "likeness": 0.97,
    }
    assert "found" not in Pictures(running.sink).layers(other)
    assert running.sink.details(first) is not None
    (running.sink.details(first) or tmp_path).write_text('{"found": {"corners": [[1, 2]], "angle": 0, "likeness": 1}}')
    assert "found" not in Pictures(running.sink).layers(first)


def test_an_inspection_is_kept_whole_and_found_by_its_record(running: Queued, folder: Path, tmp_path: Path) -> None:
    found = inspection(7, Verdict.REJECT, captured=NOW + 0.123456)
    heat = np.zeros((8, 8), np.float32)
    heat[2, 3] = found.threshold
    object.__setattr__(found, "anomaly_map", heat)
    frame = frame_of(found)
    object.__setattr__(found, "covers", (4, 4, 16, 16))
    assert running.offer((frame, found))
    wait_for(lambda: running.status().delivered == 1)
    stem = "2026-09-21/14/141320.123456-top-f000007-REJECT"
    assert names(folder) == [f"{stem}.heat.png", f"{stem}.json", f"{stem}.overlay.jpg", f"{stem}.png"]
    assert np.array_equal(cv2.imread(str(folder / f"{stem}.png")), frame.image)
    told = json.loads((folder / f"{stem}.json").read_text())
    assert told == {**found.as_dict(), "crop": [4, 4, 16, 16]}
    store = Store(tmp_path / "line.db")
    store.add([found, inspection(8)])
    kept, other = store.after(0, 2)
    assert running.sink.original(kept) == folder / f"{stem}.png"
    assert running.sink.overlay(kept) == folder / f"{stem}.overlay.jpg"
    assert running.sink.heat(kept) == folder / f"{stem}.heat.png"
    assert running.sink.details(kept) == folder / f"{stem}.json"
    layer = cv2.imread(str(running.sink.heat(kept)), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(layer, heat_layer(heat, found.threshold))
    assert np.argwhere(layer[..., 3]).tolist() == [[2, 3]]  # clear but for where something is
    assert running.sink.original(other) is None
    store.close()
    assert running.status().health == "ok"


def test_the_map_itself_is_kept_where_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    archive = opened(folder, map=True, overlay=False, heat=False, max_count=1)
    archive.start()
    values = np.random.default_rng(0).random((8, 12), np.float32) * 3
    first, found = (replace(inspection(number, Verdict.REJECT), anomaly_map=values) for number in (1, 2))
    keep(archive, first)
    keep(archive, found)
    assert [name.split(".", 2)[-1] for name in names(folder)] == [
        "json",
        "map.npy",
        "png",
    ]  # the first made room, whole
    store = Store(tmp_path / "line.db")
    store.add([found])
    (record,) = store.after(0, 1)
    path = archive.sink.anomaly_map(record)
    assert path is not None
    read = np.load(path, allow_pickle=False)
    assert read.dtype == np.float32
    assert np.array_equal(read, values)
    assert Pictures(archive.sink).anomaly_map(record) == path.read_bytes()
    path.unlink()
    assert Pictures(archive.sink).anomaly_map(record) is None
    store.close()
    assert archive.stop()


def test_jpeg_alone(folder: Path) -> None:
    archive = opened(folder, original="jpeg", overlay=False, heat=False)
    archive.start()
    keep(archive, inspection(1))
    assert [name.split(".", 2)[-1] for name in names(folder)] == ["jpg", "json"]
    assert archive.stop()


@given(source=st.text(max_size=300), frame=st.text(max_size=300), captured=st.floats(0, 4e9))
def test_no_name_leads_out_of_the_folder_or_is_too_long(source: str, frame: str, captured: float) -> None:
    folder = Path("/archive")
    stem = module._stem(folder, source, frame, captured, Verdict.PASS)
    assert stem.parent.parent.parent == folder
    assert len(os.fsencode(stem.name)) < 200
    assert ".." not in stem.relative_to(folder).parts
    assert "\0" not in str(stem)


@pytest.mark.parametrize(
    ("rule", "share"), [("all", 1.0), ("rejects", 0.0), ("rejects and 1 in 4 passes", 0.25)], ids=str
)
def test_what_is_wanted(rule: str, share: float, folder: Path) -> None:
    archive = opened(folder, keep=rule).sink
    assert archive.wants((None, inspection(1, Verdict.REJECT)))
    assert archive.wants((None, inspection(1, Verdict.REVIEW)))
    chosen = sum(archive.wants((None, inspection(1, Verdict.PASS))) for _ in range(4000))
    assert abs(chosen / 4000 - share) < 0.04  # five standard deviations


@pytest.mark.parametrize(
    "options",
    [
        {"keep": "everything"}, {"keep": "rejects and 1 in 0 passes"}, {"keep": "all\n"}, {"max_count": 0},
        {"max_age_days": -1}, {"quality": 1}, {"folder": 3}, {"original": "bmp"},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_configuration_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ArchiveConfig.model_validate({"kind": "archive", **options})


# ------------------------------------------------------------------------------------------------------------ retention


def test_the_oldest_go_by_count_also_after_a_restart(folder: Path) -> None:
    archive = opened(folder, max_count=5)
    archive.start()
    keep(archive, *(inspection(k, captured=NOW + k * HOUR / 2) for k in range(12)))
    assert archive.stop()
    assert sorted({name.split("-")[-2] for name in names(folder)}) == [f"f{k:06}" for k in range(7, 12)]
    again = opened(folder, max_count=3)
    again.start()
    keep(again, inspection(12, captured=NOW + 6 * HOUR))
    assert again.stop()
    assert sorted({name.split("-")[-2] for name in names(folder)}) == [f"f{k:06}" for k in (10, 11, 12)]
    assert again.status().detail == "3 inspections kept"
    assert not (folder / "2026-09-21" / "14").exists()  # an empty hour goes


def test_the_old_go_by_age(folder: Path) -> None:
    archive = opened(folder, max_age_days=1)
    archive.start()
    now = time.time()
    keep(archive, *(inspection(k, captured=now - k * 12 * HOUR) for k in (9, 5, 3, 1)))
    keep(archive, inspection(0, captured=now))
    assert archive.stop()
    assert sorted({name.split("-")[-2] for name in names(folder)}) == ["f000000", "f000001"]


def test_the_oldest_go_for_free_space_and_nothing_else_is_touched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk says that it is full until ten pictures are left."""
    archive = opened(folder, min_free_gb=1)
    archive.start()
    keep(archive, *(inspection(k, captured=NOW + k * HOUR) for k in range(20)))
    (folder / "2026-09-21" / "14" / "note.txt").write_text("mine")
    (folder / "mine").mkdir()
    (folder / "mine" / "000.png").write_text("mine")

    class Usage:
        @property
        def free(self) -> int:
            return 0 if len(list(folder.rglob("*REJECT.json")) + list(folder.rglob("*PASS.json"))) > 10 else 1 << 40

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage())
    keep(archive, inspection(20, captured=NOW + 20 * HOUR))
    assert archive.stop()
    left = sorted({name.split("-")[-2] for name in names(folder) if "-PASS" in name})
    assert left == [f"f{k:06}" for k in range(10, 21)]
    assert (folder / "2026-09-21" / "14" / "note.txt").read_text() == "mine"
    assert (folder / "mine" / "000.png").read_text() == "mine"


def test_a_disk_without_room_drops_with_a_reason_and_goes_on_afterwards(folder: Path) -> None:
    archive = opened(folder, min_free_gb=1e9)
    archive.start()
    found = inspection(1)
    assert archive.offer((frame_of(found), found))
    wait_for(lambda: archive.status().refused == 1)
    assert archive.status().health == "warning"
    assert "GB free is under min_free_gb" in archive.status().detail
    assert names(folder) == []
    object.__setattr__(archive.sink, "_config", archive.sink._config.model_copy(update={"min_free_gb": 0.0}))
    keep(archive, found)
    assert archive.status().health == "ok"
    assert archive.stop()


FILL = """
import sys, time
sys.path.insert(0, "tests")
from pathlib import Path
from line_records import frame_of, inspection
from dskd.runtime.sinks.archive import Archive, ArchiveConfig
from dskd.runtime.sinks.queued import MOST_WAITING, Queued
def opened(folder):
    config = ArchiveConfig(kind="archive", keep="all", min_free_gb=0)
    return Queued("archive", "archive", Archive(config, folder))
folder = Path(sys.argv[1])
archive = opened(folder / "archive")
archive.start()
for k in range(60):
    found = inspection(k)
    archive.offer((frame_of(found, 256), found))
    while archive.status().behind:
        time.sleep(0.01)
status = archive.status()
archive.stop()
files = [path for path in folder.rglob("*") if path.is_file()]
print(status.health, status.delivered, status.refused, len([f for f in files if f.name.startswith(".")]))
assert status.delivered + status.refused == 60
assert len(list(folder.rglob("*.json"))) == status.delivered
print(status.last_error)
"""


def test_a_disk_that_is_really_full_is_told(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    mount = 'mount -t tmpfs -o size=4m none "$1" && shift && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", tmp_path / "small", sys.executable, "-c", FILL, tmp_path / "small"],
        capture_output=True, text=True, cwd=ROOT, timeout=100, check=False,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    health, delivered, refused, leftovers = done.stdout.splitlines()[0].split()
    assert (health, leftovers) == ("warning", "0")
    assert int(delivered) > 5
    assert int(refused) > 5
    assert "No space left" in done.stdout


# ------------------------------------------------------------------------------------------------------- never waited for


def test_a_slow_disk_costs_the_line_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    write = module.atomic.write_bytes
    monkeypatch.setattr(module.atomic, "write_bytes", lambda *a: (gate.wait(20), write(*a)))
    archive = opened(folder)
    archive.start()
    begun = time.monotonic()
    taken = sum(archive.offer((frame_of(one), one)) for one in map(inspection, range(200)))
    assert time.monotonic() - begun < 5
    assert taken == MOST_WAITING
    assert archive.status().refused == 200 - taken
    gate.set()
    assert archive.stop(30)
    assert archive.status().delivered == taken
    assert len([name for name in names(folder) if name.endswith(".json")]) == taken


def test_large_pictures_are_bounded_by_bytes(folder: Path) -> None:
    archive = opened(folder)  # not started: all wait
    found = inspection(1)
    large = Frame("top", "f", NOW, np.zeros((5000, 5000, 3), np.uint8))
    assert [archive.offer((large, found)) for _ in range(5)] == [True, True, True, False, False]


KILLED = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from line_records import frame_of, inspection
from dskd.runtime.sinks.archive import Archive, ArchiveConfig
from dskd.runtime.sinks.queued import MOST_WAITING, Queued
def opened(folder):
    config = ArchiveConfig(kind="archive", keep="all", min_free_gb=0)
    return Queued("archive", "archive", Archive(config, folder))
archive = opened(Path(sys.argv[1]))
archive.start()
print("runs", flush=True)
k = int(sys.argv[2])
while True:
    k += 1
    found = inspection(k)
    archive.offer((frame_of(found, 128), found))
    while archive.status().behind > 3:
        pass
"""


@pytest.mark.slow
def test_a_kill_leaves_whole_pictures_and_the_next_start_clears_up(folder: Path) -> None:
    for attempt in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder), str(attempt * 10_000)], stdout=subprocess.PIPE, cwd=ROOT
        )  # fmt: skip
        assert process.stdout
        process.stdout.readline()
        time.sleep(0.3 + attempt / 10)
        process.kill()
        process.communicate()
    for path in folder.rglob("*.json"):
        told = json.loads(path.read_text())
        picture = cv2.imread(str(path.with_suffix(".png")))
        assert picture is not None
        assert picture.shape == (128, 128, 3)
        assert told["frame"] in path.name
    again = opened(folder)
    again.start()
    keep(again, inspection(1))
    assert again.stop()
    assert not [name for name in names(folder) if Path(name).name.startswith(".")]
