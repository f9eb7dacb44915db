"""The few ways in which an update changes a disk. All go through here, so that a drill can cut the power between any two.

A file or name lasts only once it was synced: the data by the file, the name by its folder. Between two syncs a power cut
may leave any part of what was done, in any order.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def refuse_link(path: Path) -> None:
    """Raises OSError where a link stands in a folder's place: it would be emptied and filled wherever that leads."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "is a link, and must be a folder", str(path))


class Writer:
    """An open file that grows. ``sync`` makes what was written so far last."""

    def __init__(self, path: Path, keep: int = 0) -> None:
        """Opens ``path`` and cuts it to its first ``keep`` bytes."""
        self.path, self.size = path, keep
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._handle, keep)
        os.lseek(self._handle, keep, os.SEEK_SET)

    def write(self, data: bytes) -> None:
        """Appends all of ``data``. Raises OSError, as where the disk is full."""
        view = memoryview(data)
        while view:
            done = os.write(self._handle, view)
            view = view[done:]
        self.size += len(data)

    def sync(self) -> None:
        """What was written survives a power cut."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Closes the file, without a sync."""
        os.close(self._handle)


class Disk:
    """The real disk."""

    @contextmanager
    def writing(self, path: Path, keep: int = 0) -> Iterator[Writer]:
        """A file to append to, from its first ``keep`` bytes on."""
        writer = Writer(path, keep)
        try:
            yield writer
        finally:
            writer.close()

    def make_folder(self, path: Path) -> None:
        """Makes a folder; its parent stands."""
        os.mkdir(path, 0o755)

    def rename(self, old: Path, new: Path) -> None:
        """Gives a file of the same folder a new name, in one step; what had that name is gone."""
        os.replace(old, new)

    def link(self, target: str, path: Path) -> None:
        """Makes a symbolic link."""
        os.symlink(target, path)

    def remove(self, path: Path) -> None:
        """Removes a file, a link or an empty folder."""
        if path.is_dir() and not path.is_symlink():
            os.rmdir(path)
        else:
            os.unlink(path)

    def sync_folder(self, path: Path) -> None:
        """What was made, renamed and removed in the folder survives a power cut."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def free(self, path: Path) -> int:
        """Bytes that may still be written there."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    # ------------------------------------------------------------------------------------- made of the above

    def make_folders(self, path: Path) -> None:
        """Makes a folder and those above it, so that they last."""
        refuse_link(path)
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            self.make_folder(folder)
            self.sync_folder(folder.parent)

    def write_whole(self, path: Path, data: bytes) -> None:
        """The file is the old one or the new one, whole, at every moment; the new one lasts afterwards."""
        new = path.with_name(f".{path.name}.new")
        with self.writing(new) as writer:
            writer.write(data)
            writer.sync()
        self.rename(new, path)
        self.sync_folder(path.parent)

    def point(self, link: Path, target: str) -> None:
        """A link that leads to the old target or the new one at every moment."""
        if link.is_symlink() and os.readlink(link) == target:
            return
        new = link.with_name(f".{link.name}.new")
        if new.is_symlink() or new.exists():
            self.remove(new)
        self.link(target, new)
        self.rename(new, link)
        self.sync_folder(link.parent)

    def clear(self, path: Path) -> None:
        """Removes a file or a folder with all that is in it; nothing where there is nothing."""
        if path.is_dir() and not path.is_symlink():
            for entry in sorted(path.iterdir()):
                self.clear(entry)
        if path.is_symlink() or path.exists():
            self.remove(path)
