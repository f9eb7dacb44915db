"""Finding a GPU and using its memory, on a machine that has none.

A stub of the driver, compiled here, stands in for the real one: the real cuda-bindings runs on it, and pycuda where it
is installed. What only a device can show is in tests/gpu.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from libcuda_stub import build_stub

from dskd.runtime.errors import CallError, DeviceLost, MissingPart
from dskd.runtime.inspection.cuda import ADAPTERS, Device, open_memory
from dskd.runtime.inspection.cuda.base import device_failure

CARD = Device(0, "Card", "9.0", 1 << 30, False)


def installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def driver_here() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda.so.1 that has no GPU behind it."""
    return build_stub(tmp_path_factory.mktemp("driver"))


def run(script: str, **environment: str) -> str:
    """The standard output of a Python script in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def test_who_wants_it_waits_without_sleeping(stub: Path) -> None:
    script = (
        "import ctypes; from dskd.runtime.inspection.cuda import find_device, open_memory\n"
        "open_memory(find_device(), 'cuda-bindings').close()\nprint(ctypes.CDLL('libcuda.so.1').stub_flags())"
    )
    variables = {"LD_LIBRARY_PATH": str(stub)}
    assert [run(script, **variables), run(script, DSKD_CUDA_SPIN="1", **variables)] == ["0\n", "1\n"]


# ----------------------------------------------------------------------------------------------------------- finding

FIND = """
import time
from dskd.runtime.inspection.cuda import find_device
from dskd.runtime.errors import DskdError
start = time.process_time()
try:
    print(find_device({index}))
except DskdError as error:
    print(error.exit_code, error)
assert time.process_time() - start < 1
"""


@pytest.mark.skipif(driver_here(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_one_line_and_the_next_step_come_at_once() -> None:
    said = run(FIND.format(index=0))
    assert said.startswith("3 no NVIDIA driver here (libcuda.so.1 is missing); use --backend onnxruntime")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("index", "environment", "said"),
    [
        (0, {}, "Device(index=0, name='Orin', compute_capability='8.7', memory_bytes=8589934592, integrated=True, multiprocessors=8)"),
        (1, {"STUB_DEVICES": "2", "STUB_INTEGRATED": "0"}, "Device(index=1, name='Orin', compute_capability='8.7', memory_bytes=8589934592, integrated=False, multiprocessors=8)"),
        (0, {"STUB_DEVICES": "0"}, "3 the NVIDIA driver finds no GPU; use --backend"),
        (0, {"STUB_FAIL": "cuInit=100"}, "3 the NVIDIA driver finds no GPU that works (cuInit: CUDA_ERROR_NO_DEVICE); use --backend"),
        (0, {"STUB_FAIL": "cuDeviceTotalMem_v2=999"}, "3 the NVIDIA driver finds no GPU that works (cuDeviceTotalMem_v2: CUDA_ERROR_OTHER); use"),
        (0, {"STUB_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "5"}, "3 the NVIDIA driver finds no GPU, and CUDA_VISIBLE_DEVICES=5 says which it shows; use"),
        (0, {"STUB_FAIL": "cuInit=100", "CUDA_VISIBLE_DEVICES": ""}, "3 the NVIDIA driver finds no GPU that works (cuInit: CUDA_ERROR_NO_DEVICE), and CUDA_VISIBLE_DEVICES= says which"),
        (2, {"STUB_DEVICES": "2"}, "2 there is no GPU 2; the driver finds 2, counted from 0"),
        (-1, {}, "2 there is no GPU -1; the driver finds 1"),
    ],
)  # fmt: skip
def test_what_the_driver_says_becomes_a_device_or_a_reason(
    stub: Path, index: int, environment: dict[str, str], said: str
) -> None:
    assert run(FIND.format(index=index), LD_LIBRARY_PATH=str(stub), **environment).startswith(said)


# ---------------------------------------------------------------------------------------------------------- adapters


def test_the_first_installed_package_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(device: Device) -> Any:
        raise MissingPart("cuda-bindings is not installed; pip install it")

    monkeypatch.setitem(ADAPTERS, "pycuda", lambda device: "pycuda's")
    monkeypatch.setitem(ADAPTERS, "cuda-bindings", lambda device: "cuda-bindings'")
    assert open_memory(CARD) == "cuda-bindings'"
    assert open_memory(CARD, "pycuda") == "pycuda's"
    monkeypatch.setitem(ADAPTERS, "cuda-bindings", missing)
    assert open_memory(CARD) == "pycuda's"
    with pytest.raises(MissingPart, match=r"cuda-bindings is not installed; pip install it$"):
        open_memory(CARD, "cuda-bindings")
    with pytest.raises(CallError, match=r"no package 'cupy' .* choose one of: cuda-bindings, pycuda"):
        open_memory(CARD, "cupy")


def test_without_either_package_both_are_named() -> None:
    script = """
