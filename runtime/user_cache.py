"""What took long to find out and may be lost at any time, in a folder of this user's own.

Never beside the bundle, which may be read-only, and never in the working directory. Whatever cannot be read, written
or believed is as if it had never been there.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dskd.runtime import atomic
from dskd.runtime.errors import DskdError

DIGEST = hashlib.sha256().digest_size


def cache_folder() -> Path | None:
    """``$CACHE_DIRECTORY`` (systemd), ``$XDG_CACHE_HOME`` or ``~/.cache``; None where this user alone has none."""
    named = os.environ.get("CACHE_DIRECTORY") or os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(named) if named else Path.home() / ".cache") / "dskd-edge"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if _is_mine(folder.lstat()) else None
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None


def key_of(*parts: object) -> str:
    """A name for what depends on ``parts`` and on nothing else."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


def get(kind: str, key: str) -> NDArray[np.uint8] | None:
    """The bytes that ``put`` was given, mapped from the file; None where they are not there or not whole."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        file = folder / f"{key}.{kind}"
        if not stat.S_ISREG(file.lstat().st_mode) or not _is_mine(file.lstat()):
            return None
        with file.open("rb") as opened:
            # private to this process, as some readers want to be able to write
            found = np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
        os.utime(file)
    except (OSError, ValueError):  # ValueError: an empty file
        return None
    data = found[:-DIGEST]
    return data if hashlib.sha256(data.data).digest() == found[-DIGEST:].tobytes() else None


def release(found: NDArray[np.uint8]) -> None:
    """Takes no memory for ``get``'s bytes, to which nobody wrote, until they are read again."""
    below: object = found
    while isinstance(below, np.ndarray):
        below = below.base
    if isinstance(below, memoryview) and isinstance(below.obj, mmap.mmap):
        below.obj.madvise(mmap.MADV_DONTNEED)


def put(kind: str, key: str, data: bytes | memoryview, keep: int) -> None:
    """Keeps ``data`` for ``get``, whole or not at all, and of its kind the ``keep`` that were used last."""
    folder = cache_folder()
    if folder is None:
        return
    with suppress(DskdError, OSError):
        atomic.clear_leftovers(folder)
        with atomic.replacing(folder / f"{key}.{kind}") as temporary, temporary.open("wb") as file:
            file.write(data)
            file.write(hashlib.sha256(data).digest())
        (folder / f"{key}.{kind}").chmod(0o600)
        files = sorted(folder.glob(f"*.{kind}"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in files[keep:]:
            old.unlink()


def _is_mine(found: os.stat_result) -> bool:
    """Whether nobody else could have written there."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
