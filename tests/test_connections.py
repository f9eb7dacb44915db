"""What a station connects to, as strace sees it: what its file names, and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from broker import Broker, needs_mosquitto
from conftest import ROOT
from station_files import PATTERN, STRICT, rows, wait_for, write_station

from dskd.benchmarks.lab.station.drill import free_port
from dskd.benchmarks.lab.station.rtsp_camera import RtspCamera

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is not installed (apt-get install strace)"
)
CALLS = "connect,sendto,sendmsg,sendmmsg,getsockname"
PLACE = re.compile(
    r'sa_family=AF_INET, sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]+)"\)'
    r'|sa_family=AF_INET6, sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, "([^"]+)"'
)


@contextmanager
def traced(file: Path, trace: Path) -> Iterator[None]:
    """A station under strace."""
    command = ["strace", "-D", "-f", "-qq", "-e", f"trace={CALLS}", "-o", str(trace)]
    with subprocess.Popen(
        [*command, sys.executable, "-m", "dskd.runtime.station", str(file)], stderr=subprocess.PIPE, cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"},
    ) as process:  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


def destinations(trace: str) -> set[tuple[str, int]]:
    """Addresses and ports of all families but Unix; paho wakes its own thread through a port that it listens on itself."""
    found: dict[bool, set[tuple[str, int]]] = {True: set(), False: set()}
    for line in trace.splitlines():
        for port, host, port6, host6 in PLACE.findall(line):
            found["getsockname(" in line].add((host or host6, int(port or port6)))
    return found[False] - found[True]


def stored(folder: Path, kind: str, number: int) -> bool:
    if not (folder / "data" / "store.db").exists():
        return False
    try:
        return int(str(rows(folder, f"SELECT count(*) FROM {kind}")[0][0])) >= number
    except Exception:  # not made yet
        return False


def test_the_trace_is_read_right() -> None:
    lines = """
1 connect(7, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("192.0.2.1")}, 16) = 0
1 sendto(8, "x", 1, 0, {sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("192.0.2.2")}, 16) = 1
1 connect(9, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}, 28) = -1
1 connect(9, {sa_family=AF_UNIX, sun_path="/run/nscd"}, 16) = 0
1 getsockname(5, {sa_family=AF_INET, sin_port=htons(40001), sin_addr=inet_addr("127.0.0.1")}, [16]) = 0
1 connect(6, {sa_family=AF_INET, sin_port=htons(40001), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
"""
    assert destinations(lines) == {("192.0.2.1", 53), ("192.0.2.2", 9), ("2001:db8::1", 443)}


def test_without_names_there_is_no_connection(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    web = {"listen": f"127.0.0.1:{free_port()}"}
    with traced(write_station(tmp_path, web=web, metrics={"listen": f"127.0.0.1:{free_port()}"}), trace):
        wait_for(lambda: stored(tmp_path, "inspections", 5), 120)
    assert destinations(trace.read_text()) == set()


class Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the parent's name)
        pass


@needs_mosquitto
def test_what_the_file_names_is_connected_to_and_nothing_else(tmp_path: Path) -> None:
    """Camera, broker and receiver; no name server is asked, for all are named by address, and nobody else hears of it."""
    trace = tmp_path / "trace"
    broker = Broker(tmp_path).start()
    hook = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    with RtspCamera(5.0) as camera:
        cameras = {
            "top": {"source": camera.uri, "recipe": "bad"},
            "side": {"source": PATTERN, "recipe": "bad"},
        }
        sinks = {
            "mes": {"kind": "mqtt", "broker": f"mqtt://127.0.0.1:{broker.port}", "topic": "line", "commands": True},
            "hook": {"kind": "webhook", "url": f"http://127.0.0.1:{hook.server_port}/", "on": ["REJECT"]},
        }
        recipes = {"bad": {"bundle": "tiny", **STRICT}}
        with traced(write_station(tmp_path, cameras=cameras, recipes=recipes, sinks=sinks), trace):
            delivered = "cursors WHERE position > 5"
            wait_for(
                lambda: stored(tmp_path, delivered, 2) and stored(tmp_path, "inspections WHERE source='top'", 2), 120
            )
        place = re.fullmatch(r"rtsp://127\.0\.0\.1:(\d+)/.*", camera.uri)
    hook.shutdown()
    broker.kill()
    assert place, camera.uri
    named = {("127.0.0.1", int(place.group(1))), ("127.0.0.1", broker.port), ("127.0.0.1", hook.server_port)}
    assert destinations(trace.read_text()) == named, json.dumps(sorted(destinations(trace.read_text())))
