"""A GigE Vision or USB3 Vision camera through Aravis: free run, software trigger or its own input line."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from pydantic import Field

from dskd.runtime.capture.sources.base import Source, SourceContext, SourceKind, SourceLost, Trigger
from dskd.runtime.capture.sources.pixel_formats import to_bgr
from dskd.runtime.capture.sources.system_gi import typelib
from dskd.runtime.configuration.options import Word, read_options
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.configuration.uri import without_password
from dskd.runtime.errors import CallError, MissingPart, one_line
from dskd.runtime.reason import Reason
from dskd.runtime.result import Dropped, Frame

PACKAGE = "gir1.2-aravis-0.8"
_BUFFERS = 8  # that the stream thread fills while one is copied
_MOST_LOST = 100  # frames of one gap that are told one by one; more is another sequence, not a gap
_SOCKET_BYTES = 4 << 20  # of kernel buffer: at most what net.core.rmem_max allows


class GigeOptions(Strict):
    """A GigE Vision or USB3 Vision camera. What is not given stays as it is in the camera."""

    width: int | None = Field(None, ge=16, le=65536, description="pixels")
    height: int | None = Field(None, ge=16, le=65536, description="pixels")
    fps: float | None = Field(None, ge=0.01, le=10_000, description="frames per second")
    exposure: float | None = Field(
        None, ge=1, le=60_000_000, description="microseconds; switches the automatic one off"
    )
    gain: float | None = Field(None, ge=0, le=1000, description="switches the automatic one off")
    pixel: Word | None = Field(None, description="pixel format: Mono8, BayerRG8 and so on")
    line: Word = Field("Line1", description="the input that triggers")


class GigeSource(Source):
    """``gige://ADDRESS``: an IP address, or the camera's serial number or name. The id is the camera's own frame number."""

    live = True

    def __init__(self, uri: str, trigger: Trigger = "free") -> None:
        self.uri, self.triggerable = without_password(uri), trigger == "software"
        self._trigger = trigger
        self._address, options = read_options(uri, GigeOptions)
        if not self._address:
            raise CallError("source gige://: names no camera; write gige://192.168.1.10 (arv-tool-0.8 lists them)")
        self._width, self._height, self._fps = options.width, options.height, options.fps
        self._exposure, self._gain = options.exposure, options.gain
        self._pixel, self._line = options.pixel, options.line
        self._aravis: Any = None
        self._camera: Any = None
        self._stream: Any = None
        self._control_lost = threading.Event()
        self._answers = True
        self._on_lost: tuple[Any, int] | None = None
        self._last_id = -1
        self._arrived: deque[Frame | Dropped] = deque()

    def open(self) -> None:
        """Takes control of the camera, sets it up and starts it. Raises MissingPart, or SourceLost with what it said."""
        self.close()
        self._aravis = aravis = typelib("Aravis", "0.8", PACKAGE)
        self._control_lost.clear()
        self._answers = True
        self._last_id = -1
        self._arrived.clear()
        self._camera = self._call("cannot be opened", lambda: aravis.Camera.new(self._address))
        if self._camera is None:
            raise MissingPart(f"source {self.uri}: no such camera; check power and cable (arv-tool-0.8 lists them)")
        device = self._camera.get_device()
        self._on_lost = (device, device.connect("control-lost", lambda *_: self._control_lost.set()))
        if isinstance(device, aravis.GvDevice) and not device.is_controller():
            raise MissingPart(f"source {self.uri}: another program controls the camera; close it, or wait ten seconds")
        self._call("cannot be set up", self._set_up)
        self._stream = self._call("cannot stream", lambda: self._camera.create_stream(None, None))
        if self._stream is None:
            raise SourceLost(f"source {self.uri}: cannot stream; another program may control the camera")
        if isinstance(self._stream, aravis.GvStream):
            self._stream.set_property("socket-buffer", aravis.GvStreamSocketBuffer.FIXED)
            self._stream.set_property("socket-buffer-size", _SOCKET_BYTES)
        payload = self._call("cannot stream", self._camera.get_payload)
        for _ in range(_BUFFERS):
            self._stream.push_buffer(aravis.Buffer.new_allocate(payload))
        self._call("cannot start", self._camera.start_acquisition)

    def read(self, timeout: float) -> Frame | Dropped | None:
        """The next frame, or what is known of one that did not arrive whole. Raises SourceLost without control."""
        if self._stream is None:
            raise SourceLost(f"source {self.uri}: is not open")
        if self._arrived:
            return self._arrived.popleft()
        buffer = self._stream.timeout_pop_buffer(int(timeout * 1e6))
        if buffer is None:
            if self._control_lost.is_set():
                raise SourceLost(f"source {self.uri}: control of the camera is lost; check its power and cable")
            return None
        try:
            if buffer.get_status() == self._aravis.BufferStatus.CLEARED:
                return None  # no packet ever came into it, so its number means nothing
            self._find_gap(buffer.get_frame_id())
            self._arrived.append(self._captured(buffer))  # behind the frames that were lost before it
        finally:
            self._stream.push_buffer(buffer)
        return self._arrived.popleft()

    def trigger(self) -> None:
        """Exposes once. Raises SourceLost where the camera does not answer."""
        self._call("does not take the trigger", self._camera.software_trigger)

    def close(self) -> None:
        """Stops the camera and gives up control of it."""
        camera, self._camera = self._camera, None
        stream, self._stream = self._stream, None
        if self._on_lost is not None:
            self._on_lost[0].disconnect(self._on_lost[1])
            self._on_lost = None
        if camera is not None and stream is not None and self._answers and not self._control_lost.is_set():
            with suppress(self._error()):  # it is gone; what it held is released with the objects
                camera.stop_acquisition()

    def _set_up(self) -> None:
        camera, off = self._camera, self._aravis.Auto.OFF
        if self._pixel is not None:
            camera.set_pixel_format_from_string(self._pixel)
        if self._width is not None or self._height is not None:
            _, _, width, height = camera.get_region()
            camera.set_region(0, 0, self._width or width, self._height or height)
        camera.set_acquisition_mode(self._aravis.AcquisitionMode.CONTINUOUS)
        if self._trigger == "free":
            camera.clear_triggers()
            if self._fps is not None:
                camera.set_frame_rate(self._fps)
        else:
            camera.set_trigger("Software" if self._trigger == "software" else self._line)
        if self._exposure is not None:
            if camera.is_exposure_auto_available():
                camera.set_exposure_time_auto(off)
            camera.set_exposure_time(self._exposure)
        if self._gain is not None:
            if camera.is_gain_auto_available():
                camera.set_gain_auto(off)
            camera.set_gain(self._gain)

    def _captured(self, buffer: Any) -> Frame | Dropped:
        now, frame_id, status = time.time(), str(buffer.get_frame_id()), buffer.get_status()
        if status != self._aravis.BufferStatus.SUCCESS:
            detail = f"{status.value_nick}; check cable, packet size and net.core.rmem_max"
            return Dropped(self.uri, frame_id, now, Reason.INCOMPLETE, detail)
        width, height, pixel = buffer.get_image_width(), buffer.get_image_height(), buffer.get_image_pixel_format()
        image = to_bgr(np.frombuffer(buffer.get_data(), np.uint8), width, height, pixel)
        if image is None:
            raise MissingPart(
                f"source {self.uri}: pixel format {pixel:#010x} is not read here; add pixel=Mono8, BayerRG8 or RGB8"
            )
        return Frame(self.uri, frame_id, now, image, buffer.get_timestamp() / 1e9 or None)

    def _find_gap(self, frame_id: int) -> None:
        """Frames whose number never came are dropped frames: no packet of them arrived."""
        lost = range(self._last_id + 1, frame_id) if self._last_id >= 0 else range(0)
        self._last_id = frame_id
        if len(lost) <= _MOST_LOST:
            detail = "no packet arrived; check cable, packet size and net.core.rmem_max"
            self._arrived.extend(
                Dropped(self.uri, str(number), time.time(), Reason.INCOMPLETE, detail) for number in lost
            )

    def _call(self, failed: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except self._error() as error:
            self._answers = False  # stopping it would wait for an answer as well
            raise SourceLost(
                f"source {self.uri}: {failed} ({one_line(error.message)}); check camera and cable"
            ) from None

    def _error(self) -> Any:
        return typelib("GLib", "2.0", PACKAGE).Error


def _opened(uri: str, options: object, context: SourceContext) -> GigeSource:
    return GigeSource(uri, context.trigger)


KIND = SourceKind("gige://ADDRESS", _opened, GigeOptions, line_input=True)
