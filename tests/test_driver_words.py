"""The driver's own lines on standard error: heard, quoted, and nothing else is lost by it."""

from __future__ import annotations

import ctypes
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from fake_builder import FakeTensorRT, Severity
from tensorrt_fakes import FakeMemory, FakeTensorRt, make_bundle

from dskd.export.engine_build import BuildOptions, build_engine
from dskd.runtime.errors import DskdError, MissingPart
from dskd.runtime.inspection.backends.tensorrt import TensorRtBackend
from dskd.runtime.inspection.cuda import hearing_driver

NO_MEMORY = "NvMapMemAllocInternalTagged: 1075072515 error 12"
START = """
import ctypes, os, subprocess, sys
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.cuda import driver_words
from dskd.runtime.inspection.cuda import hearing_driver
library = ctypes.CDLL(None)
def says(text): library.write(2, text.encode(), len(text))
"""


def says(text: str) -> None:
    """As the driver does, past Python's streams."""
    ctypes.CDLL(None).write(2, f"{text}\n".encode(), len(text) + 1)


def child(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START + script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_drivers_last_lines_stand_in_the_error_and_others_pass() -> None:
    done = child("""
try:
    with hearing_driver():
        for k in range(5000):
            says(f"NvRmMemInitNvmap failed with error {k}\\n")
        says("**** NvRmMemMgrInit failed **** error type: 196626\\n")
        says("libEGL warning: something else\\n")
        print("a note", file=sys.stderr)
        raise DskdError("m.plan: has no execution context")
except DskdError as error:
    print(error)
says("NvMap afterwards\\n")
""")
    assert done.stdout == (
        "m.plan: has no execution context; the driver said: NvRmMemInitNvmap failed with error 4998; NvRmMemInitNvmap "
        "failed with error 4999; **** NvRmMemMgrInit failed **** error type: 196626\n"
    )
    assert done.stderr == "libEGL warning: something else\na note\nNvMap afterwards\n"


def test_last_words_of_a_process_that_crashes_are_passed_on() -> None:
    done = child("""
with hearing_driver():
    says("NvRm line\\n")
    says("terminate called after throwing an instance of 'nvinfer1::CudaError'\\n")
    os.abort()
""")
    assert done.returncode < 0
    assert done.stderr == "terminate called after throwing an instance of 'nvinfer1::CudaError'\n"


def test_a_process_that_was_started_meanwhile_keeps_its_standard_error() -> None:
    done = child("""
driver_words._PATIENCE = 0.0
with hearing_driver():
    words = "import sys; sys.stdin.read(); print('the child ends', file=sys.stderr)"
    started = subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE)
started.communicate()
""")
    assert done.returncode == 0
    assert done.stderr == "the child ends\n"


def test_nothing_is_heard_where_standard_error_is_closed_or_sed_is_missing() -> None:
    done = child("""
os.environ["PATH"] = "/nowhere"
with hearing_driver() as heard:
    says("NvRm line\\n")
os.close(2)
with hearing_driver() as heard:
    pass
print(heard.lines)
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "NvRm line\n")


def test_a_block_in_a_block_hears_nothing_and_the_outer_one_all(capfd: pytest.CaptureFixture[str]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with hearing_driver() as outer, hearing_driver() as inner:
        says(NO_MEMORY)
    assert (outer.lines, inner.lines) == ([NO_MEMORY], [])
    assert len(os.listdir("/proc/self/fd")) == before
    assert capfd.readouterr().err == ""


def test_a_terminal_still_shows_the_bar() -> None:
    terminal, its_end = pty.openpty()
    script = """
import types
from dskd.export.build_progress import _bar
with hearing_driver() as driver, _bar("building m.onnx", driver.screen) as show:
    says("NvMap line\\n")
    assert os.read(0, 1)
    show(1.0)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", START + script], cwd=ROOT, stdin=subprocess.PIPE, stderr=its_end, text=True
    )
    os.close(its_end)
    shown = b""
    while b"building m.onnx:   0%" not in shown:  # at once, though no line has ended
        shown += os.read(terminal, 4096)
    process.communicate("x", timeout=60)
    while b"100%" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    assert process.returncode == 0
    assert b"NvMap" not in shown


def test_an_engine_that_does_not_open_quotes_the_driver(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    memory = FakeMemory()
    trt = FakeTensorRt(memory)
    trt.fail = "runtime"
    complain = trt.complain
    trt.complain = lambda text: (says(NO_MEMORY), complain(text))[1]  # type: ignore[method-assign, func-returns-value]
    plan = tmp_path / "m.plan"
    plan.write_bytes(b"plan")
    with pytest.raises(MissingPart, match=f"does not start .*; the driver said: {NO_MEMORY}$"):
        TensorRtBackend(make_bundle(tmp_path), "fp16", plan, memory, trt)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ([], rf"not enough memory to build the engine \(it gave no reason\).*reboot.*; the driver said: {NO_MEMORY}$"),
        ([(Severity.ERROR, "Layer 'a' is not supported on DLA")], "cannot run layer a; .*; the driver said: NvMap"),
    ],
)
def test_a_build_that_fails_quotes_the_driver(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], said: list[tuple[Severity, str]], meaning: str
) -> None:
    trt = FakeTensorRT(log=said, plan=None)
    build = trt._build
    trt._build = lambda network, config: (says(NO_MEMORY), build(network, config))[1]  # type: ignore[method-assign, func-returns-value]
    verbose = tmp_path / "all.txt"
    with pytest.raises(DskdError, match=meaning):
        build_engine(trt, Path("m.onnx"), BuildOptions((1, 1, 1), verbose=verbose))
    assert f"[d] {NO_MEMORY}\n" in verbose.read_text()
    assert NO_MEMORY not in capfd.readouterr().err
