"""A station ends where only a new process can go on, with a code that systemd and Docker start it again after."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest import ROOT
from station_files import rows, write_station

from dskd.runtime.errors import DeviceLost, DskdError
from dskd.runtime.station import __main__ as command
from dskd.runtime.station.load import load_station
from dskd.runtime.station.recipes_in_use import MOST_IDLE, RecipesInUse
from dskd.runtime.station.station import Station

LOSES_ITS_BACKEND = """
import atexit, sys, threading
from dskd.runtime.errors import DeviceLost, exit_with_code
from dskd.runtime.inspection.backends.onnx_runtime import OnnxRuntimeBackend
from dskd.runtime.station import recipes_in_use
from dskd.runtime.station.__main__ import main

recipes_in_use.MOST_IDLE = 0.2  # seconds instead of minutes
calls, answer, close = [], OnnxRuntimeBackend.infer, OnnxRuntimeBackend.close
def hang(*_):
    threading.Event().wait()
def infer(self, batch):
    calls.append(1)
    if len(calls) > 20:  # the golden frames and some pictures
        if HANGS:  # as a library does whose device is lost
            OnnxRuntimeBackend.close = hang
            atexit.register(hang)
        raise ERROR
    return answer(self, batch)
OnnxRuntimeBackend.infer = infer
exit_with_code(main)
"""


@contextmanager
def heard_by_systemd(address: Path) -> Iterator[list[str]]:
    """Everything that is told to it, complete at the end; it reads all the time, as its queue is short."""
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))

        def hear() -> None:
            while (word := systemd.recv(4096).decode()) != "THE END":
                told.append(word)

        listening = threading.Thread(target=hear)
        listening.start()
        try:
            yield told
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"THE END", str(address))
            listening.join()


@pytest.mark.parametrize(
    ("error", "hangs", "said"),
    [
        (
            'DeviceLost("cuStreamSynchronize: CUDA_ERROR_LAUNCH_FAILED")', "True",
            "cuStreamSynchronize: CUDA_ERROR_LAUNCH_FAILED",
        ),
        ('RuntimeError("no power")', "False", "nothing was inspected for 0 minutes, because there is no backend: "),
    ],
)  # fmt: skip
def test_a_station_ends_to_be_started_again(tmp_path: Path, error: str, hangs: str, said: str) -> None:
    script = LOSES_ITS_BACKEND.replace("ERROR", error).replace("HANGS", hangs)
    with heard_by_systemd(tmp_path / "notify") as told:
        process = subprocess.run(
            [sys.executable, "-c", script, write_station(tmp_path)], cwd=ROOT, capture_output=True, text=True,
            timeout=60, env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}, check=False,
        )  # fmt: skip
    lines = process.stderr.splitlines()
    assert process.returncode == 1
    assert lines[-1].startswith(f"error: {said}")
    assert any("the station ends, to be started again" in line for line in lines)
    assert rows(tmp_path, "SELECT count(*) > 0 FROM dropped") == [(1,)]
    assert told[0] == "READY=1"
    assert told[-1] == "STOPPING=1"


def test_the_unit_and_the_container_start_it_again_after_that_code() -> None:
    unit = (ROOT / "jetson" / "systemd" / "dskd-station.service").read_text()
    assert "Restart=always" in unit
    assert not re.search(r"^(RestartPreventExitStatus|SuccessExitStatus)=", unit, re.M)
    assert re.search(r"^\s+restart: (always|unless-stopped)$", (ROOT / "jetson" / "compose.yaml").read_text(), re.M)


class Inspecting:
    """A camera's inspection thread, as far as its backend goes."""

    def __init__(self, idle: float = 0.0, lost: DeviceLost | None = None) -> None:
        self.backend = SimpleNamespace(idle=idle, lost=lost, fault="no power")
        self.inspects = self


def test_one_camera_that_still_inspects_keeps_the_process_and_a_lost_device_ends_it(tmp_path: Path) -> None:
    cameras: dict[str, Any] = {}
    recipes = RecipesInUse(load_station(write_station(tmp_path)), cameras, cast("Any", None))
    assert recipes.beyond_repair() is None  # while it starts
    cameras.update(left=Inspecting(MOST_IDLE + 1), right=Inspecting())
    assert recipes.beyond_repair() is None
    cameras["right"] = Inspecting(MOST_IDLE - 1)
    assert recipes.beyond_repair() is None
    cameras["right"] = Inspecting(MOST_IDLE + 1)
    assert str(recipes.beyond_repair()) == (
        "nothing was inspected for 5 minutes, because there is no backend: no power"
    )
    lost = DeviceLost("gone")
    cameras.update(left=Inspecting(), right=Inspecting(lost=lost))
    assert recipes.beyond_repair() is lost


class Watched:
    """A station that is as the test says, look by look, and is told to stop after the last."""

    def __init__(self, *looks: list[str] | DskdError) -> None:
        self.looks, self.stop = list(looks), threading.Event()
        self.config = SimpleNamespace(cameras={})

    def beyond_repair(self) -> DskdError | None:
        return self.looks[0] if isinstance(self.looks[0], DskdError) else None

    def hanging(self) -> list[str]:
        look = self.looks.pop(0)
        if not self.looks:
            self.stop.set()
        assert not isinstance(look, DskdError)
        return look

    def status(self) -> Any:
        return SimpleNamespace(health="ok", cameras=(), parts=())


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What systemd hears."""
    heard: list[str] = []
    monkeypatch.setattr(command.systemd, "notify", heard.append)
    monkeypatch.setattr(command, "WATCH", 0.001)
    return heard


def test_the_watchdog_is_fed_only_while_every_thread_lives(told: list[str]) -> None:
    station = Watched([], ["recorder"], ["recorder"], [])
    command.watch(cast("Station", station), station.stop, lambda: True)
    assert told == ["WATCHDOG=1", "STATUS=ok", "STATUS=hanging: recorder", "WATCHDOG=1", "STATUS=ok"]
    told.clear()
    station = Watched(["capture top"])
    command.watch(cast("Station", station), station.stop, lambda: False)
    assert told == ["STATUS=hanging: capture top, page"]


def test_the_watch_ends_at_once_where_nothing_can_be_mended(told: list[str]) -> None:
    station = Watched([], DeviceLost("gone"), [])
    with pytest.raises(DeviceLost, match="gone"):
        command.watch(cast("Station", station), station.stop, lambda: True)
    assert told == ["WATCHDOG=1", "STATUS=ok"]
