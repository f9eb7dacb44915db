"""The user's cache gives back what it was given, and nothing that another could have written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dskd.runtime.user_cache import cache_folder, get, key_of, put, release


def file_of(key: str) -> Path:
    folder = cache_folder()
    assert folder is not None
    return folder / f"{key}.blob"


def test_what_is_put_is_got_whole() -> None:
    assert get("blob", "a") is None
    put("blob", "a", b"some bytes", keep=2)
    found = get("blob", "a")
    assert found is not None
    assert bytes(found) == b"some bytes"
    assert (file_of("a").stat().st_mode & 0o777, file_of("a").parent.stat().st_mode & 0o777) == (0o600, 0o700)
    put("blob", "a", b"other", keep=2)
    assert bytes(found) == b"some bytes"  # who reads the old one keeps it
    assert key_of(1, "2") != key_of(12, "") != key_of("1", "2", "")


def test_what_is_released_takes_no_memory_and_is_still_there() -> None:
    put("blob", "a", bytes(range(256)) * 4096, keep=2)
    found = get("blob", "a")
    assert found is not None
    assert resident_kb(file_of("a")) >= 1024
    release(found)
    assert resident_kb(file_of("a")) == 0
    assert bytes(found) == bytes(range(256)) * 4096


def resident_kb(file: Path) -> int:
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    next(line for line in lines if line.endswith(str(file)))
    return int(next(line for line in lines if line.startswith("Rss:")).split()[1])


def test_only_the_last_used_are_kept() -> None:
    for age, key in enumerate("abc"):
        put("blob", key, key.encode(), keep=9)
        os.utime(file_of(key), (age, age))
    put("other", "a", b"", keep=1)
    assert get("blob", "a") is not None  # used now
    put("blob", "d", b"d", keep=2)
    assert {file.stem for file in file_of("a").parent.glob("*.blob")} == {"a", "d"}


@pytest.mark.parametrize("bits", [0o620, 0o602])
def test_what_others_may_write_is_not_believed(bits: int) -> None:
    put("blob", "a", b"some bytes", keep=2)
    file_of("a").chmod(bits)
    assert get("blob", "a") is None
    file_of("a").chmod(0o600)
    assert get("blob", "a") is not None
    file_of("a").parent.chmod(0o700 | (bits & 0o077))
    assert get("blob", "a") is None


def test_damage_links_and_pipes_are_as_if_nothing_were_there(tmp_path: Path) -> None:
    put("blob", "a", b"some bytes", keep=2)
    whole = file_of("a").read_bytes()
    for damaged in (b"", whole[:-1], b"S" + whole[1:], whole + b"x"):
        file_of("a").write_bytes(damaged)
        assert get("blob", "a") is None
    file_of("a").unlink()
    (tmp_path / "elsewhere").write_bytes(whole)
    file_of("a").symlink_to(tmp_path / "elsewhere")
    assert get("blob", "a") is None
    file_of("a").unlink()
    os.mkfifo(file_of("a"))
    assert get("blob", "a") is None


def test_a_user_without_a_cache_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert cache_folder() is None
    put("blob", "a", b"some bytes", keep=2)
    assert get("blob", "a") is None


def test_systemd_names_the_folder_of_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "service"))
    put("blob", "a", b"some bytes", keep=2)
    assert (tmp_path / "service" / "dskd-edge" / "a.blob").is_file()
