"""GPIO pulses: the guard's timing, and that no end of the station leaves the line active.

A gpiochip is in the emulated machine alone (test_arm_machine.py); here the guard drives a line that writes down what happens.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from station_files import wait_for, write_station

from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.reason import Reason
from dskd.runtime.result import Answer, Verdict
from dskd.runtime.station.__main__ import main as station
from dskd.runtime.station.config import GpioTrigger
from dskd.runtime.station.outputs import gpio_guard, line_test
from dskd.runtime.station.outputs.gpio import GpioOutput, GpioPulses
from dskd.runtime.station.outputs.gpio_lines import LineUnusable, open_output
from dskd.runtime.station.triggers import EdgeTrigger

CRASHING = """
import os, signal, subprocess, sys, time
guard = subprocess.Popen([sys.executable, "-c", {guard!r}], stdin=subprocess.PIPE)
time.sleep(1.5)
now = time.monotonic()
guard.stdin.write(f"pulse {{now:.6f}} 0.6\\npulse {{now + 1.0:.6f}} 0.1\\n".encode())
guard.stdin.flush()
time.sleep(0.3)
os.kill(os.getpid(), signal.SIGKILL)
"""
GUARD = """
import signal, sys
from dskd.runtime.station.outputs import gpio_guard
class Line:
    def set(self, active): open({file!r}, "a").write("1" if active else "0")
    def close(self): open({file!r}, "a").write("c")
gpio_guard.open_output = lambda *_: Line()
gpio_guard.main(["chip", "0", "high", "gate"])
"""


class Recorded:
    """A line that keeps what it was set to, and when."""

    def __init__(self) -> None:
        self.levels: list[tuple[float, bool]] = []
        self.closed = False

    def set(self, active: bool) -> None:
        self.levels.append((time.monotonic(), active))

    def close(self) -> None:
        self.closed = True


def served(orders: list[str]) -> Recorded:
    """What the guard makes of orders that all come at once, until the pipe closes."""
    line = Recorded()
    reading, writing = os.pipe()
    thread = threading.Thread(target=gpio_guard.serve, args=(line, reading))
    thread.start()
    os.write(writing, "".join(f"{order}\n" for order in orders).encode())
    os.close(writing)
    thread.join(20)
    os.close(reading)
    assert line.closed
    return line


def test_pulses_come_in_time_and_overlapping_ones_are_one() -> None:
    now = time.monotonic()
    line = served([f"pulse {now + 0.2} 0.1", f"pulse {now + 0.25} 0.1", f"pulse {now + 0.6} 0.05"])
    assert [level for _, level in line.levels] == [True, False, True, False, False]
    for (moment, _), due in zip(line.levels, (0.2, 0.35, 0.6, 0.65), strict=False):
        assert due <= moment - now < due + 5  # a shared machine; never too early


def test_a_late_order_has_its_full_width() -> None:
    line = served([f"pulse {time.monotonic() - 5} 0.2"])
    assert [level for _, level in line.levels][:2] == [True, False]
    assert line.levels[1][0] - line.levels[0][0] >= 0.19


@given(st.binary(max_size=60))
def test_an_order_that_is_none_moves_nothing(order: bytes) -> None:
    found = gpio_guard.parse(order)
    assert found is None or 0 < found[1] - found[0] <= gpio_guard.LONGEST_PULSE


@pytest.mark.parametrize(
    "order", ["pulse nan 1", "pulse 0 nan", "pulse inf 1", "pulse 0 -1", "pulse 0 61", "pulse 1e300 1"]
)
def test_no_order_holds_the_line_for_ever(order: str) -> None:
    assert gpio_guard.parse(order.encode()) is None


def test_the_guard_imports_nothing_heavy() -> None:
    script = "import sys, dskd.runtime.station.outputs.gpio_guard; print(sorted({'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("ends_with", ["", "term"])
def test_a_station_that_is_killed_leaves_the_line_inactive(tmp_path: Path, ends_with: str) -> None:
    """The pulses ordered are made, those parts are on the belt; then the line is released at its safe level."""
    file = tmp_path / "levels"
    program = CRASHING.format(guard=GUARD.format(file=str(file)))
    if ends_with:  # systemd tells the guard too: it stays until the station is gone
        program = program.replace("time.sleep(0.3)", "guard.terminate(); time.sleep(0.3)")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == -9
    wait_for(lambda: file.read_text().endswith("c"))
    assert file.read_text() in ("10100c", "101000c")


def test_a_pulse_is_due_by_the_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part travels on while somebody sets the wall clock."""
    monkeypatch.setattr(GpioPulses, "_keep_guard", lambda self: None)
    pulses = GpioPulses("gate", GpioOutput(kind="gpio", line=3, delay_ms=500))
    pulses._guard = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    now = time.monotonic()
    for wall in (time.time() - 3600, time.time() + 3600):
        pulses.answer(Answer("top", "A", Verdict.REJECT, Reason.INSPECTED, wall, wall, moment=now - 0.2))
    assert pulses._guard.stdout is not None
    pulses.close()
    orders = pulses._guard.stdout.read().decode().splitlines()
    assert len(orders) == 2
    for order in orders:
        assert 0.2 < float(order.split()[1]) - now < 0.35


