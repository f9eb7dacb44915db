"""Clients that only hold places: a watchdog, a scraper and a PLC are answered all the same."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from station_files import PATTERN, wait_for, write_station

from dskd.benchmarks.lab.station.plc import Plc
from dskd.runtime.metrics_listener import MOST_CLIENTS as SCRAPERS
from dskd.runtime.station.load import load_station
from dskd.runtime.station.outputs import modbus
from dskd.runtime.station.outputs.modbus import ModbusServer
from dskd.runtime.station.station import Station
from dskd.runtime.web import connections
from dskd.runtime.web.page import make_page, start_page


@contextmanager
def holding(port: int, number: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections that say ``first`` and nothing more."""
    held = []
    try:
        for _ in range(number):
            held.append(socket.create_connection(("127.0.0.1", port), 5))
            held[-1].sendall(first)
        yield held
    finally:
        for link in held:
            link.close()


def ask(port: int, path: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as link:
        link.request("GET", path)
        answer = link.getresponse()
        return answer.status, answer.read()


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    file = write_station(
        tmp_path,
        cameras={"top": {"source": PATTERN, "recipe": "good", "trigger": {"kind": "software"}}},
        outputs={"plc": {"kind": "modbus", "listen": "127.0.0.1:0", "camera": "top"}},
        web={"listen": "127.0.0.1:0"},
        metrics={"listen": "127.0.0.1:0"},
    )
    running = Station(load_station(file))
    running.start()
    try:
        yield running
    finally:
        running.stop()


def test_health_and_metrics_are_answered_while_all_places_are_held(station: Station) -> None:
    listener = station._listener
    assert listener is not None
    with holding(listener.port, 4 * SCRAPERS, b"GET /metrics HTTP/1.1\r\nx: "):
        status, body = ask(listener.port, "/healthz")
        assert (status, json.loads(body)["station"]) == (200, "test")
        assert b"dskd_camera_ready" in ask(listener.port, "/metrics")[1]
    assert ask(listener.port, "/token")[0] == 404


def test_the_page_is_answered_while_one_host_holds_all_its_places(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 8)
    page = make_page(station)
    assert page is not None
    start_page(page, station)
    try:
        with holding(page.address[1], 40, b"GET / HTTP/1.1\r\nx: "):
            for _ in range(3):
                assert ask(page.address[1], "/healthz")[0] == 200
        with holding(page.address[1], 40):
            assert ask(page.address[1], "/healthz")[0] == 200
    finally:
        page.stop()


def test_a_plc_keeps_its_place_and_a_late_one_gets_one(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modbus, "MOST_CLIENTS", 4)
    server = next(output for output in station.outputs if isinstance(output, ModbusServer))
    early = Plc(server.address[1])
    early.registers()
    with holding(server.address[1], 12):
        late = Plc(server.address[1])
        assert late.registers()
        assert early.registers()
        wait_for(lambda: len(server._tasks) <= 4)
        late.close()
    early.close()
