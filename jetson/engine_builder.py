"""Engines for a bundle that does not serve yet, built with what the serving one leaves over of the device.

The lowest priority is the CPU's alone: on the GPU a build shares the time with the frames of the line, for minutes, and
measures kernels beside them. ``BuildWindow`` keeps both apart.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.configuration.strict_yaml import Strict
from dskd.runtime.errors import DskdError, one_line

Engine = Literal["none", "best", "int8", "fp16"]
Build = Callable[[Bundle], None]
PATIENCE = 3 * 3600.0  # seconds; a Nano takes tens of minutes
WORKSPACE = 256  # MiB of scratch memory a layer may use: by default all, and on a Jetson that is the station's too


def _window(text: str) -> str:
    hour = r"([01]\d|2[0-3]):[0-5]\d"
    if not re.fullmatch(f"{hour}-{hour}", text):
        raise ValueError("write two times of the day, as in 02:00-04:00")
    return text


class NotNow(DskdError):
    """The update cannot be built or tried at this moment; a later call may do better."""


class BuildWindow(Strict):
    """When engines may be built."""

    between: Annotated[str, AfterValidator(_window)] | None = Field(
        None, description="local time, as 02:00-04:00, in which a build may begin; default: at any time"
    )

    def open_at(self, moment: time.struct_time) -> bool:
        """Whether a build may begin then."""
        if self.between is None:
            return True
        begin, end = (60 * int(text[:2]) + int(text[3:]) for text in self.between.split("-"))
        minute = 60 * moment.tm_hour + moment.tm_min
        return begin <= minute < end if begin <= end else minute >= begin or minute < end


def no_engine(bundle: Bundle) -> None:
    """For stations that inspect with onnxruntime."""


def builder(
    engine: Engine, window: BuildWindow | None = None, now: Callable[[], time.struct_time] = time.localtime
) -> Build:
    """What builds the engines of a bundle before it is proved; outside of the ``window`` it raises NotNow."""
    if engine == "none":
        return no_engine

    def build(bundle: Bundle) -> None:
        """``dskd export.trt`` as a process of the lowest priority. Raises DskdError with what it said."""
        if window is not None and not window.open_at(now()):
            raise NotNow(f"the {engine} engine is built between {window.between}")
        words = [
            sys.executable,
            "-m",
            "dskd.export.trt",
            f"--{engine}",
            "--bundle",
            str(bundle.path),
            "--workspace",
            str(WORKSPACE),
        ]
        try:
            with subprocess.Popen(  # noqa: S603
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            ) as process:
                try:
                    _put_last(process.pid)
                    out, err = process.communicate(timeout=PATIENCE)
                finally:
                    process.kill()
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DskdError(f"the {engine} engine was not built: {error}") from error
        if process.returncode:
            said = (err.strip() or out.strip()).splitlines()
            raise DskdError(f"the {engine} engine was not built: {one_line(said[-1] if said else 'no reason given')}")

    return build


def _put_last(pid: int) -> None:
    """Last in line for the CPU, first to go when memory runs out. Done from here: the agent has threads, and after a
    fork beside threads nothing but exec is safe.
    """
    with suppress(OSError):  # not permitted, or ended already
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        Path(f"/proc/{pid}/oom_score_adj").write_text("800")
