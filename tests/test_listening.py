"""An address that is taken is told, with who has it, before any camera starts."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Command
from station_files import Process, rows, write_station

from dskd.benchmarks.lab.station.drill import free_port
from dskd.runtime.errors import DskdError
from dskd.runtime.listening import listen_at, listener_of

OWN = f"process {os.getpid()}"


@pytest.fixture
def taken() -> Iterator[str]:
    """An address at which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("key", "more"),
    [("web", {}), ("metrics", {}), ("plc", {"outputs": {"plc": {"kind": "modbus", "camera": "top"}}})],
)
def test_a_station_whose_address_is_taken_captures_nothing(
    tmp_path: Path, command: Command, taken: str, key: str, more: dict[str, dict[str, dict[str, object]]]
) -> None:
    if key == "plc":
        more["outputs"]["plc"]["listen"] = taken
        file = write_station(tmp_path, **more)
    else:
        file = write_station(tmp_path, **{key: {"listen": taken}})
    done = command("runtime.station", file, timeout=60)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert f"cannot listen on {taken}" in last
    assert OWN in last
    assert re.search(r"name another|change (web|metrics)\.listen in the station file", last)
    captured = re.findall(r"(\d+) captured", done.stderr)
    assert set(captured) <= {"0"}
    assert rows(tmp_path, "SELECT count(*) FROM inspections") == [(0,)]
    told = command("runtime.station", file, "--check-config")
    assert told.returncode == 1
    assert sum(taken in line and OWN in line for line in told.stdout.splitlines()) == 1
    assert told.stdout.splitlines()[-1].startswith("the file is right, and an address is taken")


def test_a_station_that_runs_holds_its_own_addresses(tmp_path: Path, command: Command) -> None:
    """Its file is checked while it runs, and what it listens at is no fault."""
    file = write_station(tmp_path, web={"listen": f"127.0.0.1:{free_port()}"})
    process = Process(file)
    try:
        process.wait_for_log("page on")
        told = command("runtime.station", file, "--check-config")
        assert (told.returncode, told.stdout.splitlines()[-1]) == (0, "the file is right")
    finally:
        process.end()


def test_who_listens_is_found_at_every_kind_of_address() -> None:
    for host, asked in (("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")):
        with listen_at(host, 0, "x", "x") as listener:
            assert listener_of(asked, listener.getsockname()[1]) == os.getpid()
    assert listener_of("127.0.0.1", free_port()) is None
    if socket.has_ipv6:
        with listen_at("::1", 0, "x", "x") as listener:
            port = listener.getsockname()[1]
            assert listener_of("::1", port) == os.getpid()
            with pytest.raises(DskdError, match=rf"cannot listen on \[::1\]:{port} \(taken by .*{OWN}\)"):
                listen_at("::1", port, "x", "x")


def test_an_address_of_another_machine_is_told_as_such() -> None:
    with pytest.raises(DskdError, match=r"web page: cannot listen on 203\.0\.113\.1:80 \(.*\); change web\.listen"):
        listen_at("203.0.113.1", 80, "web page", "web.listen")
