"""A disk that remembers what was done to it, and what is left of that when the power goes.

Between two syncs a disk may keep any part of what it was told, in any order, and half of a block. Here every call is
done for real and written down; ``after_cut`` then makes one of the disks that a cut after some call may leave.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dskd.jetson.disk import Disk, Writer

BLOCK = 512  # bytes: what a disk writes in one go


@dataclass
class _File:
    """What lasts, and what was written since the last sync: (offset, bytes), or None as bytes for a cut to offset."""

    lasting: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)


@dataclass
class _Link:
    target: str


@dataclass
class _Folder:
    """Names that last, and changes since the last sync: name to node, None for removed."""

    lasting: dict[str, _Node] = field(default_factory=dict)
    pending: list[dict[str, _Node | None]] = field(default_factory=list)
    now: dict[str, _Node] = field(default_factory=dict)

    def change(self, change: dict[str, _Node | None]) -> None:
        """One step: a rename changes two names at once."""
        self.pending.append(change)
        _apply(self.now, change)


_Node = _File | _Link | _Folder
Call = tuple[str, Path, object]


class RecordingDisk(Disk):
    """The real disk, with a log of what changed it."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    @contextmanager
    def writing(self, path: Path, keep: int = 0) -> Iterator[Writer]:
        """As on the disk."""
        self.calls.append(("open", path, keep))
        with super().writing(path, keep) as writer:
            yield _RecordingWriter(writer, self.calls)

    def make_folder(self, path: Path) -> None:
        """As on the disk."""
        super().make_folder(path)
        self.calls.append(("folder", path, None))

    def rename(self, old: Path, new: Path) -> None:
        """As on the disk."""
        super().rename(old, new)
        self.calls.append(("rename", old, new))

    def link(self, target: str, path: Path) -> None:
        """As on the disk."""
        super().link(target, path)
        self.calls.append(("link", path, target))

    def remove(self, path: Path) -> None:
        """As on the disk."""
        super().remove(path)
        self.calls.append(("remove", path, None))

    def sync_folder(self, path: Path) -> None:
        """As on the disk."""
        super().sync_folder(path)
        self.calls.append(("sync folder", path, None))


class _RecordingWriter(Writer):
    def __init__(self, writer: Writer, calls: list[Call]) -> None:
        self._writer, self._calls = writer, calls
        self.path, self.size = writer.path, writer.size

    def write(self, data: bytes) -> None:
        self._calls.append(("write", self.path, (self._writer.size, bytes(data))))
        self._writer.write(data)
        self.size = self._writer.size

    def sync(self) -> None:
        self._writer.sync()
        self._calls.append(("sync", self.path, None))

    def close(self) -> None:
        self._writer.close()


class CutDisk:
    """The disk below ``root`` as it was when this was made; ``do`` repeats calls, ``after_cut`` takes the power."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._top = _Folder()
        self._read(root, self._top)

    def do(self, call: Call) -> None:
        """Repeats one call in memory."""
        kind, path, value = call
        if kind == "sync folder":
            target = self._folder(path)
            target.lasting, target.pending = dict(target.now), []
            return
        folder, name = self._folder(path.parent), path.name
        if kind == "open":
            file = folder.now.get(name)
            if not isinstance(file, _File):
                file = _File()
                folder.change({name: file})
            assert isinstance(value, int)
            file.pending.append((value, None))
        elif kind in ("write", "sync"):
            file = folder.now[name]
            assert isinstance(file, _File)
            if kind == "write":
                assert isinstance(value, tuple)
                file.pending.append(value)
            else:
                file.lasting, file.pending = _written(file.lasting, file.pending), []
        elif kind == "folder":
            folder.change({name: _Folder()})
        elif kind == "link":
            folder.change({name: _Link(str(value))})
        elif kind == "remove":
            folder.change({name: None})
        elif kind == "rename":
            assert isinstance(value, Path)
            assert value.parent == path.parent, "a rename between folders is two changes that a cut can part"
            folder.change({name: None, value.name: folder.now[name]})

    def after_cut(self, out: Path, chance: random.Random) -> None:
        """Makes one of the disks that may be found afterwards: any part of what was not synced, in any order, torn."""
        self._write(self._top, out, chance)

    def _read(self, path: Path, folder: _Folder) -> None:
        for entry in sorted(path.iterdir()):
            node: _Node
            if entry.is_symlink():
                node = _Link(os.readlink(entry))
            elif entry.is_dir():
                node = _Folder()
                self._read(entry, node)
            else:
                node = _File(bytearray(entry.read_bytes()))
            folder.lasting[entry.name] = folder.now[entry.name] = node

    def _folder(self, path: Path) -> _Folder:
        node: _Node = self._top
        for part in path.relative_to(self.root).parts:
            assert isinstance(node, _Folder)
            node = node.now[part]
        assert isinstance(node, _Folder)
        return node

    def _write(self, folder: _Folder, out: Path, chance: random.Random) -> None:
        out.mkdir()
        names = dict(folder.lasting)
        for change in folder.pending:
            if chance.random() < 0.5:
                _apply(names, change)
        for name, node in names.items():
            if isinstance(node, _Folder):
                self._write(node, out / name, chance)
            elif isinstance(node, _Link):
                (out / name).symlink_to(node.target)
            else:
                (out / name).write_bytes(_torn(node, chance))


def _apply(names: dict[str, _Node], change: dict[str, _Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _written(lasting: bytearray, pending: list[tuple[int, bytes | None]]) -> bytearray:
    data = bytearray(lasting)
    for offset, written in pending:
        if written is None:
            del data[offset:]
        else:
            data.extend(b"\0" * (offset - len(data)))  # what was before it did not arrive: a hole
            data[offset : offset + len(written)] = written
    return data


def _torn(file: _File, chance: random.Random) -> bytes:
    """All of what was not synced, none, or any blocks of it."""
    fate = chance.choice(("all", "none", "torn"))
    if fate == "none":
        return bytes(file.lasting)
    pending: list[tuple[int, bytes | None]] = []
    for offset, written in file.pending:
        if fate == "all" or (written is None and chance.random() < 0.5):
            pending.append((offset, written))
        elif written is not None:
            blocks = [(offset + at, written[at : at + BLOCK]) for at in range(0, len(written), BLOCK)]
            pending += [block for block in blocks if chance.random() < 0.5]
    return bytes(_written(file.lasting, pending))
