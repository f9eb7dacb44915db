"""Which inspections the archive should hold and does not: listed in its folder, counted in what its status says.

A kill takes the pictures that wait, a full queue or disk those that come. Each inspection of the store that the rule
keeps for certain is looked for once what was done about it is over. The list is ``not_kept.jsonl``; after a kill in the
middle of listing some stand there twice, which the id tells.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from pathlib import Path

from dskd.runtime.errors import one_line
from dskd.runtime.sinks.archive import Archive
from dskd.runtime.store import Record, Store, StoreError

NAME = "not_kept.jsonl"
LARGEST = 10 << 20  # bytes; then it becomes ``not_kept.old.jsonl``, in place of the one before
PAGE = 500  # records looked at together
_log = logging.getLogger(__name__)


class ArchiveAccount:
    """Of one archive of a station. One thread uses it at a time; how far it came is kept in the store."""

    def __init__(self, name: str, archive: Archive, store: Store) -> None:
        self._name, self._archive, self._store = name, archive, store
        self._position = self._over = store.newest_known
        self._removed = False  # whether room was ever made: then what is older than the oldest is no loss
        with suppress(ValueError, LookupError, TypeError):  # none yet, or written by hand
            fields = json.loads(store.recall(self._note) or "")
            self._position, self._removed = int(fields["position"]), bool(fields["removed"])
            archive.not_kept = int(fields["not_kept"])

    @property
    def _note(self) -> str:
        return f"archive {self._name}"

    def whole(self) -> None:
        """Looks at everything stored: at the start, and at the end when nothing is written any more."""
        before = self._archive.not_kept
        self._look(self._store.newest_known)
        if (found := self._archive.not_kept - before) > 0:
            _log.warning(
                "archive %s: %d inspection(s) that it should hold were not kept; see %s", self._name, found, NAME
            )

    def settle(self, waiting: int) -> None:
        """Once a minute: what was stored a minute ago is over where nothing waits to be written."""
        if not waiting:
            self._look(self._over)
        self._over = self._store.newest_known

    def _look(self, upto: int) -> None:
        """Never raises: a list that cannot be written now is written later."""
        try:
            while self._position < upto and (page := self._store.after(self._position, PAGE)):
                page = [record for record in page if record.id <= upto]
                lost = self._lost([record for record in page if record.kind == "inspection"])
                self._list(lost)
                self._archive.not_kept += len(lost)
                self._position = page[-1].id if page else upto
            self._position = max(self._position, upto)
            self._removed = self._removed or self._archive.made_room
            fields = {"position": self._position, "not_kept": self._archive.not_kept, "removed": self._removed}
            self._store.remember(self._note, json.dumps(fields))
        except (StoreError, OSError) as error:
            _log.info("archive %s: not looked through: %s", self._name, one_line(str(error)))

    def _lost(self, page: list[Record]) -> list[Record]:
        """Those that should be there whole and are not; what is there of them is removed."""
        archive = self._archive
        lost = [record for record in page if archive.surely_wants(record) and archive.details(record) is None]
        for record in lost:
            archive.clear(record)
        if not lost or not (self._removed or archive.made_room):
            return lost
        oldest = archive.oldest()
        return [record for record in lost if oldest is None or archive.place(record) >= oldest]

    def _list(self, lost: list[Record]) -> None:
        if not lost:
            return
        file = self._archive.folder / NAME
        self._archive.folder.mkdir(parents=True, exist_ok=True)
        if file.exists() and file.stat().st_size > LARGEST:
            os.replace(file, Path(f"{file.with_suffix('')}.old.jsonl"))
        with file.open("a", encoding="utf-8") as lines:
            lines.writelines(f"{json.dumps(_told(record))}\n" for record in lost)


def _told(record: Record) -> dict[str, object]:
    verdict = None if record.verdict is None else record.verdict.value
    return {
        "id": record.id, "source": record.source, "frame": record.frame, "captured": record.captured,
        "part": record.part, "verdict": verdict,
    }  # fmt: skip
