"""Files and directories that are either whole or absent: write beside, fsync, rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import DskdError


def sync_directory(directory: Path) -> None:
    """Makes renames in ``directory`` survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success it takes ``path``'s place, on failure it is removed."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp is private; the result should be as readable as any other file
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise DskdError(
            f"cannot write {path}: {error.strerror or error}; check the folder's space and rights"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8 to ``path`` whole or not at all."""
    write_bytes(path, text.encode())


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yields a temporary directory; on success it takes ``path``'s place, an older one there goes away afterwards."""
    path = Path(os.path.realpath(path))  # of a link, the folder that it leads to
    temporary = retired = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        retired = temporary.with_suffix(".old")
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        temporary.chmod(0o755)
        if path.exists():
            os.replace(path, retired)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise DskdError(
            f"cannot write {path}: {error.strerror or error}; check the folder's space and rights"
        ) from error
    finally:
        for leftover in (temporary, retired):
            if leftover is not None:
                shutil.rmtree(leftover, ignore_errors=True)
