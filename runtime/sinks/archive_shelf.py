"""The archive's folder: how many inspections it holds, and which is the oldest.

Only the names of one hour are held in memory, so that a million pictures cost no more than a thousand.
"""

from __future__ import annotations

import os
import re
from collections import deque
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from dskd.runtime import atomic
from dskd.runtime.errors import DskdError

_DAY, _HOUR = re.compile(r"\d{4}-\d\d-\d\d"), re.compile(r"\d\d")
_STEM = re.compile(r"(\d{6}\.\d{6}-.+-(?:PASS|REVIEW|REJECT))(\.json|\.png|\.jpg|\.heat\.png|\.overlay\.jpg)")


class Shelf:
    """Counts and deletes; anything in the folder that is not the archive's own is left alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held = 0
        self._hour: Path | None = None
        self._stems: deque[str] = deque()  # of ``_hour``, oldest first
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DskdError(f"archive {folder}: cannot be made ({error.strerror}); name another folder") from error

    def count(self) -> None:
        """Sets ``held`` from what is there, and clears what a killed writer left."""
        held = 0
        for hour in self._hours():
            held += len(_stems(hour))
            atomic.clear_leftovers(hour)
        self.held = held

    def oldest_hour(self) -> datetime | None:
        """When the oldest hour that still holds something began, None where there is nothing."""
        if not self._fill():
            return None
        assert self._hour is not None
        moment = datetime.strptime(f"{self._hour.parent.name} {self._hour.name}", "%Y-%m-%d %H")
        return moment.replace(tzinfo=timezone.utc)

    def remove_oldest(self) -> bool:
        """Deletes the oldest inspection's files; false where there is none. Raises OSError where it cannot."""
        if not self._fill():
            return False
        assert self._hour is not None
        stem = self._stems[0]
        for suffix in (".png", ".jpg", ".heat.png", ".overlay.jpg", ".json"):
            (self._hour / f"{stem}{suffix}").unlink(missing_ok=True)
        self._stems.popleft()
        self.held = max(self.held - 1, 0)
        return True

    def _fill(self) -> bool:
        """Makes ``_stems`` those of the oldest hour that holds any; empty folders go. False where none does."""
        if self._stems:
            return True
        for hour in self._hours():
            self._hour, self._stems = hour, deque(_stems(hour))
            if self._stems:
                return True
            with suppress(OSError):  # what is somebody else's stays, and so does its folder
                hour.rmdir()
                hour.parent.rmdir()
        return False

    def _hours(self) -> list[Path]:
        days = sorted(day for day in self._folders(self.folder) if _DAY.fullmatch(day.name))
        return [hour for day in days for hour in sorted(self._folders(day)) if _HOUR.fullmatch(hour.name)]

    @staticmethod
    def _folders(folder: Path) -> list[Path]:
        try:
            with os.scandir(folder) as entries:
                return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []


def _stems(hour: Path) -> list[str]:
    try:
        names = os.listdir(hour)
    except OSError:
        return []
    return sorted({match.group(1) for name in names if (match := _STEM.fullmatch(name))})
