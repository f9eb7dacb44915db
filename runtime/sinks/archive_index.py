"""The archive's folder: how many inspections it holds, and which is the oldest.

Only the names of one hour are held in memory, so that a million pictures cost no more than a thousand.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from dskd.runtime import atomic
from dskd.runtime.errors import DskdError
from dskd.runtime.wall_clock import EARLIEST

MISTIMED = "mistimed.json"
SUFFIXES = (".png", ".jpg", ".heat.png", ".map.npy", ".overlay.jpg", ".json")
_DAY, _HOUR = re.compile(r"\d{4}-\d\d-\d\d"), re.compile(r"\d\d")
_STEM = re.compile(
    r"(\d{6}\.\d{6}-.+-(?:PASS|REVIEW|REJECT))(\.json|\.png|\.jpg|\.heat\.png|\.map\.npy|\.overlay\.jpg)"
)


class ArchiveIndex:
    """Counts and deletes; anything in the folder that is not the archive's own is left alone.

    Raises DskdError where the folder is ``required`` and cannot be made; else that is tried again by ``made_again``.
    """

    def __init__(self, folder: Path, required: bool = True) -> None:
        self.folder = folder
        self.held = self.removed = 0
        self._mistimed: dict[str, float] = {}  # by hour: when it truly was, in seconds since the epoch
        self._hour: Path | None = None
        self._stems: deque[str] = deque()  # of ``_hour``, oldest first
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if required:
                raise DskdError(f"archive {folder}: cannot be made ({error.strerror}); name another folder") from error
        self._read_mistimed()

    def made_again(self) -> bool:
        """Makes the folder where somebody removed it; whether that was so. Raises OSError where it cannot be made."""
        if self.folder.is_dir():
            return False
        self.folder.mkdir(parents=True)
        self.held, self._mistimed = 0, {}
        self._stems.clear()
        return True

    def mistimed(self, hour: Path, truly: float) -> None:
        """Says that ``hour`` is filled under a clock that is not believed, at about ``truly``: its name says no age."""
        name = f"{hour.parent.name}/{hour.name}"
        if abs(self._mistimed.get(name, 0.0) - truly) < 3600:
            return
        present = {key: value for key, value in self._mistimed.items() if (self.folder / key).is_dir()}
        self._mistimed = {**present, name: truly}
        atomic.write_text(self.folder / MISTIMED, json.dumps(self._mistimed))
        self._stems.clear()  # another hour may be the oldest now

    def date_mistimed(self, now: float) -> None:
        """Hours that were filled before anything said when it was count from now on."""
        if any(truly < EARLIEST for truly in self._mistimed.values()):
            self._mistimed = {name: now if truly < EARLIEST else truly for name, truly in self._mistimed.items()}
            atomic.write_text(self.folder / MISTIMED, json.dumps(self._mistimed))
            self._stems.clear()

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
        return self._moment(self._hour)

    def oldest(self) -> str | None:
        """The oldest inspection as DAY/HOUR/NAME, None where there is none. Any thread may ask."""
        for hour in self._hours():
            if stems := _stems(hour):
                return f"{hour.parent.name}/{hour.name}/{stems[0]}"
        return None

    def clear(self, stem: Path) -> None:
        """Deletes the files of one inspection. Raises OSError where it cannot."""
        for suffix in SUFFIXES:
            stem.with_name(f"{stem.name}{suffix}").unlink(missing_ok=True)

    def remove_oldest(self) -> bool:
        """Deletes the oldest inspection's files; false where there is none. Raises OSError where it cannot."""
        if not self._fill():
            return False
        assert self._hour is not None
        self.clear(self._hour / self._stems[0])
        self._stems.popleft()
        self.held, self.removed = max(self.held - 1, 0), self.removed + 1
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
        """Oldest first, by when they truly were filled."""
        days = [day for day in self._folders(self.folder) if _DAY.fullmatch(day.name)]
        hours = [hour for day in days for hour in self._folders(day) if _HOUR.fullmatch(hour.name)]
        return sorted(
            (hour for hour in hours if self._moment(hour) is not None), key=lambda hour: (self._moment(hour), hour)
        )

    def _moment(self, hour: Path) -> datetime | None:
        """When it began; None where its name is no time."""
        name = f"{hour.parent.name}/{hour.name}"
        with suppress(ValueError, OverflowError, OSError):
            if name in self._mistimed:
                return datetime.fromtimestamp(self._mistimed[name], timezone.utc)
            return datetime.strptime(name, "%Y-%m-%d/%H").replace(tzinfo=timezone.utc)
        return None

    def _read_mistimed(self) -> None:
        with suppress(OSError, ValueError, TypeError):
            found = json.loads((self.folder / MISTIMED).read_text())
            self._mistimed = {str(name): float(truly) for name, truly in found.items()}

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
