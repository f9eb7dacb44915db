"""A folder that another program fills: every whole file once, in order, across restarts; no half-written one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import pytest
from capture_threads import running
from conftest import ROOT

from dskd.benchmarks.rtsp_camera import number_of, picture
from dskd.runtime.errors import DskdError
from dskd.runtime.result import Dropped, Frame
from dskd.runtime.sources import Source, SourceLost, open_source
from dskd.runtime.sources.watched_folder import MEMORY


def png(number: int) -> bytes:
    return bytes(cv2.imencode(".png", picture(number))[1].tobytes())


def put(folder: Path, name: str, number: int) -> None:
    """As a careful program does: written beside, then renamed."""
    (folder / f".{name}.part").write_bytes(png(number))
    (folder / f".{name}.part").rename(folder / name)
    time.sleep(0.02)


def opened(folder: Path) -> Source:
    source = open_source(f"watch://{folder}")
    source.open()
    return source


def names(source: Source, wait: float = 0.8) -> list[str]:
    """Of what is given; each is stored at once."""
    found = []
    for captured in iter(lambda: source.read(wait), None):
        found.append(captured.id)
        captured.stored()
    return found


def test_files_come_once_in_order_of_arrival(tmp_path: Path) -> None:
    put(tmp_path, "z.png", 1)
    put(tmp_path, "a.png", 2)
    source = opened(tmp_path)
    assert names(source) == ["z.png", "a.png"]
    put(tmp_path, "m.png", 3)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    frame = source.read(3.0)
    assert isinstance(frame, Frame)
    assert (frame.id, number_of(frame.image)) == ("m.png", 3)
    assert source.read(0.5) is None
    source.close()


def test_a_restart_neither_repeats_nor_skips(tmp_path: Path) -> None:
    put(tmp_path, "1.png", 1)
    first = opened(tmp_path)
    assert names(first) == ["1.png"]
    first.close()
    put(tmp_path, "2 \n é.png", 2)
    second = opened(tmp_path)
    assert len(names(second)) == 1
    second.close()
    third = opened(tmp_path)
    assert names(third) == []
    third.close()


def test_a_name_written_anew_is_a_new_file_and_memory_holds_no_more_than_the_folder(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path, f"{number}.png", number)
    source = opened(tmp_path)
    assert len(names(source)) == 5
    for number in range(4):
        (tmp_path / f"{number}.png").unlink()
    put(tmp_path, "4.png", 40)
    assert names(source) == ["4.png"]
    source.close()
    opened(tmp_path).close()
    assert len((tmp_path / MEMORY).read_text().splitlines()) == 1


def test_a_file_that_is_still_written_is_waited_for(tmp_path: Path) -> None:
    data = png(7)

    def write_slowly() -> None:
        with (tmp_path / "slow.png").open("wb") as file:
            for start in range(0, len(data), len(data) // 10):
                file.write(data[start : start + len(data) // 10])
                file.flush()
                time.sleep(0.15)
        time.sleep(1.0)

    source = opened(tmp_path)
    writer = threading.Thread(target=write_slowly)
    writer.start()
    frame = source.read(6.0)
    writer.join()
    assert isinstance(frame, Frame)
    assert number_of(frame.image) == 7
    assert source.read(0.5) is None
    source.close()


def test_a_writer_that_pauses_is_waited_for_and_one_that_died_makes_a_dropped_frame(tmp_path: Path) -> None:
    source = opened(tmp_path)
    (tmp_path / "cut.png").write_bytes(png(1)[:5000])
    assert source.read(1.5) is None  # it may go on
    put(tmp_path, "next.png", 2)
    following = source.read(2.0)
    assert isinstance(following, Frame)  # nor does it hold up the others
    dropped = source.read(8.0)
    assert isinstance(dropped, Dropped)
    assert dropped.id == "cut.png"
    assert source.read(0.3) is None
    source.close()


def test_what_cannot_be_watched_is_told(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path / "file"):
        (tmp_path / "file").write_text("")
        with pytest.raises(DskdError, match="not a folder"):
            opened(folder)
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(DskdError):
            opened(tmp_path)


def test_a_folder_taken_away_is_lost_and_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    put(folder, "1.png", 1)
    source = opened(folder)
    assert names(source) == ["1.png"]
    folder.rename(tmp_path / "away")
    with pytest.raises(SourceLost):
        source.read(0.5)
    source.close()
    (tmp_path / "away").rename(folder)
    put(folder, "2.png", 2)
    with running(lambda: open_source(f"watch://{folder}")) as capture:
        taken = capture.take(5.0)
        assert taken is not None
        assert taken.id == "2.png"


def test_what_was_under_way_comes_again_after_a_kill_and_not_after_a_reconnect(tmp_path: Path) -> None:
    for number in (1, 2):
        put(tmp_path, f"{number}.png", number)
    source = opened(tmp_path)
    first, second = source.read(3.0), source.read(3.0)
    assert first is not None
    assert second is not None
    first.stored()
    source.close()
    again = opened(tmp_path)  # as after a share was lost: the second is still waiting for its inspection
    assert names(again) == []
    again.close()
    code = f"""
from dskd.runtime.sources import open_source
source = open_source("watch://{tmp_path}")
source.open()
print(*[f.id for f in iter(lambda: source.read(0.8), None)])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("2.png\n", "")
    second.stored()
    later = opened(tmp_path)
    assert names(later) == []
    later.close()
    assert len((tmp_path / MEMORY).read_text().splitlines()) == 2


def test_a_broken_memory_is_survived(tmp_path: Path) -> None:
    put(tmp_path, "1.png", 1)
    (tmp_path / MEMORY).write_bytes(b"\xff\x00 nonsense\n12 x\n99 99 1.p")
    source = opened(tmp_path)
    assert names(source) == ["1.png"]
    source.close()
