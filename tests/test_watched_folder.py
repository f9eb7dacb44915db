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

from dskd.benchmarks.lab.station.rtsp_camera import number_of, picture
from dskd.runtime.capture.sources import Source, SourceLost, open_source, watched_folder
from dskd.runtime.capture.sources.watched_folder import MEMORY
from dskd.runtime.errors import DskdError
from dskd.runtime.result import Dropped, Frame


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
from dskd.runtime.capture.sources import open_source
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


# ------------------------------------------------------------------------------------------- what kills the program


def killed_over(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    """A start of a program that dies when it decodes ``name``; what it gave before that is stored and printed."""
    code = f"""
import os
from dskd.runtime.capture import image_files as images
from dskd.runtime.capture.sources import image, open_source
read = images.read_image
image.read_image = lambda path: os._exit(9) if path.name == {name!r} else read(path)
source = open_source("watch://{folder}")
source.open()
for captured in iter(lambda: source.read(0.8), None):
    print(captured.id, getattr(captured, "explanation", ""), flush=True)
    captured.stored()
"""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_file_that_kills_the_program_costs_two_starts_and_then_the_line_goes_on(tmp_path: Path) -> None:
    for number, name in enumerate(("1.png", "deadly.png", "3.png")):
        put(tmp_path, name, number)
    assert killed_over(tmp_path, "deadly.png").stdout == "1.png \n"
    assert killed_over(tmp_path, "deadly.png").returncode == 9
    third = killed_over(tmp_path, "deadly.png")
    reason = f"{tmp_path}/deadly.png: the program was killed 2 times while it was read or inspected; look at it"
    assert (third.returncode, third.stdout) == (0, f"deadly.png {reason}\n3.png \n")
    assert killed_over(tmp_path, "deadly.png").stdout == ""  # nor is it given again
    put(tmp_path, "deadly.png", 7)
    assert killed_over(tmp_path, "").stdout == "deadly.png \n"  # written anew it is another file


def killed(source: Source) -> None:
    """What is left of a source whose program was killed: its memory alone."""
    watched_folder._under_way.clear()
    del source


def test_a_stop_is_no_crash(tmp_path: Path) -> None:
    put(tmp_path, "1.png", 1)
    for _ in range(4):
        source = opened(tmp_path)
        frame = source.read(3.0)
        assert isinstance(frame, Frame)  # its inspection does not end before the stop
        source.close()
        killed(source)
    assert names(opened(tmp_path)) == ["1.png"]


def test_what_was_under_way_at_a_kill_comes_again_one_at_a_time(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        put(tmp_path, f"{number}.png", number)
    first = opened(tmp_path)
    assert [first.read(3.0).id for _ in range(2)] == ["1.png", "2.png"]  # type: ignore[union-attr]
    killed(first)
    second = opened(tmp_path)
    suspect = second.read(3.0)
    assert suspect is not None
    assert suspect.id == "1.png"
    assert second.read(0.5) is None  # neither the other suspect nor the new one
    suspect.stored()
    assert names(second) == ["2.png", "3.png"]


def test_a_suspect_whose_store_fails_does_not_hold_up_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_folder, "_ALONE", 0.0)
    for number in (1, 2):
        put(tmp_path, f"{number}.png", number)
    first = opened(tmp_path)
    first.read(3.0)
    killed(first)
    second = opened(tmp_path)
    assert [second.read(3.0).id for _ in range(2)] == ["1.png", "2.png"]  # type: ignore[union-attr]


def test_a_file_for_which_memory_is_short_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watched_folder, "_PATIENCE", 0.0)
    put(tmp_path, "1.png", 1)
    left = [3]  # times that memory is short

    def require(container: object) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise MemoryError

    monkeypatch.setattr("dskd.runtime.capture.image_files._require_memory", require)
    source = opened(tmp_path)
    frame = source.read(5.0)
    assert isinstance(frame, Frame)
    assert left == [-1]
    assert [record.getMessage() for record in caplog.records] == [
        f"source watch://{tmp_path}: {tmp_path}/1.png: memory is short to read it; free some; tried again until there "
        "is enough"
    ]


def test_the_memory_of_an_older_version_holds(tmp_path: Path) -> None:
    put(tmp_path, "1.png", 1)
    status = (tmp_path / "1.png").stat()
    (tmp_path / MEMORY).write_text(f"{status.st_size} {status.st_mtime_ns} 1.png\n")
    assert names(opened(tmp_path)) == []


def test_a_broken_file_is_no_fault_of_the_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_folder, "_PATIENCE", 0.0)
    (tmp_path / "cut.png").write_bytes(png(1)[:5000])
    with running(lambda: open_source(f"watch://{tmp_path}")) as capture:
        assert isinstance(capture.take(5.0), Dropped)
        assert "cut-off PNG" in capture.status().fault
        assert not capture.status().live
