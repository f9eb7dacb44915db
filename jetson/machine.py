"""A machine as files below a root and commands on a path, so that a test can plant any device there is."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

LARGEST_TEXT = 1 << 16  # bytes: what sysfs, procfs and device trees give is far smaller


@dataclass(frozen=True)
class Machine:
    """``root`` stands for ``/``; ``path`` is where commands are looked for, None for ``$PATH``."""

    root: Path = Path("/")
    path: str | None = None

    def file(self, name: str) -> Path:
        """``/etc/hosts`` of this machine."""
        return self.root / name.lstrip("/")

    def text(self, name: str | Path) -> str | None:
        """What stands in a file, without NUL bytes and outer white space; None where it cannot be read.

        An offline thermal zone raises EAGAIN, a rail that is root's raises EACCES: both are None.
        """
        try:
            with open(self.file(name) if isinstance(name, str) else name, "rb") as handle:
                return handle.read(LARGEST_TEXT).decode(errors="replace").replace("\0", " ").strip()
        except OSError:
            return None

    def number(self, name: str | Path) -> int | None:
        """The whole number in a file, None where there is none."""
        try:
            return int(self.text(name) or "")
        except ValueError:
            return None

    def glob(self, pattern: str) -> list[Path]:
        """Files of this machine by an absolute pattern, in order; links are followed."""
        return [
            Path(found) for found in sorted(glob.glob(os.path.join(glob.escape(str(self.root)), pattern.lstrip("/"))))
        ]

    def which(self, command: str) -> str | None:
        """Where a command stands, None where there is none."""
        return shutil.which(command, path=self.path)

    def run(self, *words: str, timeout: float = 10.0) -> str | None:
        """What a command printed; None where it is missing, failed or took too long."""
        found = self.which(words[0])
        if found is None:
            return None
        try:
            done = subprocess.run(  # noqa: S603 (a list of words, no shell)
                [found, *words[1:]], capture_output=True, text=True, errors="replace", timeout=timeout, check=True,
                stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout
