"""Two places for a bundle: one serves, the other takes the next. A new one is on trial until it has proved itself.

``state.json`` is the only truth and is replaced in one step; ``current`` is a link made from it, for the station's
configuration. Whatever is cut off where, the state names a slot whose bundle was whole and proved when it was named.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dskd.jetson.bundle_archive import check
from dskd.jetson.disk import Disk
from dskd.jetson.signing import (
    LARGEST_ENVELOPE,
    Refused,
    Statement,
    UnknownSigner,
    open_envelope,
)
from dskd.jetson.slot_state import SLOTS, STATE, Slot, State, Trial
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import CallError, DskdError, NotExact, one_line
from dskd.runtime.inspection.proved import open_proved

MOST_STARTS = 3  # of a bundle on trial: a station that dies with it this often gets the old one back
MOST_REFUSALS = 20  # kept: the newest
SEEN_EVERY = 3600.0  # seconds
Proof = Callable[[Bundle], None]


@dataclass(frozen=True)
class Start:
    """What to start from, and what happened on the way."""

    slot: Slot
    bundle: Bundle
    version: int
    on_trial: bool
    rolled_back: str = ""


def prove(bundle: Bundle) -> None:
    """The golden check on the backend that would run. Raises DskdError."""
    backend, _ = open_proved(bundle)
    backend.close()


class Slots:
    """The slots of one product below ``folder``. One process at a time changes them (``atomic.sole_writer``)."""

    def __init__(
        self, folder: Path, product: str, trusted: dict[str, Any], disk: Disk | None = None, proof: Proof = prove,
        threshold: int = 1,
    ) -> None:  # fmt: skip
        """``threshold``: how many of the ``trusted`` keys must have signed an update."""
        self.folder, self.product, self.trusted, self.proof = folder, product, trusted, proof
        self.threshold = threshold
        self.disk = disk or Disk()
        self._held = 0

    @property
    def current(self) -> Path:
        """The link that the station's configuration names as its bundle."""
        return self.folder / "current"

    def bundle_folder(self, slot: Slot) -> Path:
        """Where a slot's bundle stands."""
        return self.folder / slot / "bundle"

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Holds the state for a read and the write after it; the agent and a starting station may meet."""
        if not self._held:
            self.disk.make_folders(self.folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            handle = os.open(self.folder / ".state.lock", flags, 0o644)
        self._held += 1
        try:
            if self._held == 1:
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            self._held -= 1
            if not self._held:
                os.close(handle)

    def read(self) -> State:
        """The state. A file that is lost or cannot be read is none of an update's doing; then the slots are asked."""
        try:
            return State.model_validate_json((self.folder / STATE).read_bytes())
        except (OSError, ValidationError, ValueError):
            return self._found()

    def settle(self) -> State:
        """The state, written where it was lost: from then on it is the only truth again."""
        with self._changing():
            found = self.read()
            state = found.model_copy(update={"believed": {**self._signed_now(), **found.believed}})
            if state != found or not (self.folder / STATE).exists():
                self._write(state)
            return state

    def _signed_now(self) -> dict[Slot, str]:
        """The manifest's sha256 of each slot whose update is signed as it must be."""
        signed: dict[Slot, str] = {}
        for slot in SLOTS:
            with suppress(DskdError):
                signed[slot] = self.statement(slot).manifest_sha256
        return signed

    def note_seen(self, statement: Statement) -> State:
        """Keeps in mind that a valid statement was seen now. Written at most once an hour, or when it is a newer one."""
        with self._changing():
            state, now = self.read(), time.time()
            signed = max(filter(None, (state.signed, statement.signed)), default=None)
            if signed != state.signed or state.seen is None or not 0 <= now - state.seen < SEEN_EVERY:
                state = state.model_copy(update={"signed": signed, "seen": now})
                self._write(state)
            return state

    def alive(self) -> None:
        """The bundle on trial has inspected parts since it was started: that start was no failure."""
        with self._changing():
            state = self.read()
            if state.trial is not None and state.trial.starts > 0:
                self._write(state.model_copy(update={"trial": state.trial.model_copy(update={"starts": 0})}))

    def allow(self, version: int) -> State:
        """A person takes a refusal of ``version`` back."""
        with self._changing():
            state = self.settle()
            refused = {number: why for number, why in state.refused.items() if int(number) != version}
            state = state.model_copy(update={"refused": refused, "allowed": version})
            self._write(state)
            return state

    def statement(self, slot: Slot) -> Statement:
        """What a slot's update says of itself, its signature checked. Raises Refused.

        A key that was trusted when the update was taken may be gone since: what was taken then still serves.
        """
        try:
            raw = (self.folder / slot / "update.json").read_bytes()[: LARGEST_ENVELOPE + 1]
        except OSError as error:
            raise Refused(f"slot {slot} holds no update ({error.strerror})") from error
        try:
            return open_envelope(raw, self.trusted, self.product, self.threshold)
        except UnknownSigner as unknown:
            if self._believed().get(slot) == unknown.statement.manifest_sha256:
                return unknown.statement
            raise

    def load(self, slot: Slot) -> tuple[Statement, Bundle]:
        """A slot's statement and bundle, signature and every byte checked. Raises Refused."""
        statement = self.statement(slot)
        return statement, check(self.bundle_folder(slot), statement)

    def holds_any(self) -> bool:
        """Whether an update was ever installed here."""
        return (self.folder / STATE).exists() or any((self.folder / slot / "update.json").exists() for slot in SLOTS)

    def free_slot(self) -> Slot:
        """The slot that serves nothing."""
        state = self.read()
        return next(
            slot for slot in SLOTS if slot != state.active and (state.trial is None or slot != state.trial.slot)
        )

    def begin_trial(self, slot: Slot, statement: Statement, cursor: int) -> None:
        """From the next start on the station runs ``slot``, whose bundle was proved."""
        trial = Trial(slot=slot, version=statement.version, bundle=statement.bundle, since=time.time(), cursor=cursor)
        with self._changing():
            state = self.settle()
            believed = {**state.believed, slot: statement.manifest_sha256}
            self._write(state.model_copy(update={"trial": trial, "believed": believed}))
            self._point(slot)

    def boot(self) -> Start:
        """What the station starts from; counts the start of a bundle on trial. Raises CallError where there is none."""
        with self._changing():
            return self._boot(self.settle())

    def _boot(self, state: State) -> Start:
        said = ""
        if state.trial is not None and state.trial.starts >= MOST_STARTS:
            said = f"version {state.trial.version} was started {MOST_STARTS} times and never confirmed"
            state = self.roll_back(said)
        elif state.trial is not None:  # counted before anything is tried: what kills the device now is counted too
            counted = state.trial.model_copy(update={"starts": state.trial.starts + 1})
            state = state.model_copy(update={"trial": counted})
            self._write(state)
        if (trial := state.trial) is not None:
            try:
                return self._start(trial.slot, on_trial=True)
            except (NotExact, Refused) as error:  # wrong or damaged, and so at every start
                said = f"version {trial.version} on trial: {one_line(str(error))}"
                state = self.roll_back(said)
            except DskdError as error:
                said = f"version {trial.version} waits: {one_line(str(error))}"
                state = self._not_counted(state)
        if state.active is None:
            raise CallError(f"{self.folder}: no bundle is installed{f' ({said})' if said else ''}; update first")
        try:
            return self._start(state.active, on_trial=False, rolled_back=said)
        except DskdError as error:
            return self._last_resort(state, error)

    def _not_counted(self, state: State) -> State:
        """A start that failed for want of memory or a device says nothing about the bundle: it is tried again."""
        assert state.trial is not None
        trial = state.trial.model_copy(update={"starts": max(state.trial.starts - 1, 0)})
        state = state.model_copy(update={"trial": trial})
        self._write(state)
        return state

    def confirm(self) -> State:
        """The bundle on trial has proved itself: it is what roll-backs go to from now on, and its floor holds."""
        with self._changing():
            state = self.read()
            if state.trial is None:
                raise CallError(f"{self.folder}: nothing is on trial")
            statement, _ = self.load(state.trial.slot)
            kept = {version: why for version, why in state.refused.items() if int(version) > statement.version}
            floor = max(state.floor, statement.floor)
            fields = {"active": state.trial.slot, "version": statement.version, "floor": floor, "refused": kept}
            confirmed = state.model_copy(update={**fields, "trial": None, "allowed": 0})
            self._write(confirmed)
            return confirmed

    def roll_back(self, reason: str) -> State:
        """Back to what was confirmed last; the version on trial is not taken again."""
        with self._changing():
            state = self.read()
            if state.trial is None:
                raise CallError(f"{self.folder}: nothing is on trial")
            state = self.refuse(state.trial.version, reason)
            if state.active is not None:
                self._point(state.active)
            return state

    def refuse(self, version: int, reason: str) -> State:
        """Keeps in mind that ``version`` is not taken, and ends its trial."""
        with self._changing():
            state = self.read()
            refused = {**state.refused, str(version): one_line(reason)[:500]}
            trial = None if state.trial is None or state.trial.version == version else state.trial
            newest = dict(sorted(refused.items(), key=lambda item: int(item[0]))[-MOST_REFUSALS:])
            state = state.model_copy(update={"trial": trial, "refused": newest})
            self._write(state)
            return state

    def _start(self, slot: Slot, on_trial: bool, rolled_back: str = "") -> Start:
        statement, bundle = self.load(slot)
        self.proof(bundle)
        self._point(slot)
        return Start(slot, bundle, statement.version, on_trial, rolled_back)

    def _last_resort(self, state: State, error: DskdError) -> Start:
        """The confirmed bundle was damaged after it was confirmed: the older one, where the floor allows it."""
        other = next(slot for slot in SLOTS if slot != state.active)
        try:
            statement, _ = self.load(other)
            if statement.version < state.floor or str(statement.version) in state.refused:
                raise Refused(f"version {statement.version} in slot {other} may not serve")
            start = self._start(other, on_trial=False, rolled_back=one_line(str(error)))
        except DskdError as second:
            raise DskdError(f"{self.folder}: no slot can serve: {error}; {second}; update again") from error
        self._write(state.model_copy(update={"active": other, "version": statement.version}))
        return start

    def _found(self) -> State:
        """A state from what stands in the slots: the newest whole one is taken as confirmed."""
        whole: dict[Slot, Statement] = {}
        for slot in SLOTS:
            try:
                whole[slot], bundle = self.load(slot)
                self.proof(bundle)
            except DskdError:
                whole.pop(slot, None)
        if not whole:
            return State()
        best = max(whole, key=lambda slot: whole[slot].version)
        return State(active=best, version=whole[best].version, floor=max(s.floor for s in whole.values()))

    def _write(self, state: State) -> None:
        self.disk.write_whole(self.folder / STATE, state.model_dump_json(indent=1).encode() + b"\n")

    def _believed(self) -> dict[Slot, str]:
        """As ``read``, without asking the slots."""
        try:
            return State.model_validate_json((self.folder / STATE).read_bytes()).believed
        except (OSError, ValidationError, ValueError):
            return {}

    def _point(self, slot: Slot) -> None:
        self.disk.point(self.current, f"{slot}/bundle")
