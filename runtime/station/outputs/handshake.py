"""The PLC's side of one camera: bits and registers, and what happens when they change."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from dskd.runtime.errors import CallError, DskdError, one_line
from dskd.runtime.result import Answer, Verdict
from dskd.runtime.station.control import PlcState
from dskd.runtime.station.outputs.registers import (
    COILS,
    HOLDING_REGISTERS,
    INPUT_REGISTERS,
    INPUTS,
    NOT_INSPECTED_REASON,
    REASONS,
    TEXT,
    VERDICTS,
    address,
    registers_text,
    size,
    text_registers,
    two_registers,
)

NOT_READY_ERROR, PART_ERROR, NO_JOB_ERROR, JOB_ERROR, OVERRUN_ERROR = 10, 11, 20, 21, 30
log = logging.getLogger(__name__)


class ServedCamera(Protocol):
    """What a PLC needs of a camera."""

    def trigger(self, part: str | None) -> str:
        """Announces a part; raises CallError for a bad id, DskdError where it cannot be served."""
        ...

    def plc_state(self) -> PlcState:
        """What the registers say of it."""
        ...


class Handshake:
    """Coils, discrete inputs and registers of one camera. Any thread; every read is consistent in itself.

    ``change_job`` loads the recipe of that number and returns when it serves; it raises CallError where there is none.
    """

    def __init__(self, camera: ServedCamera, change_job: Callable[[int], None], buffer: int) -> None:
        self._camera, self._change_job, self._buffer = camera, change_job, buffer
        self._lock = threading.RLock()
        self._coils = [False] * size(COILS)
        self._holding = [0] * size(HOLDING_REGISTERS)
        self._result = [0] * (size(INPUT_REGISTERS) - address(INPUT_REGISTERS, "ResultNumber"))
        self._waiting: deque[tuple[int, Answer]] = deque()
        self._flags = dict.fromkeys((point.name for point in INPUTS), False)
        self._error = self._triggers = self._answers = 0
        self._started = time.monotonic()

    # ----------------------------------------------------------------------------------------------- from the station

    def answer(self, answer: Answer) -> None:
        """Takes an answer; it is shown once those before it are acknowledged."""
        with self._lock:
            self._answers += 1
            self._flags["Completed"] = not self._flags["Completed"]
            if len(self._waiting) >= self._buffer:
                self._flags["Overrun"], self._error = True, OVERRUN_ERROR
                return
            self._waiting.append((self._answers, answer))
            self._show_next()

    @property
    def waiting(self) -> int:
        """Results that nobody acknowledged yet."""
        return len(self._waiting)

    @property
    def overrun(self) -> bool:
        """Whether results were lost since the PLC cleared it."""
        return self._flags["Overrun"]

    # --------------------------------------------------------------------------------------------------- from the PLC

    def coils(self) -> list[bool]:
        """What the PLC wrote."""
        with self._lock:
            return list(self._coils)

    def inputs(self) -> list[bool]:
        """The status bits."""
        with self._lock:
            state = self._camera.plc_state()
            enabled = self._coils[address(COILS, "TriggerEnable")]
            self._flags["TriggerReady"] = state.ready and enabled
            self._flags["Busy"] = state.parts > 0
            self._flags["Online"] = state.error == 0
            self._flags["Error"] = bool(self._error or state.error)
            self._flags["Heartbeat"] = bool(self._seconds() % 2)
            return [self._flags[point.name] for point in INPUTS]

    def input_registers(self) -> list[int]:
        """Status and result."""
        with self._lock:
            bits = self.inputs()
            state = self._camera.plc_state()
            status = sum(bit << position for position, bit in enumerate(bits))
            head = [status, self._seconds() & 0xFFFF, self._error or state.error, state.job]
            counts = [*two_registers(self._triggers), *two_registers(state.missed), len(self._waiting), 0]
            return head + counts + self._result

    def holding_registers(self) -> list[int]:
        """What the PLC wrote."""
        with self._lock:
            return list(self._holding)

    def write_coils(self, start: int, values: list[bool]) -> None:
        """Takes coils and acts on those that changed; the caller has checked the addresses."""
        with self._lock:
            before = list(self._coils)
            self._coils[start : start + len(values)] = values
            for point in COILS:
                old, new = before[point.address], self._coils[point.address]
                if old != new:
                    self._changed(point.name, new)

    def write_registers(self, start: int, values: list[int]) -> None:
        """Takes holding registers; the caller has checked the addresses."""
        with self._lock:
            self._holding[start : start + len(values)] = values

    # --------------------------------------------------------------------------------------------------------- inside

    def _changed(self, coil: str, up: bool) -> None:
        match coil, up:
            case "Trigger", True:
                self._trigger()
            case "Trigger", False:
                self._flags["TriggerAck"] = False
            case "ResultsAck", True:
                if self._flags["ResultsValid"]:
                    self._waiting.popleft()
                self._flags["ResultsValid"] = False
            case "ResultsAck", False:
                self._show_next()
            case "JobChange", True:
                if not self._flags["JobChanging"]:
                    self._flags["JobChanging"] = True
                    wanted = self._holding[address(HOLDING_REGISTERS, "JobWanted")]
                    threading.Thread(target=self._load_job, args=(wanted,), name="modbus-job", daemon=True).start()
            case "JobChange", False:
                self._flags["JobChanged"] = self._flags["JobFailed"] = False
            case "ClearError", True:
                self._flags["Overrun"] = self._flags["MissedAcq"] = False
                self._error = 0
            case _:
                pass

    def _trigger(self) -> None:
        self._flags["TriggerAck"] = self._flags["MissedAcq"] = False
        if not self._coils[address(COILS, "TriggerEnable")]:
            self._flags["MissedAcq"], self._error = True, NOT_READY_ERROR
            return
        at = address(HOLDING_REGISTERS, "PartWanted")
        try:
            self._camera.trigger(registers_text(self._holding[at : at + TEXT]) or None)
        except DskdError as error:
            self._flags["MissedAcq"] = True
            self._error = PART_ERROR if isinstance(error, CallError) else NOT_READY_ERROR
            return
        self._triggers += 1
        self._flags["TriggerAck"] = True

    def _show_next(self) -> None:
        """Puts the oldest result into the registers, unless the PLC still looks at the one before."""
        if not self._waiting or self._flags["ResultsValid"] or self._coils[address(COILS, "ResultsAck")]:
            return
        number, answer = self._waiting[0]
        found = answer.inspection
        self._result = [
            *two_registers(number),
            VERDICTS[answer.verdict],
            *two_registers(round(1000 * found.score) if found else 0),
            *two_registers(round(1000 * found.threshold) if found else 0),
            min(max(round(1000 * (answer.answered - answer.triggered)), 0), 0xFFFF),
            REASONS.get(answer.reason, NOT_INSPECTED_REASON),
            min(len(found.regions), 0xFFFF) if found else 0,
            *text_registers(answer.part),
        ]
        self._flags["JobPass"] = answer.verdict is Verdict.PASS
        self._flags["ResultsValid"] = True

    def _load_job(self, job: int) -> None:
        error = 0
        try:
            self._change_job(job)
        except CallError as refused:
            log.warning("job %d: %s", job, one_line(str(refused)))
            error = NO_JOB_ERROR
        except Exception as failure:  # a driver's own types too: the PLC must not wait for ever
            log.warning("job %d: %s", job, one_line(str(failure)))
            error = JOB_ERROR
        with self._lock:
            self._flags["JobChanging"] = False
            if self._coils[address(COILS, "JobChange")]:
                self._flags["JobFailed" if error else "JobChanged"] = True
            self._error = error or self._error

    def _seconds(self) -> int:
        return int(time.monotonic() - self._started)
