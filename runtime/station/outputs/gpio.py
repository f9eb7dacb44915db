"""Pulses on a GPIO line, such as those of a reject valve: after a way, of a width, made by a guard process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from dskd.runtime.backoff import Backoff
from dskd.runtime.configuration.fields import Milliseconds, Name, Place, Text
from dskd.runtime.errors import one_line
from dskd.runtime.result import Answer, Verdict
from dskd.runtime.station.control import PartStatus
from dskd.runtime.station.outputs.base import OutputConfig, OutputKind
from dskd.runtime.status import Health, Status

READY = 10.0  # seconds the guard has to say that it holds the line
ROOT = Path(__file__).parents[3]  # what the guard must be able to import from
log = logging.getLogger(__name__)


class GpioOutput(OutputConfig):
    """A pulse on an output line, such as a reject valve."""

    kind: Literal["gpio"]
    chip: Text = Field("/dev/gpiochip0", description="gpiochip device; board: header pins by Jetson.GPIO")
    line: int = Field(ge=0, le=1023, description="line offset on the chip, or the header's pin number")
    on: list[Verdict] = Field([Verdict.REJECT], min_length=1, description="verdicts that give a pulse")
    delay_ms: Milliseconds = Field(0, description="from the trigger to the pulse: the way from camera to gate")
    pulse_ms: int = Field(50, ge=1, le=60_000, description="width of the pulse")
    active: Literal["high", "low"] = Field("high", description="level that moves the gate; the other one is safe")
    cameras: list[Name] = Field([], description="cameras it listens to; empty: all")

    def cameras_named(self) -> Iterator[tuple[Place, str]]:
        """Those it listens to."""
        return ((("cameras", position), camera) for position, camera in enumerate(self.cameras))

    def claims(self) -> Iterator[tuple[str, object]]:
        """The line."""
        yield "line", (self.chip, self.line)

    def faults(self, deadlines: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """A part must not reach the gate before its answer."""
        for camera in self.cameras or deadlines:
            if 0 < self.delay_ms < deadlines.get(camera, 0):
                what = f"a part reaches the gate {self.delay_ms} ms after its trigger, and camera {camera} may answer"
                yield "delay_ms", f"{what} after {deadlines[camera]} ms; make deadline_ms smaller"


class GpioPulses:
    """One output line. ``delay_ms`` counts from the trigger: a part moves on whether it has been judged or not."""

    def __init__(self, name: str, config: GpioOutput) -> None:
        self.name, self._config = name, config
        self._lock = threading.Lock()
        self._guard: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._status: Status[Health] = Status(f"output {name}", "warning", "the line is not held yet", log)
        self._pulses = self._late = self._lost = 0
        self._last_end = 0.0
        self._thread = threading.Thread(target=self._keep_guard, name=f"gpio-{name}", daemon=True)
        self._thread.start()

    def hears(self, camera: str) -> bool:
        """The cameras named, or all."""
        return not self._config.cameras or camera in self._config.cameras

    def answer(self, answer: Answer) -> None:
        """Orders a pulse where the verdict asks for one."""
        config = self._config
        if answer.verdict not in config.on:
            return
        passed = time.time() - answer.triggered if answer.moment is None else time.monotonic() - answer.moment
        way = config.delay_ms / 1000 - passed
        start, width = time.monotonic() + (max(way, 0.0) if config.delay_ms else 0.0), config.pulse_ms / 1000
        order = f"pulse {start:.6f} {width:.6f}\n".encode()
        with self._lock:
            try:
                if self._guard is None or self._guard.stdin is None:
                    raise OSError("the line is not held")
                os.write(self._guard.stdin.fileno(), order)
            except OSError as error:
                self._lost += 1
                log.error("output %s: no pulse for part %s: %s", self.name, one_line(answer.part), error)
                return
            self._pulses += 1
            self._last_end = max(self._last_end, start + width)
            if config.delay_ms and way < 0:
                self._late += 1
                log.error("output %s: part %s reached the gate before its answer", self.name, one_line(answer.part))

    def status(self) -> PartStatus:
        """Whether the line is held, and pulses that came too late or not at all."""
        with self._lock:
            counts = f"{self._pulses} pulses, {self._late} too late, {self._lost} lost"
            trouble = bool(self._late or self._lost)
        now = self._status.now
        health: Health = "warning" if now.state == "ok" and trouble else now.state
        return PartStatus(self.name, "gpio", health, f"{now.detail}; {counts}", now.since)

    def drain(self, timeout: float) -> None:
        """Waits until the last pulse ordered is over."""
        time.sleep(min(max(self._last_end - time.monotonic(), 0.0), timeout))

    def close(self) -> None:
        """Sets the safe level and gives the line back, after the pulses that were ordered."""
        self._stopping.set()
        with self._lock:
            guard, left = self._guard, max(self._last_end - time.monotonic(), 0.0)
        if guard is not None:
            if guard.stdin is not None:
                guard.stdin.close()
            try:
                guard.wait(left + 2.0)
            except subprocess.TimeoutExpired:
                guard.kill()
        self._thread.join(READY)

    def _keep_guard(self) -> None:
        backoff = Backoff(first=0.5, most=10.0)
        while not self._stopping.is_set():
            try:
                reason = self._run_guard()
            except OSError as error:  # no memory, process or descriptor left for it, now
                reason = f"no guard can be started ({one_line(str(error))})"
            if self._stopping.is_set():
                break
            self._status.enter("fault", f"{reason}; trying again")
            self._stopping.wait(backoff.delay())

    def _run_guard(self) -> str:
        """Starts a guard and waits for its end; returns why it ended."""
        config = self._config
        command = [sys.executable, "-m", "dskd.runtime.station.outputs.gpio_guard"]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        guard = subprocess.Popen(  # noqa: S603
            [*command, config.chip, str(config.line), config.active, f"dskd-{self.name}"[:31]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert guard.stdin is not None
        assert guard.stdout is not None
        with guard, guard.stdout:
            said = guard.stdout.readline().decode(errors="replace").strip()
            if said != "ready":
                return one_line(said) or "the guard ended at once"
            os.set_blocking(guard.stdin.fileno(), False)
            with self._lock:
                self._guard = guard
            self._status.enter("ok", f"line {config.line} of {config.chip} held")
            guard.wait()
            with self._lock:
                self._guard = None
        return f"the guard ended ({guard.returncode})"


KIND = OutputKind(GpioOutput, lambda config, context: GpioPulses(context.name, config))
