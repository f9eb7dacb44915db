"""What an agent does where its surroundings are broken: what it says, what it keeps to itself, what it leaves behind."""

from __future__ import annotations

import http.server
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import Broker, needs_mosquitto, wait_for
from pydantic import ValidationError
from tiny_bundle import tiny_bundle

from dskd.benchmarks.lab.station.drill import free_port
from dskd.jetson.download import Fetcher, NotFetched, check_source
from dskd.jetson.engine_builder import BuildWindow, NotNow, builder
from dskd.jetson.fleet_config import BrokerConfig
from dskd.jetson.fleet_link import FleetLink
from dskd.jetson.signing import make_key
from dskd.runtime.errors import CallError, DskdError

KEY = "sig=eleven22thirty3"


class _NeverSatisfied(http.server.BaseHTTPRequestHandler):
    """416 to everything, as a broken proxy."""

    def do_GET(self) -> None:
        self.send_error(416)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def unsatisfied() -> Iterator[int]:
    """The port of a server that answers 416 to everything."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _NeverSatisfied)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_a_server_that_refuses_every_range_is_named_once(unsatisfied: int) -> None:
    with pytest.raises(NotFetched, match="the server says 416"):
        Fetcher(f"http://127.0.0.1:{unsatisfied}/bracket/").small("bracket.update", 100)


@pytest.mark.parametrize("there", [True, False])
def test_a_key_in_the_sources_address_is_never_told(unsatisfied: int, there: bool) -> None:
    source = f"http://127.0.0.1:{unsatisfied if there else free_port()}/bracket/?{KEY}"
    with pytest.raises(NotFetched, match=r"/bracket/bracket\.update: ") as told:
        Fetcher(source, pause=lambda _: None).small("bracket.update", 100)
    assert KEY not in str(told.value)
    with pytest.raises(CallError) as wrong:
        check_source(f"ftp://host/bracket/?{KEY}")
    assert KEY not in str(wrong.value)


def test_half_a_pair_of_keys_is_never_made(tmp_path: Path) -> None:
    (tmp_path / "plant.pub").write_text("another's")
    with pytest.raises(CallError, match=r"plant\.pub exists"):
        make_key(tmp_path, "plant")
    assert [path.name for path in tmp_path.iterdir()] == ["plant.pub"]


def test_engines_are_built_last_in_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is one that says how it runs, and fails."""
    bundle = tiny_bundle(tmp_path / "bundle")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nsleep 0.5\necho priority $(nice) $(cat /proc/self/oom_score_adj) >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(DskdError, match="engine was not built: priority 19 800"):
        builder("fp16")(bundle)


@pytest.mark.parametrize(
    ("between", "at", "may"),
    [
        (None, "12:00", True), ("02:00-04:00", "01:59", False), ("02:00-04:00", "02:00", True),
        ("02:00-04:00", "04:00", False), ("22:00-05:30", "23:10", True), ("22:00-05:30", "05:29", True),
        ("22:00-05:30", "12:00", False),
    ],
)  # fmt: skip
def test_a_build_begins_in_its_window(between: str | None, at: str, may: bool) -> None:
    assert BuildWindow(between=between).open_at(time.strptime(at, "%H:%M")) == may


def test_outside_of_the_window_the_update_waits(tmp_path: Path) -> None:
    build = builder("best", BuildWindow(between="02:00-04:00"), lambda: time.strptime("12:00", "%H:%M"))
    with pytest.raises(NotNow, match="the best engine is built between 02:00-04:00"):
        build(tiny_bundle(tmp_path / "bundle"))
    with pytest.raises(ValidationError, match="write two times of the day"):
        BuildWindow(between="2-4")


def link(port: int, said: list[str], user: str | None = None) -> FleetLink:
    secrets = {"user": "${FLEET_USER}", "password": "${FLEET_PASSWORD}"} if user else {}
    config = BrokerConfig.model_validate({"address": f"mqtt://127.0.0.1:{port}", **secrets})
    made = FleetLink(config, "device-1", "bracket", threading.Event(), said.append)
    made.start()
    return made


@needs_mosquitto
def test_a_broker_that_refuses_is_told_once_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEET_USER", "device")
    monkeypatch.setenv("FLEET_PASSWORD", "wrong-4711")
    broker, said = Broker(tmp_path, {"device": "right"}).start(), list[str]()
    refused = link(broker.port, said, "device")
    try:
        wait_for(lambda: said)
        time.sleep(2.5)  # two more attempts
    finally:
        refused.close()
        broker.kill()
    assert len(said) == 1
    assert "refuses" in said[0]
    assert "fleet.yaml" in said[0]
    assert "wrong-4711" not in said[0]


@needs_mosquitto
def test_a_broker_that_is_away_is_told_once_and_forgotten_when_it_comes(tmp_path: Path) -> None:
    broker, said = Broker(tmp_path), list[str]()
    waiting = link(broker.port, said)
    try:
        wait_for(lambda: said)
        broker.start()
        wait_for(lambda: waiting.connected)
    finally:
        waiting.close()
        broker.kill()
    assert len(said) == 1
    assert f"127.0.0.1:{broker.port}: cannot be reached" in said[0]


@pytest.mark.parametrize(
    ("answer", "told"), [(b"\x20\x02\xff\xff" + b"\xf3" * 100, "broker"), (b"", "without an answer")]
)
def test_a_broker_that_speaks_nonsense_or_hangs_up_is_told_and_tried_again(answer: bytes, told: str) -> None:
    said = list[str]()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        stubborn = link(server.getsockname()[1], said)
        try:
            for _ in range(3):
                with server.accept()[0] as connection:
                    connection.recv(1000)
                    connection.sendall(answer)
        finally:
            stubborn.close()
    assert len(said) == 1
    assert told in said[0]
