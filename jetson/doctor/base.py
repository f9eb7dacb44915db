"""What a check gets and what it gives."""

from __future__ import annotations

import os
import pwd
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from dskd.jetson.doctor.probe import Library, cuda_refusal, probe
from dskd.jetson.machine import Machine
from dskd.jetson.platform import Platform, find_platform
from dskd.jetson.power import PowerState, read_power
from dskd.jetson.telemetry import Reading, read_telemetry
from dskd.runtime.bundle.loading import Bundle, default_bundle, load_bundle

Status = Literal["OK", "WARN", "FAIL"]
SERVICE_USER = "dskd"


@dataclass(frozen=True)
class Finding:
    """What a check found, in a sentence, and what to type or do; ``mend`` is empty where all is well."""

    status: Status
    detail: str
    mend: str = ""


def ok(detail: str) -> Finding:
    """All is well."""
    return Finding("OK", detail)


def warn(detail: str, mend: str) -> Finding:
    """It works, but not as it should."""
    return Finding("WARN", detail, mend)


def fail(detail: str, mend: str) -> Finding:
    """A station does not work like this."""
    return Finding("FAIL", detail, mend)


@dataclass(frozen=True)
class User:
    """Whose rights are looked at."""

    name: str
    uid: int
    groups: frozenset[int]

    def may(self, file: Path, bits: int) -> bool:
        """Whether the permission bits (4 read, 2 write) let this user; root always. Raises OSError."""
        status = file.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid in self.groups else 0
        return self.uid == 0 or (status.st_mode >> shift) & bits == bits


def find_user(name: str | None) -> User:
    """The named user, by default the service's where it exists, else the one who asks. Raises KeyError."""
    try:
        entry = pwd.getpwnam(name or SERVICE_USER)
    except KeyError:
        if name is not None:
            raise
        return User(str(os.geteuid()), os.geteuid(), frozenset((os.getegid(), *os.getgroups())))
    return User(entry.pw_name, entry.pw_uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))


@dataclass
class Context:
    """The machine under examination. Costly looks are taken once, and only where a check asks for them."""

    machine: Machine = field(default_factory=Machine)
    python: str = sys.executable
    bundle: Path = field(default_factory=default_bundle)
    data: Path = field(default_factory=Path.cwd)
    user: User = field(default_factory=lambda: find_user(None))
    power_mode: str | None = None
    now: float = field(default_factory=time.time)
    wait: float = 1.0  # seconds between two readings of the throttle counters

    @cached_property
    def platform(self) -> Platform:
        """Module, L4T, JetPack."""
        return find_platform(self.machine)

    @cached_property
    def reading(self) -> Reading:
        """The sensors."""
        return read_telemetry(self.machine)

    @cached_property
    def power(self) -> PowerState:
        """Power mode and clocks."""
        return read_power(self.machine)

    @cached_property
    def libraries(self) -> dict[str, Library]:
        """Each library as the station's Python finds it."""
        return probe(self.python)

    @cached_property
    def cuda_refusal(self) -> str | None:
        """Why CUDA does not start for ``user``, empty where it does; None where only root could ask, or nobody."""
        here, me = self.machine.root == Path("/"), os.geteuid()
        if not here or not (self.platform.is_jetson or self.machine.glob("/dev/nvidia*")):
            return None
        if self.user.uid == me:
            return cuda_refusal(self.python, None)
        return cuda_refusal(self.python, self.user.name) if me == 0 else None

    @cached_property
    def loaded_bundle(self) -> Bundle:
        """The bundle, every byte checked. Raises DskdError."""
        return load_bundle(self.bundle)
