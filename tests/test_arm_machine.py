"""A real GPIO chip and V4L2 cameras in an emulated aarch64 machine, both in one boot.

Of pulses it is seen what the kernel says of the line while the guard works.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import arm_machine
import pytest
from arm_root import make_root
from conftest import ROOT
from v4l2_program import PROGRAM, assert_told

GPIO_PROGRAM = r"""
import json, os, re, signal, subprocess, sys, time
import gpiod

def level(name):  # 'hi' or 'lo', None where nobody by that name holds a line
    found = re.search(name + r"[^)]*\) out (hi|lo)", open("/sys/kernel/debug/gpio").read())
    return found and found[1]

def guard(line, active, name, chip="/dev/gpiochip0"):
    command = [sys.executable, "-m", "dskd.runtime.station.outputs.gpio_guard", chip, str(line), active, name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

def said(process):
    return process.stdout.readline().strip()

def changes(name, seconds):
    seen, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        now = level(name)
        if not seen or seen[-1][1] != now:
            seen.append((round(time.monotonic(), 3), now))
        time.sleep(0.01)
    return seen

def pulse(process, after, width):
    start = time.monotonic() + after
    process.stdin.write(f"pulse {start:.6f} {width:.6f}\n")
    return start

told = {"chip": open("/sys/kernel/debug/gpio").readline().strip()}
gate = guard(2, "high", "gate")
told["ready"] = said(gate)
start = pulse(gate, 0.5, 0.4)
told["pulse"] = [(round(at - start, 3), now) for at, now in changes("gate", 2.0)]
told["taken"] = said(guard(2, "high", "thief"))
told["no line"] = said(guard(99, "high", "thief"))
told["no chip"] = said(guard(0, "high", "thief", "/dev/gpiochip9"))
low = guard(4, "low", "sorter")
told["low ready"] = said(low)
pulse(low, 0.3, 0.3)
told["low pulse"] = [now for _, now in changes("sorter", 1.5)]
gate.stdin.close()
told["closed"] = gate.wait(30), level("gate")
if os.fork() == 0:  # a station that is killed in the middle of a pulse
    valve = guard(5, "high", "valve")
    said(valve)
    pulse(valve, 0.0, 1.5)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
while level("valve") != "hi":
    time.sleep(0.01)
told["killed"] = [now for _, now in changes("valve", 5.0)]
as_it_is = gpiod.LineSettings(direction=gpiod.line.Direction.AS_IS)
with gpiod.request_lines("/dev/gpiochip0", consumer="look", config={(2, 5): as_it_is}) as look:
    told["left"] = [value.value for value in look.get_values([2, 5])]
print("TOLD " + json.dumps(told))
"""


SAME = ("annotated_types", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection", "pyyaml")  # as here
WHEELS = ["gpiod>=2.1", "numpy<2.3", "opencv-python-headless>=4.9", *(f"{name}=={version(name)}" for name in SAME)]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the programs said inside."""
    absent = arm_machine.missing()
    if absent:
        pytest.skip(absent)
    folder = tmp_path_factory.mktemp("machine")
    work = fetch_code(folder)
    (work / "gpio.py").write_text(GPIO_PROGRAM)
    (work / "v4l2.py").write_text(PROGRAM)
    lines = ["export PYTHONPATH=/mnt/code PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1"]
    (work / "job.sh").write_text("\n".join([*lines, "python3 /mnt/gpio.py", "python3 /mnt/v4l2.py opencv\n"]))
    out = arm_machine.run(folder, arm_machine.fetch_kernel(folder), make_root(folder / "base"), work)
    found = [json.loads(line.removeprefix("TOLD ")) for line in out.splitlines() if line.startswith("TOLD ")]
    assert len(found) == 2, out
    return found


def fetch_code(folder: Path) -> Path:
    """A folder to share, with the runtime and wheels for aarch64 unpacked in ``code``; skips where pip finds none."""
    wanted = ["--only-binary=:all:", "--no-deps", "--python-version", "3.11", "--dest", str(folder / "wheels")]
    for platform in ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64"):
        wanted += ["--platform", platform]
    command = [sys.executable, "-m", "pip", "download", "-q", *wanted, *WHEELS]
    got = subprocess.run(command, capture_output=True, text=True, check=False)
    if got.returncode:
        pytest.skip(f"wheels for aarch64 cannot be fetched: {got.stderr.strip()[-200:]}")
    work = folder / "work"
    for wheel in (folder / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(work / "code")
    left_out = shutil.ignore_patterns("__pycache__", "static")
    shutil.copytree(ROOT / "runtime", work / "code" / "dskd" / "runtime", ignore=left_out)
    shutil.copy(ROOT / "dskd" / "__init__.py", work / "code" / "dskd")
    return work


@pytest.mark.thorough
@pytest.mark.slow
def test_cameras_through_opencv(told: list[dict[str, Any]]) -> None:
    assert_told(told[1], "OpenCvSource")


@pytest.mark.thorough
@pytest.mark.slow
def test_pulses_are_seen_on_the_chip(told: list[dict[str, Any]]) -> None:
    gpio = told[0]
    assert "pl061" in gpio["chip"], gpio
    assert gpio["ready"] == gpio["low ready"] == "ready", gpio
    assert [now for _, now in gpio["pulse"]] == ["lo", "hi", "lo"], gpio
    (_, _), (began, _), (ended, _) = gpio["pulse"]
    assert -0.05 < began < 5, gpio  # an emulated processor is slow, and never early
    assert 0.3 < ended - began < 1.2, gpio
    assert gpio["low pulse"] == ["hi", "lo", "hi"], gpio
    assert "cannot be had" in gpio["taken"], gpio
    assert "cannot be had" in gpio["no line"], gpio
    assert "there is no /dev/gpiochip9" in gpio["no chip"], gpio
    assert gpio["closed"] == [0, None], gpio
    assert (gpio["killed"][0], gpio["killed"][-1]) == ("hi", None), gpio  # the pulse ends, the line is given back
    assert gpio["left"] == [0, 0], gpio  # at the safe level