import sys
sys.modules["cuda"] = sys.modules["pycuda"] = None
from dskd.runtime.inspection.cuda import Device, open_memory
from dskd.runtime.errors import MissingPart
try:
    open_memory(Device(0, "Card", "9.0", 1, False))
except MissingPart as error:
    print(error)
"""
    said = run(script)
    assert "cuda-bindings is not installed" in said
    assert "pycuda is not installed" in said
    assert "pip install" in said


@pytest.mark.skipif(not installed("cuda.bindings.driver"), reason="cuda-bindings is not installed")
def test_every_name_of_cuda_bindings_that_is_used_exists() -> None:
    driver = importlib.import_module("cuda.bindings.driver")
    used = names_below("driver", ROOT / "runtime/inspection/cuda/cuda_bindings_memory.py")
    assert "cuMemHostAlloc" in used
    assert [name for name in used if not hasattr(driver, name)] == []
    assert hasattr(driver.CUstreamCaptureMode, "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")


@pytest.mark.skipif(not installed("cuda.bindings.driver") or driver_here(), reason="needs cuda-bindings and no driver")
def test_cuda_bindings_without_a_driver_says_so() -> None:
    with pytest.raises(MissingPart, match=r"cuda-bindings cannot use the NVIDIA driver \(.*\); use --backend"):
        open_memory(CARD, "cuda-bindings")


def names_below(module: str, file: Path) -> set[str]:
    """Attributes of a module that a file uses."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == module}  # fmt: skip


EXERCISE = """
import ctypes, json, sys, threading
import numpy as np
from dskd.runtime.inspection.cuda import find_device, open_memory

said = {}
memory = open_memory(find_device(), NAME)
with memory.active():
    source, target = (memory.host((4, 3), np.float32) for _ in range(2))
    said["zeroed"] = not source.array.any()
    address, stream, copies, event = memory.allocate(48), memory.stream(), memory.stream(), memory.event()
    said["aligned"] = address % 256
    source.array[:] = np.arange(12).reshape(4, 3)
    memory.to_device(address, source, 4, stream)
    memory.to_host(target, address, 2, stream)
    event.record(stream)
    source.array[0] = 50  # a copy reads its source when it runs, not when it is ordered
    memory.to_host(target, address, 4, stream)
    said["before"] = target.array.tolist()
    event.synchronize()
    said["at the event"] = target.array.tolist()
    stream.synchronize()
    said["after"] = target.array.tolist()
    ctypes.c_float.from_address(source.address).value = 99  # what the device writes, the host sees
    said["mapped"] = float(source.array[0, 0])
    if memory.captures:
        graph = memory.capture(stream, lambda: (memory.to_device(address, source, 1, stream), memory.to_host(target, address, 1, stream)))
        said["recorded only"] = float(target.array[0, 0])
        graph.launch(stream)
        stream.synchronize()
        said["launched"] = float(target.array[0, 0])
        source.array[0] = 7
        graph.launch(stream)
        stream.synchronize()
        said["launched again"] = float(target.array[0, 0])
        graph.close()
        try:
            memory.capture(stream, lambda: 1 / 0)
        except ZeroDivisionError:
            stream.synchronize()  # the stream is no longer recording

def elsewhere():
    with memory.active(), memory.active():
        memory.to_host(target, address, 1, stream)
        stream.synchronize()

thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
live = ctypes.CDLL("libcuda.so.1").stub_live
said["open"] = live()
memory.close()
memory.close()
said["closed"] = live()
print(json.dumps(said))
"""


def environment(stub: Path, name: str, folder: Path) -> dict[str, str]:
    """For a process with the stub and that package, or its stand-in where it is pycuda and not installed."""
    if name == "cuda-bindings" and not installed("cuda.bindings.driver"):
        pytest.skip("cuda-bindings is not installed")
    if name == "cuda-bindings" or installed("pycuda.driver"):
        return {"LD_LIBRARY_PATH": str(stub)}
    (folder / "pycuda").mkdir()
    shutil.copy(ROOT / "tests/pycuda_stand_in.py", folder / "pycuda/driver.py")
    return {"LD_LIBRARY_PATH": str(stub), "PYTHONPATH": str(folder)}


