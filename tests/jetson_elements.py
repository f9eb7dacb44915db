"""Stand-ins for a Jetson's GStreamer elements, so that the pipelines written for it run unchanged anywhere.

``python tests/jetson_elements.py URI N`` registers them in its own process, opens the source and prints N frames as
JSON: pipeline, shapes, mean colours. NVMM memory is ordinary memory here, and only the properties in use exist.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import cv2
import numpy as np

from dskd.runtime.capture.sources import open_source, pipelines
from dskd.runtime.capture.sources.gstreamer import PACKAGES, gstreamer
from dskd.runtime.capture.sources.system_gi import typelib

Gst = gstreamer()
GObject = typelib("GObject", "2.0", PACKAGES)
GstBase = typelib("GstBase", "1.0", PACKAGES)

RANGES = ", width=(int)[1,8192], height=(int)[1,8192], framerate=(fraction)[0/1,240/1]"
NVMM = f"video/x-raw(memory:NVMM), format=(string)NV12{RANGES}"
PLAIN = f"video/x-raw, format=(string){{BGRx, NV12, I420}}{RANGES}"


def template(name: str, direction: Any, caps: str) -> Any:
    return Gst.PadTemplate.new(name, direction, Gst.PadPresence.ALWAYS, Gst.Caps.from_string(caps))


class Argus(GstBase.BaseSrc):  # type: ignore[name-defined, misc]
    """nvarguscamerasrc: a bright square on the left half, in NV12."""

    __gstmetadata__ = ("nvarguscamerasrc", "Source/Video", "stand-in", "tests")
    __gsttemplates__ = template("src", Gst.PadDirection.SRC, NVMM)
    sensor_id = GObject.Property(type=int, default=0)
    exposuretimerange = GObject.Property(type=str, default=None)
    gainrange = GObject.Property(type=str, default=None)
    ispdigitalgainrange = GObject.Property(type=str, default=None)
    aelock = GObject.Property(type=bool, default=False)
    awblock = GObject.Property(type=bool, default=False)

    def __init__(self) -> None:
        super().__init__()
        self.set_live(True)
        self.set_format(Gst.Format.TIME)
        self.number, self.began = 0, 0.0

    def do_set_caps(self, caps: Any) -> bool:
        structure = caps.get_structure(0)
        self.size = structure.get_value("width"), structure.get_value("height")
        _, frames, seconds = structure.get_fraction("framerate")
        self.interval = seconds / frames
        return True

    def do_start(self) -> bool:
        """Prints as NVIDIA's does, to the process's standard output, and then takes its own exposure."""
        low = int(self.exposuretimerange.split()[0]) if self.exposuretimerange else None
        os.write(
            1,
            b"GST_ARGUS: 1280 x 720 FR = 59.9 fps; Analog Gain range min 1.0, max 16.0; Exposure Range min 13000, max 683709000\n",
        )
        if low is not None and not 13_000 <= low <= 683_709_000:
            os.write(1, b"GST_ARGUS: Invalid Exposure Time Range Input\n")
        return True

    def do_create(self, offset: int, length: int, buffer: Any) -> tuple[Any, Any]:
        self.began = self.began or time.monotonic()
        time.sleep(max(0.0, self.began + self.number * self.interval - time.monotonic()))
        width, height = self.size
        planes = np.full((height * 3 // 2, width), 128, np.uint8)
        planes[:height] = 40 + self.number % 8
        planes[height // 4 : height // 2, width // 8 : width // 4] = 220
        made = Gst.Buffer.new_wrapped(planes.tobytes())
        made.pts, made.duration = int(self.number * self.interval * Gst.SECOND), int(self.interval * Gst.SECOND)
        self.number += 1
        return Gst.FlowReturn.OK, made


class Converter(GstBase.BaseTransform):  # type: ignore[name-defined, misc]
    """nvvidconv: NVMM or plain frames to BGRx, turned where flip-method is 2."""

    __gstmetadata__ = ("nvvidconv", "Filter/Converter/Video", "stand-in", "tests")
    __gsttemplates__ = (
        template("sink", Gst.PadDirection.SINK, f"{NVMM}; {PLAIN}"),
        template("src", Gst.PadDirection.SRC, f"video/x-raw, format=(string)BGRx{RANGES}"),
    )
    flip_method = GObject.Property(type=int, nick="flip-method", default=0)

    def do_transform_caps(self, direction: Any, caps: Any, wanted: Any) -> Any:
        to_plain = direction == Gst.PadDirection.SINK
        text = f"video/x-raw, format=(string)BGRx{RANGES}" if to_plain else f"{NVMM}; {PLAIN}"
        structure = caps.get_structure(0)
        for key in ("width", "height"):  # no scaling here
            if isinstance(structure.get_value(key), int):
                text = text.replace(f"{key}=(int)[1,8192]", f"{key}=(int){structure.get_value(key)}")
        made = Gst.Caps.from_string(text)
        return made.intersect(wanted) if wanted else made

    def do_set_caps(self, taken: Any, given: Any) -> bool:
        structure = taken.get_structure(0)
        self.size = structure.get_value("width"), structure.get_value("height")
        self.format = structure.get_value("format")
        return True

    def do_get_unit_size(self, caps: Any) -> tuple[bool, int]:
        structure = caps.get_structure(0)
        pixels = structure.get_value("width") * structure.get_value("height")
        return True, pixels * 4 if structure.get_value("format") == "BGRx" else pixels * 3 // 2

    def do_transform(self, taken: Any, given: Any) -> Any:
        width, height = self.size
        planes = np.frombuffer(taken.extract_dup(0, taken.get_size()), np.uint8)[: width * height * 3 // 2]
        code = cv2.COLOR_YUV2BGR_NV12 if self.format == "NV12" else cv2.COLOR_YUV2BGR_I420
        image = cv2.cvtColor(planes.reshape(height * 3 // 2, width), code)
        image = image[::-1, ::-1] if self.flip_method == 2 else image
        given.fill(0, cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2BGRA).tobytes())
        return Gst.FlowReturn.OK


class UsbCamera(GstBase.BaseSrc):  # type: ignore[name-defined, misc]
    """v4l2src: a camera that has JPEG alone, as most USB cameras above 640 x 480."""

    __gstmetadata__ = ("v4l2src", "Source/Video", "stand-in", "tests")
    __gsttemplates__ = template(
        "src", Gst.PadDirection.SRC, "image/jpeg, width=(int)320, height=(int)240, framerate=(fraction)30/1"
    )
    device = GObject.Property(type=str, default=None)

    def __init__(self) -> None:
        super().__init__()
        self.set_live(True)
        self.set_format(Gst.Format.TIME)
        self.number = 0

    def do_create(self, offset: int, length: int, buffer: Any) -> tuple[Any, Any]:
        time.sleep(0.02)
        picture = np.full((240, 320, 3), 40, np.uint8)
        picture[:120, :160] = 220
        made = Gst.Buffer.new_wrapped(cv2.imencode(".jpg", picture)[1].tobytes())
        made.pts, made.duration = self.number * Gst.SECOND // 30, Gst.SECOND // 30
        self.number += 1
        return Gst.FlowReturn.OK, made


class Upload(GstBase.BaseTransform):  # type: ignore[name-defined, misc]
    """Calls plain memory NVMM."""

    __gstmetadata__ = ("upload", "Filter/Video", "stand-in", "tests")
    __gsttemplates__ = (
        template("sink", Gst.PadDirection.SINK, f"video/x-raw, format=(string)NV12{RANGES}"),
        template("src", Gst.PadDirection.SRC, NVMM),
    )

    def do_transform_caps(self, direction: Any, caps: Any, wanted: Any) -> Any:
        made = Gst.Caps.from_string(caps.to_string().replace("(memory:NVMM)", ""))
        if direction == Gst.PadDirection.SINK:
            made = Gst.Caps.from_string(caps.to_string().replace("video/x-raw", "video/x-raw(memory:NVMM)", 1))
        return made.intersect(wanted) if wanted else made

    def do_get_unit_size(self, caps: Any) -> tuple[bool, int]:
        structure = caps.get_structure(0)
        return True, structure.get_value("width") * structure.get_value("height") * 3 // 2

    def do_transform(self, taken: Any, given: Any) -> Any:
        given.fill(0, taken.extract_dup(0, taken.get_size()))
        return Gst.FlowReturn.OK


class HardwareBin(Gst.Bin):  # type: ignore[name-defined, misc]
    """decodebin, which finds the Jetson's decoder and leaves pictures in NVMM; JPEG alone here."""

    __gstmetadata__ = ("decodebin", "Generic/Bin/Decoder", "stand-in", "tests")
    __gsttemplates__ = (
        template("sink", Gst.PadDirection.SINK, "image/jpeg"),
        template("src", Gst.PadDirection.SRC, NVMM),
    )

    def __init__(self) -> None:
        super().__init__()
        parts = [Gst.ElementFactory.make(name) for name in ("jpegdec", "videoconvert", "upload")]
        for part in parts:
            self.add(part)
        parts[0].link(parts[1])
        parts[1].link(parts[2])
        self.add_pad(Gst.GhostPad.new("sink", parts[0].get_static_pad("sink")))
        self.add_pad(Gst.GhostPad.new("src", parts[2].get_static_pad("src")))


