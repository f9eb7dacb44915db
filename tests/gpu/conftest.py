"""The device, and a bundle with every graph that could be made for it."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Command

from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import MissingPart
from dskd.runtime.inspection.cuda import Device, Memory, find_device, open_memory
from dskd.runtime.inspection.engine import GRAPHS, engine_paths

Build = Callable[[Precision], Bundle]


@pytest.fixture(scope="session", autouse=True)
def device() -> Device:
    try:
        return find_device()
    except MissingPart as error:
        pytest.skip(f"needs a GPU: {error}")


@pytest.fixture(params=["cuda-bindings", "pycuda"])
def adapter(request: pytest.FixtureRequest, device: Device) -> str:
    """Name of a package for GPU memory that is installed."""
    name: str = request.param
    try:
        open_memory(device, name).close()
    except MissingPart as error:
        pytest.skip(str(error))
    return name


@pytest.fixture(scope="session")
def free_bytes(device: Device) -> Callable[[], int]:
    """How much memory of the device is free."""
    driver = ctypes.CDLL("libcuda.so.1")
    memory = open_memory(device)

    def ask() -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        with memory.active():
            assert driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
        return free.value

    return ask


@pytest.fixture
def memory(device: Device, adapter: str) -> Iterator[Memory]:
    opened = open_memory(device, adapter)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def device_bundle(request: pytest.FixtureRequest, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy of $DSKD_BUNDLE, else of the small bundle with its FP16 and INT8 graphs made here."""
    pytest.importorskip("tensorrt", reason="needs TensorRT")
    own = os.environ.get("DSKD_BUNDLE")
    folder = tmp_path_factory.mktemp("device") / "bundle"
    source = Path(own) if own else request.getfixturevalue("bundle").path
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("engines"))
    if not own:
        good = request.getfixturevalue("small_set") / "train" / "good"
        command("calibration", "--bundle", folder, "--images", good)
    return load_bundle(folder)


@pytest.fixture(scope="session")
def build(device_bundle: Bundle, command: Command) -> Build:
    """Builds the engine of a precision with the command, once, and gives the bundle."""

    def call(precision: Precision) -> Bundle:
        if GRAPHS[precision] not in device_bundle.manifest.files:
            pytest.skip(f"the bundle holds no {GRAPHS[precision]}: set DSKD_BUNDLE to a calibrated one")
        if not engine_paths(device_bundle, precision)[0].exists():
            done = command("export.trt", f"--{precision}", "--bundle", device_bundle.path, timeout=3600)
            assert done.returncode == 0, done.stderr
        return device_bundle

    return call
