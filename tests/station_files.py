"""Small stations for tests: a file, a tiny bundle beside it, and patience."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from conftest import ROOT
from tiny_bundle import tiny_bundle

PATTERN = "test://pattern?size=64x64&fps=25"
STRICT, LAX = {"review": 0.0, "reject": 0.0}, {"review": 9.0, "reject": 9.0}  # rejects all, passes all


def wait_for(what: Callable[[], object], timeout: float = 15.0) -> None:
    """Until ``what()`` is true."""
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, "did not come in time"
        time.sleep(0.01)


def write_station(folder: Path, **changes: object) -> Path:
    """``station.yaml`` with one camera and two recipes of a tiny bundle; ``changes`` replace top-level keys."""
    if not (folder / "tiny").exists():
        tiny_bundle(folder / "tiny")
    fields: dict[str, object] = {
        "name": "test",
        "data": "data",
        "cameras": {"top": {"source": PATTERN, "recipe": "good"}},
        "recipes": {
            "good": {"bundle": "tiny", "job": 1, **LAX},
            "bad": {"bundle": "tiny", "job": 2, **STRICT},
        },
        "backend": {"name": "onnxruntime", "threads": 1, "latency_budget_ms": 5},
    }
    fields.update(changes)
    file = folder / "station.yaml"
    file.write_text(
        yaml.safe_dump(json.loads(json.dumps(fields)), sort_keys=False)
    )  # no two keys share a value: no alias
    return file


def rows(folder: Path, question: str) -> list[tuple[object, ...]]:
    """Asks a station's store."""
    with sqlite3.connect(f"file:{folder / 'data' / 'store.db'}?mode=ro", uri=True, timeout=10) as database:
        return database.execute(question).fetchall()


class Process:
    """A station in a process of its own."""

    def __init__(self, file: Path, **environment: str) -> None:
        self.log = file.with_name("log.txt")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dskd.runtime.station", str(file)], stderr=log, cwd=ROOT,
                env={**os.environ, **environment},
            )  # fmt: skip

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_log(self, text: str, timeout: float = 30.0) -> None:
        wait_for(lambda: text in self.text() or self.process.poll() is not None, timeout)
        assert text in self.text(), self.text()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def end(self, timeout: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        finally:
            self.process.kill()