class Decoder(Gst.Bin):  # type: ignore[name-defined, misc]
    """nvv4l2decoder: H.264 by openh264."""

    __gstmetadata__ = ("nvv4l2decoder", "Codec/Decoder/Video", "stand-in", "tests")
    __gsttemplates__ = (
        template("sink", Gst.PadDirection.SINK, "video/x-h264, stream-format=(string)byte-stream"),
        template("src", Gst.PadDirection.SRC, "video/x-raw"),
    )
    enable_max_performance = GObject.Property(type=bool, nick="enable-max-performance", default=False)

    def __init__(self) -> None:
        super().__init__()
        decoder = Gst.ElementFactory.make("openh264dec")
        self.add(decoder)
        self.add_pad(Gst.GhostPad.new("sink", decoder.get_static_pad("sink")))
        self.add_pad(Gst.GhostPad.new("src", decoder.get_static_pad("src")))


def register() -> None:
    kinds = {"nvarguscamerasrc": Argus, "nvvidconv": Converter, "nvv4l2decoder": Decoder, "upload": Upload}
    if os.environ.get("USB_CAMERA"):
        kinds |= {"v4l2src": UsbCamera, "decodebin": HardwareBin}
    for name, kind in kinds.items():
        GObject.type_register(kind)
        assert Gst.Element.register(None, name, Gst.Rank.NONE, kind)


def main(uri: str, wanted: int) -> None:
    register()
    written = []
    for name in ("csi", "rtsp", "v4l2", "gst"):  # what is told is the pipeline that ran
        write = getattr(pipelines, name)
        setattr(
            pipelines,
            name,
            lambda *given, write=write, **options: written.append(write(*given, **options)) or written[-1],
        )
    source = open_source(uri)
    try:
        source.open()
        frames = [source.read(5.0) for _ in range(wanted)]
    finally:
        source.close()
    images = [frame.image for frame in frames if frame is not None]
    told = {
        "pipeline": written[-1],
        "shapes": sorted({image.shape for image in images}),
        "frames": len(images),
        "corners": [int(image[: len(image) // 2, : image.shape[1] // 2].mean()) for image in images[-1:]]
        + [int(image[len(image) // 2 :, image.shape[1] // 2 :].mean()) for image in images[-1:]],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
