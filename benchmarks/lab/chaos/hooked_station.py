"""The station as it is, whose wall clock and backend can be led astray by files in ``$DSKD_CHAOS``.

``clock`` holds the seconds that the wall clock is ahead. While ``backend`` exists the device under the backend fails;
where it holds ``open``, no backend can be opened either.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER = "DSKD_CHAOS"
LOOK = 0.05  # seconds


class Hooks:
    """What the files say, looked at all the time."""

    def __init__(self, folder: Path) -> None:
        self.ahead, self.raises, self.closed = 0.0, False, False
        self._folder = folder
        self._true_time = time.time
        self._look()
        threading.Thread(target=self._watch, name="hooks", daemon=True).start()

    def time(self) -> float:
        """In place of ``time.time``."""
        return self._true_time() + self.ahead

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK)
            self._look()

    def _look(self) -> None:
        self.raises = (self._folder / "backend").exists()
        self.closed = False
        with suppress(OSError):
            self.closed = (self._folder / "backend").read_text() == "open"
        ahead = 0.0
        with suppress(OSError, ValueError):
            ahead = float((self._folder / "clock").read_text())
        self.ahead = ahead


def install(hooks: Hooks) -> None:
    """Before anything of the station is imported that keeps ``time.time``."""
    time.time = hooks.time
    from dskd.runtime.errors import DskdError
    from dskd.runtime.station.supervised_backend import SupervisedBackend

    true_open = SupervisedBackend._open_inspector

    def opened(backend: SupervisedBackend) -> Any:
        if hooks.closed:
            raise DskdError("drill: the device cannot be opened")
        inspector: Any = true_open(backend)
        infer = inspector.backend.infer

        def failing(batch: object) -> object:
            if hooks.raises:
                raise RuntimeError("drill: the device fails")
            return infer(batch)

        inspector.backend.infer = failing
        return inspector

    SupervisedBackend._open_inspector = opened  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # what it does where it does not end
    install(Hooks(Path(os.environ[FOLDER])))
    from dskd.runtime.errors import exit_with_code
    from dskd.runtime.station.__main__ import main

    sys.argv[0] = "dskd station"
    exit_with_code(main)
