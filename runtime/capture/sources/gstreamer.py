"""A GStreamer pipeline through PyGObject: CSI, V4L2 and RTSP cameras, or any pipeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from dskd.runtime.capture.sources.base import Source, SourceEnded, SourceLost
from dskd.runtime.capture.sources.system_gi import typelib
from dskd.runtime.configuration.uri import hidden_in, without_password
from dskd.runtime.errors import CallError, DskdError, MissingPart, one_line
from dskd.runtime.result import Frame, Image

PACKAGES = "gir1.2-gstreamer-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
_MOST_AGE = 10.0  # seconds; a time stamp that claims more is not this pipeline's clock
_START = 5.0  # seconds for a device to start; a network camera starts while frames are waited for
_started = threading.Lock()


def gstreamer() -> ModuleType:
    """GStreamer's library, started. Raises MissingPart with what to install."""
    with _started:
        gst = typelib("Gst", "1.0", PACKAGES)
        if not gst.is_initialized():
            gst.init(None)
        return gst


def has_elements(*names: str) -> bool:
    """Whether GStreamer and all these elements are installed."""
    try:
        gst = gstreamer()
    except MissingPart:
        return False
    return all(gst.ElementFactory.find(name) is not None for name in names)


class GStreamerSource(Source):
    """Gives what comes out of a pipeline's appsink, the newest frame only; the id is the frame's number from 0."""

    def __init__(self, uri: str, pipeline: Callable[[], str], finite: bool = False) -> None:
        """``pipeline``: written anew for each opening. ``finite``: it may read files, and its end is the end."""
        self.live = True
        self.uri, self._full = without_password(uri), uri
        self._write, self._finite = pipeline, finite
        self._gst: Any = None
        self._pipeline: Any = None
        self._sink: Any = None
        self._number = 0

    def open(self) -> None:
        """Starts the pipeline. Raises MissingPart where an element is missing, SourceLost where it does not start."""
        self.close()
        self._gst = gst = gstreamer()
        try:
            # Without this flag a text with a fault gives a half-built pipeline beside the error, and nobody frees it.
            self._pipeline = gst.parse_launch_full(self._write(), None, gst.ParseFlags.FATAL_ERRORS)
        except typelib("GLib", "2.0", PACKAGES).Error as error:
            raise self._unbuilt(error) from None
        try:
            self._sink = self._find_sink()
            self._number = 0
            self._start(gst.State.PAUSED)
            if not self.live:
                self._sink.set_property("drop", False)  # a file waits; the prerolled frame is its first
            self._start(gst.State.PLAYING)
        except BaseException:
            self.close()
            raise

    def read(self, timeout: float) -> Frame | None:
        """The newest frame. Raises SourceLost where the pipeline failed or ended, SourceEnded where it may end."""
        if self._pipeline is None:
            raise SourceLost(f"source {self.uri}: is not open")
        sample = self._sink.emit("try-pull-sample", int(timeout * self._gst.SECOND))
        if sample is None:
            self._look_at_bus()
            if self._sink.get_property("eos"):  # the sink knows a moment before the bus
                raise self._ended()
            return None
        buffer = sample.get_buffer()
        now, age = time.time(), self._age(buffer)
        self._number += 1
        stream_time = None if buffer.pts == self._gst.CLOCK_TIME_NONE else buffer.pts / self._gst.SECOND
        return Frame(self.uri, str(self._number - 1), now - age, self._image(sample, buffer), stream_time)

    def close(self) -> None:
        """Stops the pipeline and releases the device."""
        pipeline, self._pipeline, self._sink = self._pipeline, None, None
        if pipeline is not None:
            pipeline.set_state(self._gst.State.NULL)
            pipeline.get_bus().set_flushing(True)  # messages hold references to elements

    def _start(self, state: Any) -> None:
        gst = self._gst
        self._pipeline.set_state(state)
        reached = self._pipeline.get_state(int(_START * gst.SECOND))[0]
        if reached == gst.StateChangeReturn.FAILURE:
            self._look_at_bus(patience=1.0)  # an element's thread may tell why a moment after the state has failed
            raise MissingPart(f"source {self.uri}: the pipeline does not start; check the device")
        if state == gst.State.PAUSED:
            self.live = not self._finite or reached != gst.StateChangeReturn.SUCCESS

    def _find_sink(self) -> Any:
        elements = self._pipeline.iterate_sinks()
        while True:
            result, element = elements.next()
            if result != self._gst.IteratorResult.OK:
                raise CallError(f"source {self.uri}: the pipeline has no appsink at its end")
            if element.get_factory().get_name() == "appsink":
                return element

    def _age(self, buffer: Any) -> float:
        """Seconds since the frame's time stamp, by the pipeline's clock; 0 where it has no usable one."""
        clock = self._pipeline.get_clock()
        if clock is None or buffer.pts == self._gst.CLOCK_TIME_NONE:
            return 0.0
        age = (clock.get_time() - self._pipeline.get_base_time() - buffer.pts) / self._gst.SECOND
        return float(age) if 0.0 < age < _MOST_AGE else 0.0

    def _image(self, sample: Any, buffer: Any) -> Image:
        """uint8 BGR [H, W, 3], a copy."""
        format_ = sample.get_caps().get_structure(0)
        width, height = format_.get_value("width"), format_.get_value("height")
        data = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8)
        if format_.get_value("format") != "BGR" or not height or data.size % height or data.size < 3 * width * height:
            raise CallError(f"source {self.uri}: gives {one_line(format_.to_string())[:120]} instead of BGR pictures")
        return data.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)  # rows are padded to 4 bytes

    def _look_at_bus(self, patience: float = 0.0) -> None:
        """Raises what the pipeline said last, if it failed or ended; waits for it, ``patience`` in seconds."""
        gst = self._gst
        wanted = gst.MessageType.ERROR | gst.MessageType.EOS
        message = self._pipeline.get_bus().timed_pop_filtered(int(patience * gst.SECOND), wanted)
        if message is None:
            return
        if message.type == gst.MessageType.EOS:
            raise self._ended()
        error, _ = message.parse_error()
        said = f"{message.src.get_name()}: {hidden_in(error.message, self._full)}"
        if error.matches(gst.core_error_quark(), gst.CoreError.MISSING_PLUGIN):
            raise MissingPart(f"source {self.uri}: {said} apt install {PACKAGES}")
        kind = SourceLost if self._number else MissingPart  # what never delivered is not there
        raise kind(f"source {self.uri}: {said} Check address, login, cable and whether another program has it")

    def _ended(self) -> DskdError:
        if self._finite:
            return SourceEnded(f"source {self.uri}: the pipeline has ended")
        return SourceLost(f"source {self.uri}: the camera closed the stream after {self._number} frames")

    def _unbuilt(self, error: Any) -> DskdError:
        text = hidden_in(error.message, self._full)
        if error.matches(self._gst.parse_error_quark(), self._gst.ParseError.NO_SUCH_ELEMENT):
            hint = "only a Jetson has it" if '"nv' in error.message else f"apt install {PACKAGES}"
            return MissingPart(f"source {self.uri}: {text}; {hint}")
        return CallError(f"source {self.uri}: is no pipeline: {text}")
