"""Who looks at a station and takes from it while it works: a browser, a scraper, a PLC, a receiver of POSTs."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dskd.benchmarks.lab.station.plc import Plc, bit

PATIENCE = 10.0  # seconds for one answer


class Onlooker:
    """Does one thing again and again in a thread; what fails is counted and tried anew."""

    def __init__(self, name: str, period: float, look: Callable[[], object]) -> None:
        self.name, self.answers, self.failures = name, 0, 0
        self._period, self._look = period, look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it after the answer under way."""
        self._stop.set()
        self._thread.join(2 * PATIENCE)

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            try:
                self._look()
                self.answers += 1
            except (OSError, http.client.HTTPException):
                self.failures += self.answers > 0 and not self._stop.is_set()  # before the first it may not listen yet


class Browser:
    """Asks the page as its script does: state four times a second, each camera's picture in turn, lists now and then."""

    PERIOD = 0.25  # seconds

    def __init__(self, port: int, cameras: list[str]) -> None:
        self.state: dict[str, object] = {}
        self._port, self._cameras = port, itertools.cycle(cameras)
        self._link: http.client.HTTPConnection | None = None
        self._round = itertools.count()

    def look(self) -> None:
        """One round of questions over one connection. Raises OSError or HTTPException."""
        camera, number = next(self._cameras), next(self._round)
        self.state = json.loads(self._get("/api/state"))
        self._get(f"/api/cameras/{camera}/live?heat=1&width=960")
        if number % 4 == 0:
            self._get(f"/api/inspections?limit=14&camera={camera}")
        if number % 8 == 0:
            self._get(f"/api/counts?since=0&camera={camera}")

    def _get(self, path: str) -> bytes:
        self._link = link = self._link or http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            link.request("GET", path)
            answer = link.getresponse()
            data = answer.read()
        except BaseException:
            link.close()
            self._link = None
            raise
        if answer.status >= 500:
            raise http.client.HTTPException(f"{path}: {answer.status}")
        return data


def scrape(port: int) -> None:
    """One look of a Prometheus."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        link.request("GET", "/metrics")
        answer = link.getresponse()
        if answer.status != 200 or b"dskd_parts_total" not in answer.read():
            raise http.client.HTTPException(f"/metrics: {answer.status}")
    finally:
        link.close()


class ResultTaker:
    """A PLC that only takes results."""

    PERIOD = 0.02  # seconds

    def __init__(self, port: int) -> None:
        self.taken = self.overruns = 0
        self._port = port
        self._plc: Plc | None = None

    def look(self) -> None:
        """Reads the registers and acknowledges the result that is there. Raises OSError."""
        try:
            self._plc = plc = self._plc or Plc(self._port)
            registers = plc.registers()
            self.overruns += bit(registers, "Overrun")
            if bit(registers, "ResultsValid"):
                self.taken += 1
                plc.coil("ResultsAck", True)
                plc.coil("ResultsAck", False)
        except OSError:
            if self._plc is not None:
                self._plc.close()
            self._plc = None
            raise


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news."""


class Receiver:
    """Takes POSTs on a port of its own, or on ``port``, and remembers their keys, after those in ``keys``."""

    def __init__(self, port: int = 0, keys: list[str] | None = None) -> None:
        heard = [] if keys is None else keys
        gone = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                if gone.is_set():  # a connection that was open is no receiver either
                    self.close_connection = True
                    return
                heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["key"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the parent's name)
                pass

        self.keys, self._gone = heard, gone
        self._server = _Server(("127.0.0.1", port), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Frees the port."""
        self._gone.set()
        with suppress(OSError):
            self._server.shutdown()
            self._server.server_close()
