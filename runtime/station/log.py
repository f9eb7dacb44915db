"""One line per event on standard error, for the journal; in a file too where the station file names one."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from dskd.runtime.errors import CallError, one_line

LARGEST_LOG = 10 << 20  # bytes of one file
KEPT_LOGS = 5


class OneLine(logging.Formatter):
    """Whatever a message holds (a camera's name, a driver's complaint), it stays one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, thread, message and, of an exception, its last frames."""
        return one_line(super().format(record))


def start_logging(file: Path | None = None) -> None:
    """Sets up the process's log. Raises CallError where the file cannot be written."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(RotatingFileHandler(file, maxBytes=LARGEST_LOG, backupCount=KEPT_LOGS, encoding="utf-8"))
        except OSError as error:
            raise CallError(f"log_file {file}: cannot be written ({error.strerror}); name another file") from error
    for handler in handlers:
        handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(threadName)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
