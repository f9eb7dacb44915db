"""The Modbus register map: what a PLC reads and writes, at which address. ``docs/modbus.md`` is made from it."""

from __future__ import annotations

from dataclasses import dataclass

from dskd.runtime.reason import Reason
from dskd.runtime.result import Verdict

TEXT = 32  # registers of a part id: 64 characters, two in a register, the first in the high byte, NUL at the end
DEADLINE_REASON, NOT_INSPECTED_REASON = 1, 2  # in register Reason
REASONS = {
    Reason.INSPECTED: 0,
    Reason.NO_FRAME: DEADLINE_REASON,
    Reason.NO_VERDICT: DEADLINE_REASON,
    Reason.LATE: DEADLINE_REASON,
}  # all others: NOT_INSPECTED_REASON
VERDICTS = {Verdict.PASS: 1, Verdict.REVIEW: 2, Verdict.REJECT: 3}


@dataclass(frozen=True)
class Point:
    """One entry of the map; ``size`` in bits or registers."""

    address: int
    name: str
    meaning: str
    size: int = 1

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.address + self.size


COILS = (  # functions 1, 5, 15
    Point(0, "TriggerEnable", "1: triggers are taken"),
    Point(1, "Trigger", "0 to 1: inspect one part; back to 0 after TriggerAck or MissedAcq"),
    Point(2, "ResultsAck", "0 to 1: the result was read; back to 0 after ResultsValid fell: the next one comes"),
    Point(3, "JobChange", "0 to 1: load the job in JobWanted; back to 0 after JobChanged or JobFailed"),
    Point(4, "ClearError", "0 to 1: forget Overrun, MissedAcq and the last error"),
)
INPUTS = (  # function 2, and packed into the first input register
    Point(0, "TriggerReady", "a trigger would be taken now"),
    Point(1, "TriggerAck", "the trigger was taken; falls with Trigger"),
    Point(2, "MissedAcq", "the last trigger was not taken"),
    Point(3, "Busy", "at least one part is under way"),
    Point(4, "Completed", "changes with every answered part"),
    Point(5, "ResultsValid", "the result registers hold a result that was not acknowledged"),
    Point(6, "Overrun", "results were lost because none was acknowledged"),
    Point(7, "JobPass", "the result is PASS"),
    Point(8, "Error", "ErrorCode is not 0"),
    Point(9, "Online", "camera, backend and store work"),
    Point(10, "JobChanging", "a job is being loaded; the present one serves"),
    Point(11, "JobChanged", "the job wanted serves; falls with JobChange"),
    Point(12, "JobFailed", "the job wanted could not be loaded, the old one serves; falls with JobChange"),
    Point(13, "Heartbeat", "changes once a second"),
)
INPUT_REGISTERS = (  # function 4
    Point(0, "Status", "the discrete inputs, address 0 in the lowest bit"),
    Point(1, "HeartbeatCount", "seconds, from 0 again after 65535"),
    Point(2, "ErrorCode", "see below"),
    Point(3, "CurrentJob", "number of the recipe in use, 0 where it has none"),
    Point(4, "TriggerCount", "triggers taken, 32 bits", 2),
    Point(6, "MissedCount", "triggers missed, 32 bits", 2),
    Point(8, "ResultsWaiting", "results not acknowledged yet"),
    Point(10, "ResultNumber", "counts answers, 32 bits; a gap shows an overrun", 2),
    Point(12, "Verdict", "1 PASS, 2 REVIEW, 3 REJECT; 0 before the first"),
    Point(13, "Score", "score x 1000, 32 bits, signed; 0 where nothing was inspected", 2),
    Point(15, "Threshold", "reject threshold x 1000, 32 bits, signed", 2),
    Point(17, "Latency", "milliseconds from trigger to answer, at most 65535"),
    Point(18, "Reason", "0 inspected, 1 no verdict before the deadline, 2 could not be inspected"),
    Point(19, "Regions", "number of regions"),
    Point(20, "PartId", "the part, 64 characters", TEXT),
)
HOLDING_REGISTERS = (  # functions 3, 6, 16
    Point(0, "JobWanted", "number of the recipe to load"),
    Point(1, "PartWanted", "id of the next part, 64 characters; empty: the station makes one", TEXT),
)
ERRORS = {
    0: "none",
    1: "the camera does not run",
    2: "the backend does not run",
    3: "the store takes no records",
    10: "a trigger came while TriggerReady was 0",
    11: "the part id is not printable, or under way already",
    20: "no recipe has the number in JobWanted",
    21: "the recipe cannot be loaded",
    30: "results were lost: acknowledge faster",
}
AREAS = {
    "Coils, to write (functions 1, 5, 15)": COILS,
    "Discrete inputs, to read (function 2)": INPUTS,
    "Input registers, to read (function 4)": INPUT_REGISTERS,
    "Holding registers, to write (functions 3, 6, 16)": HOLDING_REGISTERS,
}


