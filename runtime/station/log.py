"""One line per event on standard error, for the journal; in a file too where the station file names one."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

from dskd.runtime.errors import CallError, one_line

LARGEST_LOG = 10 << 20  # bytes of one file
KEPT_LOGS = 5
MOST, PERIOD = 10, 60.0  # lines of one kind, seconds
KIND, MOST_KINDS = 60, 256  # characters that make a kind, kinds that are held in mind


class OneLine(logging.Formatter):
    """Whatever a message holds (a camera's name, a driver's complaint), it stays one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, thread, message and, of an exception, its last frames."""
        return one_line(super().format(record))


class Repeats(logging.Filter):
    """Lets ``MOST`` lines of one kind through in ``PERIOD``: a library that fails again and again must not fill the disk.

    Of one kind are tracebacks and asyncio's complaints that begin alike. What was left out is counted in the next line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: OrderedDict[tuple[str, str], list[float]] = OrderedDict()  # begun, let through, left out
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.exc_info is None and record.name != "asyncio":
            return True
        kind = record.name, str(record.msg)[:KIND]
        now = time.monotonic()
        with self._lock:
            begun, through, left_out = self._seen.get(kind, (now, 0, 0))
            if now - begun > PERIOD:
                begun, through = now, 0
            written = through < MOST
            if written and left_out:
                record.msg = f"{record.msg} (and {left_out:.0f} more like it before)"
            self._seen[kind] = [begun, through + written, 0 if written else left_out + 1]
            self._seen.move_to_end(kind)
            if len(self._seen) > MOST_KINDS:
                self._seen.popitem(last=False)
        return written


class Patient(RotatingFileHandler):
    """A log file whose disk may be full: says so once, and how many lines were lost when it writes again."""

    lost = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the parent's name)
        """One line on standard error for the first of many."""
        self.lost += 1
        if self.lost == 1:
            _say(f"log_file {self.baseFilename}: {sys.exc_info()[1]}; lines are missing there until it can be written")

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the line."""
        before = self.lost
        super().emit(record)
        if before and self.lost == before:
            self.lost = 0
            _say(f"log_file {self.baseFilename}: is written again; {before} lines are missing")


class ToTerminal(logging.StreamHandler[TextIO]):
    """Standard error; where that is gone, nothing is left to say it on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the parent's name)
        """Nothing."""


def _say(text: str) -> None:
    with suppress(OSError, ValueError):
        print(one_line(text), file=sys.stderr, flush=True)


def start_logging(file: Path | None = None) -> None:
    """Sets up the process's log. Raises CallError where the file cannot be written."""
    repeats = Repeats()
    handlers: list[logging.Handler] = [ToTerminal()]
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(Patient(file, maxBytes=LARGEST_LOG, backupCount=KEPT_LOGS, encoding="utf-8"))
        except OSError as error:
            raise CallError(f"log_file {file}: cannot be written ({error.strerror}); name another file") from error
    for handler in handlers:
        handler.addFilter(repeats)
        handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(threadName)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
