"""Pulses on a real GPIO chip, in an emulated aarch64 machine: what the kernel says of the line while the guard works."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import arm_machine
import pytest
from arm_root import make_root
from conftest import ROOT

PROGRAM = r"""
import json, os, re, signal, subprocess, sys, time
import gpiod

def level(name):  # 'hi' or 'lo', None where nobody by that name holds a line
    found = re.search(name + r"[^)]*\) out (hi|lo)", open("/sys/kernel/debug/gpio").read())
    return found and found[1]

def guard(line, active, name, chip="/dev/gpiochip0"):
    command = [sys.executable, "-m", "runtime.station.outputs.gpio_guard", chip, str(line), active, name]
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


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """Folder and version of the kernel, and a bare Debian for aarch64."""
    absent = arm_machine.missing()
    if absent:
        pytest.skip(absent)
    folder = tmp_path_factory.mktemp("machine")
    return folder, arm_machine.fetch_kernel(folder), make_root(folder / "base")


@pytest.mark.slow
def test_pulses_are_seen_on_the_chip(machine: tuple[Path, str, Path], tmp_path: Path) -> None:
    folder, version, root = machine
    wanted = ["gpiod>=2.1", "--no-deps", "--only-binary=:all:", "--python-version", "3.11"]
    wanted += ["--platform", "manylinux2014_aarch64", "--platform", "manylinux_2_17_aarch64", "--dest", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "download", "-q", *wanted]
    got = subprocess.run(command, capture_output=True, text=True, check=False)
    if got.returncode:
        pytest.skip(f"gpiod for aarch64 cannot be fetched: {got.stderr.strip()[-200:]}")
    work = tmp_path / "work"
    with zipfile.ZipFile(next(tmp_path.glob("gpiod-*.whl"))) as wheel:
        wheel.extractall(work / "code")
    shutil.copytree(ROOT / "runtime", work / "code" / "runtime", ignore=shutil.ignore_patterns("__pycache__", "static"))
    (work / "program.py").write_text(PROGRAM)
    (work / "job.sh").write_text("export PYTHONPATH=/mnt/code PYTHONDONTWRITEBYTECODE=1\npython3 /mnt/program.py\n")
    out = arm_machine.run(folder, version, root, work)
    assert "TOLD " in out, out
    told = json.loads(out.partition("TOLD ")[2].splitlines()[0])
    assert "pl061" in told["chip"], told
    assert told["ready"] == told["low ready"] == "ready", told
    assert [now for _, now in told["pulse"]] == ["lo", "hi", "lo"], told
    (_, _), (began, _), (ended, _) = told["pulse"]
    assert -0.05 < began < 0.5, told  # an emulated processor is slow, and never early
    assert 0.3 < ended - began < 1.2, told
    assert told["low pulse"] == ["hi", "lo", "hi"], told
    assert "cannot be had" in told["taken"], told
    assert "cannot be had" in told["no line"], told
    assert "there is no /dev/gpiochip9" in told["no chip"], told
    assert told["closed"] == [0, None], told
    assert (told["killed"][0], told["killed"][-1]) == ("hi", None), told  # the pulse ends, the line is given back
    assert told["left"] == [0, 0], told  # at the safe level
