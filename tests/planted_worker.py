"""The worker of a build that is slower by a share, or that leaks: ``planted_worker.py slow 0.1 OPTIONS``."""

from __future__ import annotations

import sys
import time

from dskd.benchmarks.worker import main
from dskd.runtime.errors import exit_with_code
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.result import Frame, Inspection

KIND, AMOUNT = sys.argv.pop(1), float(sys.argv.pop(1))
inspect = Inspector.inspect
leaked: list[bytearray] = []


def slow(self: Inspector, frame: Frame) -> Inspection:
    """Takes so much more processor time than it needs."""
    start = time.process_time()
    found = inspect(self, frame)
    end = time.process_time() + AMOUNT * (time.process_time() - start)
    while time.process_time() < end:
        pass
    return found


def leak(self: Inspector, frame: Frame) -> Inspection:
    """Keeps so many bytes of every frame."""
    leaked.append(bytearray(b"x" * int(AMOUNT)))
    return inspect(self, frame)


Inspector.inspect = {"slow": slow, "leak": leak}[KIND]  # type: ignore[method-assign]
exit_with_code(main)
