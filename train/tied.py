"""``dskd train.tied PARENT MODULE ...``: runs the command of ``dskd.MODULE``, which ends when process PARENT does.

A sweep's worker may be killed at any moment; a training that outlived it would keep its folder and its GPU.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)


def words(module: str, *arguments: str) -> list[str]:
    """The command that runs ``module`` tied to this process."""
    return [sys.executable, "-m", "dskd.train.tied", str(os.getpid()), module, *arguments]


def main() -> None:
    """Ties this process to its parent, then becomes the module."""
    parent, module, *arguments = sys.argv[1:]
    ctypes.CDLL(None, use_errno=True).prctl(_PARENT_DEATH, signal.SIGTERM)
    if os.getppid() != int(parent):
        raise SystemExit(1)  # it is gone already
    sys.argv = [module, *arguments]
    runpy.run_module(f"dskd.{module}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
