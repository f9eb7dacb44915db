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
from dskd.runtime.capture.image_files import MemoryShort, is_image_name
from dskd.runtime.capture.sources.base import Reader, Source, SourceContext, SourceKind, SourceLost
from dskd.runtime.capture.sources.image import read_frame_or_wait
from dskd.runtime.configuration.uri import uri_path
from dskd.runtime.errors import CallError, MissingPart, one_line
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Frame

MEMORY = ".dskd-seen"  # in the folder itself: what was seen is a fact about it, whoever watches
_POLL = 0.1  # seconds between looks at the folder
_POLL_SHARE = 4  # of the time a look takes: a folder of many thousand files is looked at less often
_QUIET = 0.3  # seconds a file must not change before it is read
_PATIENCE = 5.0  # seconds a broken file must not change before it is given up: its writer may only be slow
_MOST_ATTEMPTS = 2  # starts of the program that may end while a file is read or inspected
_ALONE = (
    30.0  # seconds a file that came when the program was killed is under way alone; a store that fails keeps it longer
)
_ATTEMPT, _WITHDRAWN = "?", "-"  # begin a line of the memory; without them it says what was seen

log = logging.getLogger(__name__)

_Mark = tuple[int, int]  # bytes, time of last change in nanoseconds: a file written anew under its old name is new
_under_way: dict[Path, dict[str, _Mark]] = {}  # given by this process and not stored yet, whichever source gave it
_remembering = threading.Lock()


