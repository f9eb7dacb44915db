"""What is asked of V4L2 cameras inside an emulated machine, and what the answer must be."""

from __future__ import annotations

from typing import Any

PROGRAM = """
import json, sys, time
from dskd.runtime.capture.camera_thread import Capture, CaptureSettings
from dskd.runtime.errors import DskdError
from dskd.runtime.capture.frame_health import FrameHealth
from dskd.runtime.result import Frame
from dskd.runtime.capture.sources import open_source, v4l2
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
capture = Capture("usb", lambda: open_source("v4l2:///dev/video1?width=640&height=360"), CaptureSettings(), health=FrameHealth())
capture.start()
end, frames = time.monotonic() + 30, 0
while frames < 10 and time.monotonic() < end:
    frames += isinstance(capture.take(0.2), Frame)
counts = capture.status().counts
told["capture"] = frames, counts.captured == counts.handed_out + counts.dropped + counts.waiting, capture.stop()
print("TOLD " + json.dumps(told))
"""


def assert_told(told: dict[str, Any], source: str) -> None:
    """``told`` is what PROGRAM printed, ``source`` the class that must have read the camera."""
    assert told["plain"][:2] == [source, 5], told
    assert told["plain"][3] == ["0", "1", "2"], told
    assert told["again"][1] == 3, told
    assert told["sized"][2] == [360, 640, 3], told
    assert "/dev/video0" in told["busy"], told
    assert told["capture"] == [10, True, True], told
