"""Engines for a bundle that does not serve yet, built with what the serving one leaves over of the device."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Literal

from runtime.bundle import Bundle
from runtime.errors import DskdError, one_line

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
        """``python -m export.trt`` as a process of the lowest priority. Raises DskdError with what it said."""
        words = [sys.executable, "-m", "export.trt", f"--{engine}", "--bundle", str(bundle.path)]
        try:
            done = subprocess.run(  # noqa: S603
                words, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False,
                stdin=subprocess.DEVNULL, preexec_fn=_step_back,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DskdError(f"the {engine} engine was not built: {error}") from error
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise DskdError(f"the {engine} engine was not built: {one_line(said[-1] if said else 'no reason given')}")

    return build


def _step_back() -> None:
    """Between fork and exec: last in line for the CPU, first to go when memory runs out."""
    os.nice(19)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("800")
    except OSError:
        pass  # not permitted: then nice alone
