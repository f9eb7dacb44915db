"""A file that its decoder does not survive costs that file alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from station_files import rows, wait_for, write_station

from dskd.runtime.capture import decoding_process
from dskd.runtime.capture.decoding_process import DecodingProcess
from dskd.runtime.capture.image_files import BadImage, MemoryShort, read_image, write_image
from dskd.runtime.station.load import load_station
from dskd.runtime.station.station import Station

# The real process, but for files whose name says what their decoder does.
HURT = """
import os, signal, sys, time
from pathlib import Path
from dskd.runtime.capture import decoding_process as module
whole = module.read_image
def read(path):
    name = Path(path).name
    if name.startswith("crash"): os.abort()
    if name.startswith("kill"): os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("bloat"): return module.np.zeros((1 << 36,), module.np.uint8)
    if name.startswith("grow"): raise module.MemoryShort(f"{path}: memory is short")
    if name.startswith("hang"): time.sleep(600)
    if name.startswith("lie"): sys.stdout.buffer.write(b"x" * 100); sys.stdout.flush(); os._exit(0)
    return whole(path)
module.read_image = read
module._serve()
"""
PROGRAM = (sys.executable, "-c", HURT)


@pytest.fixture(scope="module")
def hurt() -> Iterator[DecodingProcess]:
    process = DecodingProcess(PROGRAM)
    yield process
    process.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "pr\udcfcfling \n.png"
    write_image(path, np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3))
    return path


def test_a_picture_comes_as_it_is_read_here(picture: Path, hurt: DecodingProcess) -> None:
    for _ in range(2):
        assert np.array_equal(hurt.read(picture), read_image(picture))


def test_a_broken_file_is_told_in_the_same_words(tmp_path: Path, hurt: DecodingProcess) -> None:
    for name, data in (("a.png", b""), ("b.png", b"no image"), ("c.png", b"\x89PNG\r\n\x1a\n"), ("none.png", None)):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(BadImage) as here:
            read_image(tmp_path / name)
        with pytest.raises(BadImage) as there:
            hurt.read(tmp_path / name)
        assert str(there.value) == str(here.value)


@pytest.mark.parametrize("name", ["crash", "bloat", "grow", "lie"])
def test_what_hurts_a_decoder_is_that_files_fault(
    name: str, tmp_path: Path, picture: Path, hurt: DecodingProcess
) -> None:
    with pytest.raises(BadImage, match=name):
        hurt.read(tmp_path / f"{name}.png")
    assert hurt.read(picture).shape == (40, 50, 3)


def test_a_kill_by_the_kernel_is_tried_once_more(tmp_path: Path, picture: Path, hurt: DecodingProcess) -> None:
    with pytest.raises(MemoryShort):
        hurt.read(tmp_path / "kill.png")
    with pytest.raises(BadImage):
        hurt.read(tmp_path / "kill.png")
    assert hurt.read(picture).shape == (40, 50, 3)


def test_a_decoder_that_does_not_end_is_ended(tmp_path: Path) -> None:
    process = DecodingProcess(PROGRAM, deadline=0.01)
    with pytest.raises(BadImage, match="takes over"):
        process.read(tmp_path / "hang.png")
    process.close()


def test_a_station_goes_on_after_files_that_crash_decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DecodingProcess.__init__, "__defaults__", (PROGRAM, decoding_process.DEADLINE))
    (tmp_path / "in").mkdir()
    for name in ("crash 1.png", "good 1.png", "crash 2.png", "good 2.png"):
        write_image(
            tmp_path / "in" / name, np.random.default_rng(len(name)).integers(0, 255, (64, 64, 3)).astype(np.uint8)
        )
    monkeypatch.setattr("dskd.runtime.capture.sources.watched_folder._PATIENCE", 0.3)
    file = write_station(tmp_path, cameras={"top": {"source": "watch://in", "recipe": "good"}})
    station = Station(load_station(file))
    station.start()
    try:
        wait_for(lambda: len(rows(tmp_path, "SELECT 1 FROM records")) == 4, 60)
    finally:
        station.stop()
    found = dict(rows(tmp_path, "SELECT frame, reason FROM records"))
    assert {name for name, reason in found.items() if reason is None} == {"good 1.png", "good 2.png"}
    assert "does not survive" in str(found["crash 1.png"])
