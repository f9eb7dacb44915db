"""Files that are whole or absent."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dskd.runtime import atomic
from dskd.runtime.errors import DskdError


def test_a_file_is_as_readable_as_any_other_and_the_mask_of_all_threads_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").write_text("a")
    monkeypatch.delattr(os, "umask")  # it is the whole process's: another thread could make a file meanwhile
    atomic.write_text(tmp_path / "whole", "a")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "whole")]
    assert modes[0] == modes[1]


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), atomic.replacing(path) as temporary:
        temporary.write_text("half\ud800", encoding="utf-8")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


def test_a_folder_where_nothing_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DskdError, match=r"file/below: .*check the folder's space and rights"):
        atomic.write_text(tmp_path / "file" / "below", "a")


def test_a_file_keeps_mode_and_owner_when_it_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("old")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    before = file.stat()
    atomic.write_text(file, "new")
    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino
    assert file.read_text() == "new"


def test_a_name_that_is_no_text_may_stand_in_a_text(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "report.html", os.fsdecode(b"pr\xfcfling \xc3\xa4"))
    assert (tmp_path / "report.html").read_text("utf-8") == "pr\\udcfcfling \u00e4"