def test_a_guard_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(self: GpioPulses) -> str:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(GpioPulses, "_run_guard", no_process)
    pulses = GpioPulses("gate", GpioOutput(kind="gpio", line=3))
    wait_for(lambda: "no guard can be started" in pulses.status().detail)
    assert pulses._thread.is_alive()
    pulses.close()


def test_without_a_chip_it_says_so_and_tries_again(tmp_path: Path) -> None:
    if Path("/dev/gpiochip0").exists():
        pytest.skip("this machine has a gpiochip")
    pulses = GpioPulses("gate", GpioOutput(kind="gpio", line=3))
    wait_for(lambda: pulses.status().health == "fault")
    assert "there is no /dev/gpiochip0" in pulses.status().detail
    pulses.answer(Answer("top", "A", Verdict.REJECT, Reason.INSPECTED, time.time(), time.time()))
    assert "1 lost" in pulses.status().detail
    pulses.close()
    trigger = EdgeTrigger("top", GpioTrigger(kind="gpio", line=3), lambda part, moment: "")
    trigger.start()
    wait_for(lambda: trigger.status().health == "fault")
    trigger.stop()
    with pytest.raises(LineUnusable, match="Jetson"):
        open_output("board", 7, False, "x")


# ------------------------------------------------------------------------------------------------- dskd station test-output


def test_a_line_is_pulsed_while_somebody_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = {"gate": {"kind": "gpio", "line": 7, "active": "low", "pulse_ms": 1}}
    file, line, asked = write_station(tmp_path, outputs=outputs), Recorded(), list[object]()
    monkeypatch.setattr(line_test, "open_output", lambda *wanted: asked.append(wanted) or line)
    assert station(["test-output", "gate", "--station", str(file), "--pulses", "2", "--pause", "0"]) == 0
    assert asked == [("/dev/gpiochip0", 7, True, "dskd-test-output")]
    assert [level for _, level in line.levels] == [True, False, True, False, False]
    assert line.closed
    said = capsys.readouterr().out
    assert "pulse 2 of 2: line 7 of /dev/gpiochip0 is low for 1 ms" in said
    assert "jetson-io" in said


def test_what_cannot_be_pulsed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_station(tmp_path, outputs={"gate": {"kind": "gpio", "line": 7, "chip": "/dev/nix"}})
    with pytest.raises(CallError, match=r"no GPIO output 'valve' in .*; it has: gate"):
        station(["test-output", "valve", "--station", str(file)])
    with pytest.raises(CallError, match="--pulses goes from"):
        station(["test-output", "gate", "--station", str(file), "--pulses", "0"])

    def held(*_: object) -> None:
        raise LineUnusable("line 7 of /dev/nix cannot be had")

    monkeypatch.setattr(line_test, "open_output", held)
    with pytest.raises(DskdError, match="cannot be had; a running station holds its lines"):
        station(["test-output", "gate", "--station", str(file)])
