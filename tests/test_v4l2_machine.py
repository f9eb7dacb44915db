"""V4L2 cameras for real, in an emulated machine with Debian's virtual camera driver: OpenCV and GStreamer."""

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

from runtime.sources.gstreamer import has_elements

PROGRAM = """
import json, sys, time
from runtime.capture import Capture
from runtime.errors import DskdError
from runtime.frame_health import FrameHealth
from runtime.result import Frame
from runtime.sources import open_source, v4l2
with_gstreamer = sys.argv[1] == "gstreamer"
if not with_gstreamer:
    v4l2.has_elements = lambda *names: False
def look(uri, wanted):
    source = open_source(uri)
    try:
        source.open()
        frames = [f for f in (source.read(5.0) for _ in range(wanted)) if f]
    finally:
        source.close()
    return type(source).__name__, len(frames), frames[-1].image.shape, [f.id for f in frames[:3]]
told = {"plain": look("v4l2:///dev/video0", 5)}
told["again"] = look("v4l2:///dev/video0", 3)
told["sized"] = look("v4l2:///dev/video0?width=640&height=360", 5)
first = open_source("v4l2:///dev/video0")
first.open(); first.read(5.0)
try:
    look("v4l2:///dev/video0", 2); told["busy"] = "shared"
except DskdError as error:
    told["busy"] = str(error)
first.close()
capture = Capture("usb", lambda: open_source("v4l2:///dev/video1?width=640&height=360"), health=FrameHealth())
capture.start()
end, frames = time.monotonic() + 30, 0
while frames < 10 and time.monotonic() < end:
    frames += isinstance(capture.take(0.2), Frame)
counts = capture.status().counts
told["capture"] = frames, counts.captured == counts.handed_out + counts.dropped + counts.waiting, capture.stop()
print("TOLD " + json.dumps(told))
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("machine")
    absent = virtual_machine.missing()
    version = "" if absent else virtual_machine.download_kernel(folder)
    if not version:
        pytest.skip(absent or "Debian's kernel cannot be downloaded here")
    return folder, version


@pytest.mark.slow
def test_a_usb_camera_through_opencv_and_gstreamer(kernel: tuple[Path, str]) -> None:
    folder, version = kernel
    ways = ["opencv"] + (["gstreamer"] if has_elements("v4l2src", "decodebin", "videoconvert") else [])
    registry = folder / "registry.bin"  # scanning all plug-ins would take minutes inside
    environment = {"GST_REGISTRY": str(registry), "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", "from runtime.sources.gstreamer import has_elements as h; h('v4l2src')"],
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
        assert one["plain"][0] == {"opencv": "OpenCvSource", "gstreamer": "GStreamerSource"}[way]
        assert one["plain"][1] == 5
        assert one["plain"][3] == ["0", "1", "2"]
        assert one["again"][1] == 3
        assert one["sized"][2] == [360, 640, 3]
        assert "/dev/video0" in one["busy"], one
        assert one["capture"] == [10, True, True]
