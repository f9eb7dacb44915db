"""Images that another program puts into a folder: each whole new file once, in order of arrival."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from dskd.runtime import atomic
from dskd.runtime.errors import CallError, MissingPart
from dskd.runtime.images import is_image_name
from dskd.runtime.result import Dropped, Frame
from dskd.runtime.sources.base import SourceLost
from dskd.runtime.sources.image import read_frame

MEMORY = ".dskd-seen"  # in the folder itself: what was seen is a fact about it, whoever watches
_POLL = 0.1  # seconds between looks at the folder
_POLL_SHARE = 4  # of the time a look takes: a folder of many thousand files is looked at less often
_QUIET = 0.3  # seconds a file must not change before it is read
_PATIENCE = 5.0  # seconds a broken file must not change before it is given up: its writer may only be slow

log = logging.getLogger(__name__)

_Mark = tuple[int, int]  # bytes, time of last change in nanoseconds: a file written anew under its old name is new
_under_way: dict[Path, dict[str, _Mark]] = {}  # given by this process and not stored yet, whichever source gave it
_remembering = threading.Lock()


class WatchedFolderSource:
    """``watch://FOLDER``: images directly in the folder; the id is the file name. Names that start with a dot are left alone.

    A file is remembered in the folder once what became of it is stored: a restart repeats none of those and skips none,
    and after a kill those that were under way come again. A folder that is lost and found repeats neither.
    """

    live = False
    triggerable = False

    def __init__(self, uri: str, path: Path) -> None:
        self.uri, self.path = uri, path
        self._seen: dict[str, _Mark] = {}
        self._unsettled: dict[str, tuple[_Mark, float]] = {}
        self._open = False
        self._memory = path / MEMORY

    def open(self) -> None:
        """Reads what was seen before. Raises CallError or MissingPart where the folder cannot be watched."""
        self.close()
        if not os.path.isdir(self.path):
            raise CallError(f"source {self.uri}: is not a folder; make it first")
        try:
            present = {name: mark for name, mark, _ in self._look()}
            with _remembering:
                remembered = _read_memory(self._memory) if self._memory.exists() else {}
                kept = {name: mark for name, mark in remembered.items() if name in present}
                atomic.write_bytes(self._memory, "".join(_line(*item) for item in kept.items()).encode())
                self._seen = kept | _under_way.get(self._memory, {})
        except OSError as error:
            raise MissingPart(
                f"source {self.uri}: what was seen cannot be kept in {self._memory} ({error.strerror}); make it writable"
            ) from error
        self._unsettled, self._open = {}, True

    def read(self, timeout: float) -> Frame | Dropped | None:
        """The file that arrived first of those not yet given, None where there is none within ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while True:
            began = time.monotonic()
            found = self._first_settled(began)
            if found is not None:
                return found
            took = time.monotonic() - began
            pause = max(_POLL, _POLL_SHARE * took)
            if time.monotonic() + pause > end:
                time.sleep(max(0.0, end - time.monotonic()))
                return None
            time.sleep(pause)

    def trigger(self) -> None:
        """Files wait for no trigger."""
        raise CallError(f"source {self.uri}: cannot be triggered")

    def close(self) -> None:
        """Gives no more files."""
        self._open = False

    def _first_settled(self, now: float) -> Frame | Dropped | None:
        if not self._open:
            raise SourceLost(f"source {self.uri}: is not open")
        try:
            present = self._look()
        except OSError as error:
            raise SourceLost(f"source {self.uri}: cannot be listed ({error.strerror}); check the share") from error
        names = {name for name, _, _ in present}
        self._seen = {name: mark for name, mark in self._seen.items() if name in names}
        new = [(arrived, name, mark) for name, mark, arrived in present if self._seen.get(name) != mark]
        before, self._unsettled = self._unsettled, {}
        for _, name, mark in sorted(new):
            known = before.get(name)
            since = known[1] if known is not None and known[0] == mark else now
            self._unsettled[name] = (mark, since)
        for _, name, mark in sorted(new):
            unchanged = now - self._unsettled[name][1]
            if unchanged < _QUIET:
                continue
            captured = read_frame(self.uri, name, self.path / name)
            if isinstance(captured, Dropped) and unchanged < _PATIENCE:
                continue
            self._seen[name] = mark
            del self._unsettled[name]
            with _remembering:
                _under_way.setdefault(self._memory, {})[name] = mark
            return replace(captured, stored=partial(self._remember, name, mark))
        return None

    def _look(self) -> list[tuple[str, _Mark, int]]:
        """Name, mark and time of arrival (a rename into the folder counts) of every image."""
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not is_image_name(entry.name):
                    continue
                try:
                    status = entry.stat()
                except FileNotFoundError:  # taken away meanwhile
                    continue
                if entry.is_file():
                    found.append((entry.name, (status.st_size, status.st_mtime_ns), status.st_ctime_ns))
        return found

    def _remember(self, name: str, mark: _Mark) -> None:
        try:
            with _remembering:
                with open(self._memory, "a", encoding="utf-8", errors="surrogateescape") as memory:
                    memory.write(_line(name, mark))
                if _under_way.get(self._memory, {}).get(name) == mark:
                    del _under_way[self._memory][name]
        except OSError as error:
            log.warning("source %s: cannot remember %s (%s); a restart gives it again", self.uri, name, error.strerror)


def _line(name: str, mark: _Mark) -> str:
    return f"{mark[0]} {mark[1]} {name.encode('unicode_escape').decode()}\n"


def _read_memory(path: Path) -> dict[str, _Mark]:
    """What was seen; a line that a crash cut off is left out."""
    seen: dict[str, _Mark] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        size, _, rest = line.partition(" ")
        changed, _, name = rest.partition(" ")
        if size.isdigit() and changed.isdigit() and name:
            seen[name.encode().decode("unicode_escape", errors="replace")] = (int(size), int(changed))
    return seen
