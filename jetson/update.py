"""One update: look, fetch, unpack, build, prove, put on trial. Cut off anywhere, the next call goes on or begins anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from dskd.jetson.bundle_archive import unpack
from dskd.jetson.disk import refuse_link
from dskd.jetson.download import RESERVE, Fetcher, NoRoom, forget
from dskd.jetson.engine_builder import Build, NotNow, no_engine
from dskd.jetson.signing import LARGEST_ENVELOPE, Refused, Statement, open_envelope
from dskd.jetson.slot_state import Slot, State
from dskd.jetson.slots import Slots
from dskd.runtime import atomic
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import DskdError, NotExact
from dskd.runtime.wall_clock import EARLIEST

LONGEST_STEP = 10**9  # between versions: a date with time takes less
Action = Literal["up to date", "on trial", "switched"]


@dataclass(frozen=True)
class Outcome:
    """What an update came to. A refusal is an exception."""

    action: Action
    version: int
    detail: str


class Updater:
    """Brings updates into slots. ``cursor`` gives the store's newest record; ``switched`` is told of a new bundle."""

    def __init__(
        self,
        slots: Slots,
        fetcher: Fetcher,
        build: Build = no_engine,
        cursor: Callable[[], int] = lambda: 0,
        switched: Callable[[], None] = lambda: None,
    ) -> None:
        self.slots, self.fetcher, self.build, self.cursor, self.switched = slots, fetcher, build, cursor, switched

    @property
    def downloads(self) -> Path:
        """Where archives are collected."""
        return self.slots.folder / "download"

    def run(self, raw: bytes | None = None) -> Outcome:
        """Takes the update that ``raw`` announces, by default the newest at the source.

        Raises Refused for what is not taken and why; NotFetched, NoRoom or NotNow where a later call may do better;
        DskdError.
        """
        slots = self.slots
        slots.disk.make_folders(slots.folder)
        with atomic.sole_writer(slots.folder):
            if raw is None:
                raw = self.fetcher.small(f"{slots.product}.update", LARGEST_ENVELOPE)
            statement = open_envelope(raw, slots.trusted, slots.product, slots.threshold)
            state = slots.settle()
            _require_fresh(statement, state)
            state = slots.note_seen(statement)
            standing = _standing(statement, state)
            if standing is not None:
                return standing
            try:
                slot, bundle = self._bring(raw, statement)
                self.build(bundle)
                self._prove(bundle, statement)
            except Refused as refusal:
                slots.refuse(statement.version, str(refusal))
                raise
            except OSError as error:
                self._give_back(statement)
                raise NoRoom(
                    f"version {statement.version}: {error.strerror or error}; check the disk's space and rights"
                ) from error
            except MemoryError as error:
                raise NotNow(f"version {statement.version}: memory is short; it is tried again") from error
            slots.begin_trial(slot, statement, self.cursor())
            forget(self.downloads, statement.archive_sha256, slots.disk)
            self.switched()
            return Outcome("switched", statement.version, f"version {statement.version} ({bundle.id}) is on trial")

    def _bring(self, raw: bytes, statement: Statement) -> tuple[Slot, Bundle]:
        """The update in a slot, whole; there already where an earlier call came that far."""
        slots, slot = self.slots, self.slots.free_slot()
        try:
            there, bundle = slots.load(slot)
            if there == statement:
                return slot, bundle
        except Refused:
            pass
        archive = self.fetcher.archive(
            statement.archive, statement.archive_bytes, statement.archive_sha256, self.downloads, slots.disk
        )
        folder = slots.folder / slot
        _empty(slots, folder)
        if slots.disk.free(slots.folder) < statement.unpacked_bytes + RESERVE:
            raise NoRoom(f"the disk has no room to unpack {statement.unpacked_bytes / 1e6:.0f} MB; free some")
        slots.disk.make_folders(slots.bundle_folder(slot))
        bundle = unpack(archive, statement, slots.bundle_folder(slot), slots.disk)
        slots.disk.write_whole(folder / "update.json", raw)  # last: a slot without it holds nothing
        return slot, bundle

    def _give_back(self, statement: Statement) -> None:
        """A disk that is full is needed by the station more than by us."""
        with suppress(OSError):
            forget(self.downloads, statement.archive_sha256, self.slots.disk)
            _empty(self.slots, self.slots.folder / self.slots.free_slot())

    def _prove(self, bundle: Bundle, statement: Statement) -> None:
        if bundle.id != statement.bundle:
            raise Refused(f"the bundle calls itself {bundle.id}, its statement {statement.bundle}")
        try:
            self.slots.proof(bundle)
        except NotExact as error:  # measured: it is so at every try
            raise Refused(f"version {statement.version} fails its golden check here: {error}") from error
        except DskdError as error:
            raise NotNow(f"version {statement.version} cannot be checked now: {error}; it is tried again") from error


def _require_fresh(statement: Statement, state: State) -> None:
    """Raises Refused for a statement that is no longer valid, or older than one that was seen."""
    now = time.time()
    if statement.expires is not None and EARLIEST < statement.expires < now:
        raise Refused(
            f"the statement of version {statement.version} was valid until {_day(statement.expires)}: the source holds "
            "back newer ones, or nobody published (dskd jetson publish --refresh)"
        )
    if statement.signed is not None and state.signed is not None and statement.signed < state.signed:
        raise Refused(
            f"the statement of {_day(statement.signed)} is older than one of {_day(state.signed)} that was seen here"
        )


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _standing(statement: Statement, state: State) -> Outcome | None:
    """Why nothing is to be done. Raises Refused for a version that must not be taken."""
    version = statement.version
    if state.trial is not None:
        if version == state.trial.version:
            return Outcome("on trial", version, f"version {version} is on trial")
        return Outcome("on trial", state.trial.version, f"version {state.trial.version} is on trial; {version} waits")
    if version == state.version and state.active is not None:
        return Outcome("up to date", version, f"version {version} serves")
    if version > state.version + LONGEST_STEP and state.active is not None and state.allowed != version:
        raise Refused(
            f"version {version} is over {LONGEST_STEP} above {state.version}, which nobody could go back from; where it is "
            f"meant: dskd jetson slots allow --version {version}"
        )
    if version < state.floor:
        raise Refused(f"version {version} is older than the floor {state.floor}")
    if version < state.version:
        raise Refused(f"version {version} is older than {state.version}, which serves: publish it under a new number")
    if str(version) in state.refused:
        raise Refused(f"version {version} was refused before: {state.refused[str(version)]}")
    return None


def _empty(slots: Slots, folder: Path) -> None:
    """What says that the slot holds something goes first."""
    slots.disk.make_folders(folder)
    refuse_link(folder / "bundle")
    slots.disk.clear(folder / "update.json")
    slots.disk.sync_folder(folder)
    for entry in sorted(folder.iterdir()):
        slots.disk.clear(entry)
    slots.disk.sync_folder(folder)