def size(area: tuple[Point, ...]) -> int:
    """Addresses of an area, from 0 on."""
    return max(point.end for point in area)


def address(area: tuple[Point, ...], name: str) -> int:
    """Where ``name`` stands."""
    return next(point.address for point in area if point.name == name)


def text_registers(text: str) -> list[int]:
    """A part id as registers; what is not ASCII becomes a question mark."""
    data = text.encode("ascii", "replace")[: 2 * TEXT].ljust(2 * TEXT, b"\0")
    return [data[k] << 8 | data[k + 1] for k in range(0, 2 * TEXT, 2)]


def registers_text(registers: list[int]) -> str:
    """The text of registers, up to the first NUL."""
    data = b"".join(value.to_bytes(2, "big") for value in registers)
    return data.partition(b"\0")[0].decode("ascii", "replace").strip()


def two_registers(value: int) -> list[int]:
    """32 bits, the high register first; what does not fit is cut to the nearest that does."""
    bounded = max(-(1 << 31), min(value, (1 << 32) - 1)) & 0xFFFFFFFF
    return [bounded >> 16, bounded & 0xFFFF]


def document() -> str:
    """``docs/modbus.md``."""
    parts = [_HEAD]
    for title, area in AREAS.items():
        parts.append(f"\n## {title}\n\n| address | size | name | meaning |\n|---|---|---|---|")
        parts += [f"| {point.address} | {point.size} | {point.name} | {point.meaning} |" for point in area]
    parts.append("\n## Error codes\n\n| code | meaning |\n|---|---|")
    parts += [f"| {code} | {meaning} |" for code, meaning in ERRORS.items()]
    return "\n".join(parts) + "\n"


_HEAD = """# Modbus

A station is a Modbus TCP server: one `modbus` output per camera, any unit id. Addresses count from 0. A value of 32 bits
has its high register first. One read of input registers 0 to 51 is consistent in itself. Nothing but coils and holding
registers can be written; everything else is answered with exception 1, 2 or 3. Modbus knows no password: the server
listens on loopback unless the station file says otherwise, and then serves only the clients that `allow` lists.

One part:

1. TriggerEnable = 1 once. Wait for TriggerReady. Write PartWanted if the PLC numbers its parts.
2. Trigger = 1. TriggerAck says that the part will be answered before its deadline, MissedAcq that it will not be
   answered at all. Trigger = 0.
3. ResultsValid: read the result registers. ResultsAck = 1, wait until ResultsValid is 0, ResultsAck = 0.

Every part whose trigger was taken has one result, in the order of the triggers. A part that could not be inspected has
the fail-safe verdict and a reason. Results that are not acknowledged wait (`buffer` in the station file); when there is
no more room the newest are lost and Overrun is set. The next trigger need not wait for the last result.

What was written stays as it is when a connection is lost. So begin a new one with Trigger = 0 and wait until TriggerAck is 0: a
Trigger that is still 1 does not rise again, and its old TriggerAck would be taken for one of the next part."""
