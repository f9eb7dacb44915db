"""Engines for a bundle that does not serve yet, built with what the serving one leaves over of the device."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import DskdError, one_line

Engine = Literal["none", "best", "int8", "fp16"]
Build = Callable[[Bundle], None]
PATIENCE = 3 * 3600.0  # seconds; a Nano takes tens of minutes


def no_engine(bundle: Bundle) -> None:
    """For stations that inspect with onnxruntime."""


def builder(engine: Engine) -> Build:
    """What builds the engines of a bundle before it is proved."""
    if engine == "none":
        return no_engine

    def build(bundle: Bundle) -> None:
        """``dskd export.trt`` as a process of the lowest priority. Raises DskdError with what it said."""
        words = [sys.executable, "-m", "dskd.export.trt", f"--{engine}", "--bundle", str(bundle.path)]
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
