"""Files and directories that are either whole or absent: write beside, fsync, rename."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import hashlib
import os
import secrets
import shutil
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dskd.runtime.errors import CallError, DskdError

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)


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
    temporary, handle = None, -1
    if path.is_symlink():
        path = Path(os.path.realpath(path))  # the file that it leads to
    if path.exists() and not path.is_file():
        raise DskdError(f"cannot write {path}: is no regular file; name one")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)  # as any other file
        _lock(handle)
        temporary = beside
        _as_before(handle, path, 0o600)  # what is secret is so while it is written, too
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        _as_before(handle, path)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if handle >= 0:
            os.close(handle)


def _as_before(handle: int, path: Path, least: int = 0) -> None:
    """Gives the new file the owner and mode of the one whose place it takes, as far as this user may."""
    with suppress(OSError):
        before = os.stat(path)
        if os.geteuid() == 0:
            os.fchown(handle, before.st_uid, before.st_gid)
        os.fchmod(handle, (stat.S_IMODE(before.st_mode) & 0o777) | least)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8 to ``path`` whole or not at all. Bytes of a file name that are no text are written escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Writes ``path`` whole, with ``mode``, where nothing has that name. Raises FileExistsError where something has."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with open(handle, "wb") as file:
            _lock(handle)
            file.write(data)
            file.flush()
            os.fsync(handle)
        try:
            os.link(temporary, path)
        except PermissionError:  # a file system without hard links, as a stick's
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            os.rename(temporary, path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yields a temporary directory; on success it takes ``path``'s place in one step, and an older one goes away.

    At every moment ``path`` is the old directory or the new one, each whole, also when the process is killed, on file
    systems that can exchange two names (ext4, xfs, btrfs, f2fs, tmpfs). On others a kill between two renames leaves
    the old one beside it as ``.NAME.*.old``.
    """
    path = Path(os.path.realpath(path))  # of a link, the folder that it leads to
    temporary, handle = None, -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent, path.name)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        handle = os.open(temporary, os.O_RDONLY)
        _lock(handle)
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        for folder in (temporary, *(folder for folder in temporary.rglob("*") if folder.is_dir())):
            sync_directory(folder)
        temporary.chmod(0o755)
        _swap(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if handle >= 0:
            os.close(handle)


def clear_leftovers(folder: Path, name: str = "*") -> None:
    """Removes what killed writers of ``folder/name`` left there. A living writer holds a lock on its own."""
    for leftover in folder.glob(f".{name if name == '*' else glob.escape(name)}.*.tmp"):
        try:
            handle = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue  # gone already, or none of ours
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        except OSError:
            continue  # somebody writes it now
        finally:
            os.close(handle)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Holds ``folder`` for this process. Raises CallError where another one has it; a killed one has it no more.

    It is held by a file in it, which goes with the folder where that is moved, and by its name: whoever finds another
    folder there, or makes one, does not write beside a process that took that name.
    """
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _hold_name(name, folder)
        yield
    except BlockingIOError as error:
        raise CallError(f"{folder}: another process is writing there; wait for it or name another folder") from error
    finally:
        name.close()
        os.close(handle)


def writer_of(folder: Path) -> int | None:
    """The process that holds ``folder``, None where none does or it cannot be known."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(_name_of(folder))
        except OSError:
            return None
        return _peer(asking)[0]


def _name_of(folder: Path) -> str:
    return f"\0dskd-writer-{hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()}"


def _peer(asking: socket.socket) -> tuple[int, int]:
    """Process and user at the other end."""
    pid, user, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, user


def _hold_name(holder: socket.socket, folder: Path) -> None:
    """Binds a name in the kernel that follows from the folder's. Raises BlockingIOError where a process has it.

    Any user may take such a name: one that is neither ours nor root's is not believed.
    """
    if sys.platform != "linux":
        return
    address = _name_of(folder)
    try:
        holder.bind(address)
        holder.listen(16)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or _owner(address) not in (0, os.geteuid()):
            return
        raise BlockingIOError from error


def _owner(address: str) -> int:
    """The user whose process listens at a name in the kernel; our own where it has no time to say so, -1 for nobody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(address)
        except BlockingIOError:
            return os.geteuid()
        except OSError:
            return -1
        return _peer(asking)[1]


def _lock(handle: int) -> None:
    with suppress(OSError):  # a file system without locks: then nobody clears leftovers there either
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _swap(temporary: Path, path: Path) -> None:
    """Puts ``temporary`` at ``path`` and what was there, if anything, at ``temporary``."""
    if not os.path.lexists(path):
        os.rename(temporary, path)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    exchange = getattr(libc, "renameat2", None)
    if exchange and exchange(_HERE, os.fsencode(temporary), _HERE, os.fsencode(path), _EXCHANGE) == 0:
        return
    retired = temporary.with_suffix(".old")  # a file system that cannot exchange: two steps instead of one
    os.rename(path, retired)
    os.rename(temporary, path)
    os.rename(retired, temporary)


def _cannot_write(path: Path, error: OSError) -> DskdError:
    return DskdError(f"cannot write {path}: {error.strerror or error}; check the folder's space and rights")
