"""Runs a command as a document has it."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from conftest import ROOT


def run(words: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DSKD_TEACHER_WEIGHTS": "random"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
    return done.stdout