class WatchedFolderSource(Source):
    """``watch://FOLDER``: images directly in the folder; the id is the file name. Names that start with a dot are left alone.

    A file is remembered in the folder once what became of it is stored: a restart repeats none of those and skips none,
    and after a kill those that were under way come again. A folder that is lost and found repeats neither.

    An attempt is written down before a file is read, and withdrawn where the source is closed: a file that was under way
    when the program was killed comes again alone, and if that ends in the same way, it is dropped and not read again.
    """

    endless = True

    def __init__(self, uri: str, path: Path, reader: Reader | None = None) -> None:
        self.uri, self.path, self._reader = uri, path, reader
        self._seen: dict[str, _Mark] = {}
        self._unsettled: dict[str, tuple[_Mark, float]] = {}
        self._attempts: dict[tuple[str, _Mark], int] = {}  # of earlier starts that did not end
        self._begun: set[tuple[str, _Mark]] = set()  # attempts of this start
        self._alone: tuple[str, _Mark, float] | None = None  # the suspect under way and when it was given
        self._short: dict[str, float] = {}  # when memory was short for a file
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
                remembered, attempts = _read_memory(self._memory) if self._memory.exists() else ({}, {})
                kept = {name: mark for name, mark in remembered.items() if name in present}
                self._attempts = {
                    (name, mark): count
                    for (name, mark), count in attempts.items()
                    if present.get(name) == mark != kept.get(name)
                }
                lines = [_line(*item) for item in kept.items()]
                lines += [_line(*item, _ATTEMPT) for item, count in self._attempts.items() for _ in range(count)]
                atomic.write_bytes(self._memory, "".join(lines).encode())
                self._seen = kept | _under_way.get(self._memory, {})
        except OSError as error:
            raise MissingPart(
                f"source {self.uri}: what was seen cannot be kept in {self._memory} ({error.strerror}); make it writable"
            ) from error
        self._unsettled, self._open, self._alone = {}, True, None

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

    def close(self) -> None:
        """Gives no more files. What is under way here is no fault of its file if it does not come back."""
        with _remembering:
            begun, self._begun, self._open = self._begun, set(), False
        if begun:
            self._write([_line(name, mark, _WITHDRAWN) for name, mark in begun], "that this is a stop and no crash")

    def _first_settled(self, now: float) -> Frame | Dropped | None:
        if not self._open:
            raise SourceLost(f"source {self.uri}: is not open")
        try:
            present = self._look()
        except OSError as error:
            raise SourceLost(f"source {self.uri}: cannot be listed ({error.strerror}); check the share") from error
        names = {name for name, _, _ in present}
        self._seen = {name: mark for name, mark in self._seen.items() if name in names}
        self._short = {name: when for name, when in self._short.items() if name in names}
        new = [(arrived, name, mark) for name, mark, arrived in present if self._seen.get(name) != mark]
        before, self._unsettled = self._unsettled, {}
        for _, name, mark in sorted(new):
            known = before.get(name)
            since = known[1] if known is not None and known[0] == mark else now
            self._unsettled[name] = (mark, since)
        for _, name, mark in sorted(new):
            unchanged = now - self._unsettled[name][1]
            if unchanged < _QUIET or now - self._short.get(name, -_PATIENCE) < _PATIENCE:
                continue
            if self._must_wait(name, mark, now):
                return None
            captured = self._capture(name, mark, now, unchanged)
            if captured is None:
                continue
            self._seen[name] = mark
            del self._unsettled[name]
            with _remembering:
                _under_way.setdefault(self._memory, {})[name] = mark
            return replace(captured, stored=partial(self._remember, name, mark))
        return None

    def _capture(self, name: str, mark: _Mark, now: float, unchanged: float) -> Frame | Dropped | None:
        """Reads a file that did not change for some seconds, None where it is to be read again later."""
        path, item = self.path / name, (name, mark)
        if self._attempts.get(item, 0) >= _MOST_ATTEMPTS:
            detail = f"{path}: the program was killed {_MOST_ATTEMPTS} times while it was read or inspected; look at it"
            return Dropped(self.uri, one_line(name), time.time(), Reason.UNUSABLE, one_line(detail))
        if item not in self._begun:  # not forced to disk: it must survive the process, not the power
            with _remembering:
                self._begun.add(item)
            self._write([_line(name, mark, _ATTEMPT)], f"that {one_line(name)} is read")
        if item in self._attempts:
            self._alone = (name, mark, now)
        try:
            captured = read_frame_or_wait(self.uri, name, path, self._reader)
            return None if isinstance(captured, Dropped) and unchanged < _PATIENCE else captured
        except MemoryShort as error:
            if name not in self._short:
                log.warning("source %s: %s; tried again until there is enough", self.uri, one_line(str(error)))
            self._short[name] = now
            return None

    def _must_wait(self, name: str, mark: _Mark, now: float) -> bool:
        """Whether a file waits for others that are under way: one that may kill the program is under way alone."""
        with _remembering:
            under_way = _under_way.get(self._memory, {})
            if self._alone is not None:
                alone, its_mark, given = self._alone
                if under_way.get(alone) == its_mark and now - given < _ALONE:
                    return True
                self._alone = None
            return bool(under_way) and self._attempts.get((name, mark), 0) in range(1, _MOST_ATTEMPTS)

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
        self._write([_line(name, mark)], f"{one_line(name)}, and a restart gives it again")
        with _remembering:
            self._begun.discard((name, mark))
            if _under_way.get(self._memory, {}).get(name) == mark:
                del _under_way[self._memory][name]

    def _write(self, lines: list[str], what: str) -> None:
        try:
            with _remembering, open(self._memory, "a", encoding="utf-8") as memory:
                memory.write("".join(lines))
        except OSError as error:
            log.warning("source %s: cannot remember %s (%s)", self.uri, what, error.strerror)


def _line(name: str, mark: _Mark, begin: str = "") -> str:
    return f"{begin}{mark[0]} {mark[1]} {name.encode('unicode_escape').decode()}\n"


def _read_memory(path: Path) -> tuple[dict[str, _Mark], dict[tuple[str, _Mark], int]]:
    """What was seen, and how many attempts at a file did not end; a line that a crash cut off is left out."""
    seen: dict[str, _Mark] = {}
    attempts: dict[tuple[str, _Mark], int] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        begin = line[:1] if line[:1] in (_ATTEMPT, _WITHDRAWN) else ""
        size, _, rest = line[len(begin) :].partition(" ")
        changed, _, name = rest.partition(" ")
        if not (size.isdecimal() and changed.isdecimal() and name):
            continue
        name, mark = name.encode().decode("unicode_escape", errors="replace"), (int(size), int(changed))
        if not begin:
            seen[name] = mark
        else:
            attempts[name, mark] = max(0, attempts.get((name, mark), 0) + (1 if begin == _ATTEMPT else -1))
    return seen, {item: count for item, count in attempts.items() if count}


def _opened(uri: str, options: object, context: SourceContext) -> WatchedFolderSource:
    return WatchedFolderSource(one_line(uri), uri_path(uri), context.reader)


KIND = SourceKind("watch://FOLDER", _opened)