@pytest.mark.parametrize(("name", "kept"), [("cuda-bindings", 0), ("pycuda", 1)])
def test_both_packages_do_on_the_stub_what_memory_promises(stub: Path, name: str, kept: int, tmp_path: Path) -> None:
    """pycuda keeps the primary context until the process ends."""
    said = json.loads(run(EXERCISE.replace("NAME", repr(name)), **environment(stub, name, tmp_path)))
    rows = [[50.0] * 3, [3.0, 4.0, 5.0], [6.0, 7.0, 8.0], [9.0, 10.0, 11.0]]
    zeros = [0.0] * 3
    assert said["zeroed"] is True
    assert said["aligned"] == 0
    assert said["before"] == [zeros] * 4
    assert said["at the event"] == [*rows[:2], zeros, zeros]
    assert said["after"] == rows
    assert said["mapped"] == 99
    if name == "cuda-bindings":
        assert (said["recorded only"], said["launched"], said["launched again"]) == (50, 99, 7)
    assert said["open"] > 5
    assert said["closed"] == kept


@pytest.mark.parametrize("name", ["cuda-bindings", "pycuda"])
@pytest.mark.parametrize(
    ("fail", "said"),
    [
        ("cuMemAlloc_v2=2", "the GPU has no memory left (cuMemAlloc"),
        ("cuMemHostAlloc=2", "the GPU has no memory left (cuMemHostAlloc"),
        ("cuStreamCreate=999", "the GPU failed (cuStreamCreate"),
        ("cuStreamSynchronize=700", "the GPU failed (cuStreamSynchronize"),
        ("cuEventRecord=700", "the GPU failed (cuEventRecord"),
        ("cuEventSynchronize=700", "the GPU failed (cuEventSynchronize"),
        ("cuMemcpyHtoDAsync_v2=700", "the GPU failed (cuMemcpyHtoDAsync"),
        ("cuMemcpyDtoHAsync_v2=700", "the GPU failed (cuMemcpyDtoHAsync"),
        ("cuStreamEndCapture=901", "the GPU failed (cuStreamEndCapture"),
        ("cuGraphInstantiateWithFlags=1", "the GPU failed (cuGraphInstantiate"),
    ],
)
def test_failures_of_the_device_are_one_line_where_they_happen_and_nothing_leaks(
    stub: Path, name: str, fail: str, said: str, tmp_path: Path
) -> None:
    script = f"""
import ctypes
import numpy as np
from dskd.runtime.inspection.cuda import find_device, open_memory
from dskd.runtime.errors import DskdError
memory = open_memory(find_device(), {name!r})
with memory.active():
    try:
        host, address = memory.host((2,), np.float32), memory.allocate(8)
        stream, event = memory.stream(), memory.event()
        memory.to_device(address, host, 2, stream)
        memory.to_host(host, address, 2, stream)
        event.record(stream)
        event.synchronize()
        stream.synchronize()
        memory.capture(stream, lambda: None)
    except DskdError as error:
        print(error)
memory.close()
print(ctypes.CDLL("libcuda.so.1").stub_live())
"""
    first, live = run(script, STUB_FAIL=fail, **environment(stub, name, tmp_path)).splitlines()
    if name == "pycuda" and ("Capture" in fail or "Graph" in fail):
        assert first.startswith("pycuda records no CUDA graphs; pip install cuda-bindings")
    else:
        assert first.startswith(said)
        assert "; start again" in first or "; close other programs" in first
    assert live == ("1" if name == "pycuda" else "0")


# ------------------------------------------------------------------------------------------ what stays with the process

STICKY = """
import ctypes
import numpy as np
from dskd.runtime.inspection.cuda import find_device, open_memory
from dskd.runtime.errors import DskdError
memory = open_memory(find_device(), NAME)
stub = ctypes.CDLL("libcuda.so.1")
with memory.active():
    host, address, stream = memory.host((2,), np.float32), memory.allocate(8), memory.stream()
for work in (lambda: memory.to_device(address, host, 2, stream), stream.synchronize, lambda: memory.allocate(8)):
    try:
        with memory.active():
            work()
        print("works")
    except DskdError as error:
        print(type(error).__name__, error)
memory.close()
print(stub.stub_depth())
"""


def test_which_errors_stay() -> None:
    """As cuda.h says of each; running out of memory, a wrong handle and a refused recording do not."""
    stay = [code for code in range(1000) if isinstance(device_failure("cuX", code), DeviceLost)]
    assert stay == [214, 700, 702, 709, 714, 715, 716, 717, 718, 719, 999]


