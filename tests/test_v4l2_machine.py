"""V4L2 cameras through GStreamer and OpenCV, in an emulated PC with this machine's own packages.

A minute when alone, more than CI has left: it gets no QEMU for this. OpenCV is asked in test_arm_machine.py, there too.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import virtual_machine
from conftest import ROOT
from v4l2_program import PROGRAM, assert_told

from dskd.runtime.capture.sources.gstreamer import has_elements


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("machine")
    absent = virtual_machine.missing()
    version = "" if absent else virtual_machine.download_kernel(folder)
    if not version:
        pytest.skip(absent or "Debian's kernel cannot be downloaded here")
    return folder, version


@pytest.mark.thorough
@pytest.mark.slow
def test_a_usb_camera_through_opencv_and_gstreamer(kernel: tuple[Path, str]) -> None:
    folder, version = kernel
    ways = ["opencv"] + (["gstreamer"] if has_elements("v4l2src", "decodebin", "videoconvert") else [])
    registry = folder / "registry.bin"  # scanning all plug-ins would take minutes inside
    environment = {"GST_REGISTRY": str(registry), "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", "from dskd.runtime.capture.sources.gstreamer import has_elements as h; h('v4l2src')"],
        cwd=ROOT, env={**os.environ, **environment}, check=True,
    )  # fmt: skip
    (folder / "program.py").write_text(PROGRAM)
    job = [f"cd {shlex.quote(str(ROOT))}"]
    job += [f"export {key}={shlex.quote(value)}" for key, value in {**environment, "PYTHONPATH": str(ROOT)}.items()]
    job += ["export PYTHONDONTWRITEBYTECODE=1 GST_REGISTRY_UPDATE=no PATH=/usr/bin:/bin:/usr/sbin:/sbin"]
    job += [f"{shlex.quote(sys.executable)} {shlex.quote(str(folder / 'program.py'))} {way}" for way in ways]
    out = virtual_machine.run(folder, version, "\n".join(job))
    told = [json.loads(line.removeprefix("TOLD ")) for line in out.splitlines() if line.startswith("TOLD ")]
    assert len(told) == len(ways), out
    for way, one in zip(ways, told, strict=True):
        assert_told(one, {"opencv": "OpenCvSource", "gstreamer": "GStreamerSource"}[way])
