"""``state.json`` of the slots: which bundle serves, which is on trial, what was refused."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dskd.jetson.signing import Floor, Moment, Version
from dskd.runtime.configuration.strict_yaml import Strict

Slot = Literal["a", "b"]
SLOTS: tuple[Slot, Slot] = ("a", "b")
STATE = "state.json"


class Trial(Strict):
    """A bundle that serves but is not confirmed yet. ``cursor``: the store's newest record when it began."""

    slot: Slot
    version: Version
    bundle: str
    starts: int = Field(0, ge=0)
    since: float
    cursor: int = Field(0, ge=0)


class State(Strict):
    """``state.json``. ``active`` is what was confirmed last, and what a roll-back goes to."""

    schema_version: Literal[1] = 1
    active: Slot | None = None
    version: Floor = 0
    floor: Floor = 0
    trial: Trial | None = None
    refused: dict[str, str] = Field(default_factory=dict, description="why, by version: not tried again")
    believed: dict[Slot, str] = Field(
        default_factory=dict, description="manifest's sha256 of what was taken by a key trusted then, by slot"
    )
    signed: Moment | None = Field(None, description="when the newest statement that was seen was signed")
    seen: Moment | None = Field(None, description="when a valid statement was seen last, by this device's clock")
    allowed: Floor = Field(0, description="version that a person allowed in spite of all")