@pytest.mark.parametrize("name", ["cuda-bindings", "pycuda"])
@pytest.mark.parametrize("code", [719, 999])
def test_an_error_that_stays_with_the_process_is_a_lost_device(
    stub: Path, name: str, code: int, tmp_path: Path
) -> None:
    said = run(
        STICKY.replace("NAME", repr(name)),
        STUB_STICKY=f"cuStreamSynchronize={code}",
        **environment(stub, name, tmp_path),
    ).splitlines()
    assert said[0] == "works"
    assert all(line.startswith("DeviceLost the GPU failed (cu") for line in said[1:3])
    assert all("this process cannot use it any more; start again" in line for line in said[1:3])
    assert said[3] == "0"


@pytest.mark.parametrize("name", ["cuda-bindings", "pycuda"])
def test_an_error_of_one_call_is_none(stub: Path, name: str, tmp_path: Path) -> None:
    variables = environment(stub, name, tmp_path)
    said = run(STICKY.replace("NAME", repr(name)), STUB_FAIL="cuStreamSynchronize=400", **variables).splitlines()
    assert [line.split()[0] for line in said[:3]] == ["works", "DskdError", "works"]


WHOLE = """
import ctypes, json, sys
from collections import Counter
from pathlib import Path
sys.path.insert(0, "tests")
import numpy as np
from tensorrt_fakes import FakeTensorRt, HEIGHT, LARGEST, WIDTH, make_bundle, scores_of
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.backends.tensorrt import TensorRtBackend
from dskd.runtime.inspection.cuda import find_device
from dskd.runtime.inspection.cuda.cuda_bindings_memory import CudaBindingsMemory

stub = ctypes.CDLL("libcuda.so.1")
Work = ctypes.CFUNCTYPE(None)
given = []  # ctypes frees what nobody holds

class Streams(dict):
    def __contains__(self, handle):
        return True
    def __missing__(self, handle):
        return Stream(handle)

class Stream:
    def __init__(self, handle):
        self.handle = ctypes.c_void_p(handle)
        self.recorded = [] if stub.stub_capturing(self.handle) else None
    def add(self, work):
        given.append(Work(work))
        stub.stub_call(self.handle, given[-1])

class OnStub(CudaBindingsMemory):
    counts, log, blocks, streams = Counter(), [], Streams(), Streams()
    def call(self, what):
        assert stub.stub_depth(), "used outside of active()"
    def at(self, address, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_ubyte * size).from_address(address), dtype).reshape(shape)

folder = Path(sys.argv[1])
plan = folder / "candidate.plan"
plan.write_bytes(b"plan")
bundle = make_bundle(folder)

def opened():
    memory = OnStub(find_device())
    return TensorRtBackend(bundle, "fp16", plan, memory, FakeTensorRt(memory))

said, images = {}, np.random.default_rng(0).integers(0, 256, (LARGEST, HEIGHT, WIDTH, 3), np.uint8)
right = scores_of(images)
live = []
for _ in range(REOPENED):
    backend = opened()
    for k in range(CALLS):
        rows = 1 + k % LARGEST
        output = backend.infer(images[:rows])
        assert np.array_equal(output.scores, right[:rows])
        k % 16 or output.maps()
        if k in (CALLS // 2, CALLS - 1):
            live.append(stub.stub_live())
    backend.close()
    live.append(stub.stub_live())
said["live"], said["depth"] = live, stub.stub_depth()

backend = opened()
backend.infer(images[:1])
stub.stub_poison(719)
said["poisoned"] = []
for ask in (lambda: backend.infer(images[:1]), opened):
    try:
        ask()
    except DskdError as error:
        said["poisoned"].append(type(error).__name__)
backend.close()
said["depth after"] = stub.stub_depth()
print(json.dumps(said))
"""


@pytest.mark.skipif(not installed("cuda.bindings.driver"), reason="cuda-bindings is not installed")
@pytest.mark.parametrize(("reopened", "calls"), [(2, 40), pytest.param(5, 2000, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("integrated", ["0", "1"])
def test_the_backend_on_cuda_bindings_leaks_nothing_and_knows_a_lost_device(
    stub: Path, tmp_path: Path, reopened: int, calls: int, integrated: str
) -> None:
    script = WHOLE.replace("REOPENED", str(reopened)).replace("CALLS", str(calls))
    script = script.replace("sys.argv[1]", repr(str(tmp_path)))
    said = json.loads(run(script, LD_LIBRARY_PATH=str(stub), STUB_INTEGRATED=integrated))
    half, whole, closed = said["live"][:3]
    assert (half, closed) == (whole, 0)
    assert said["live"] == [half, whole, closed] * reopened
    assert (said["depth"], said["depth after"]) == (0, 0)
    assert said["poisoned"] == ["DeviceLost", "DeviceLost"]
