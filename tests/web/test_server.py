"""The real server under clients that mean no good: fuzzed requests, clients that never read, never finish, never go."""

from __future__ import annotations

import gc
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from broker import wait_for

from dskd.runtime.store.reader import IDLE_CONNECTIONS
from dskd.runtime.web import connections
from dskd.runtime.web.server import WebOptions, WebServer

from .conftest import Served

FUZZ, AT_ONCE = 10_000, 16
SEED = 4


def connect(served: Served, timeout: float = 10.0) -> socket.socket:
    return socket.create_connection(served.server.address, timeout=timeout)


def answers(connection: socket.socket) -> bytes:
    """All that comes until the server closes or stops for half a second."""
    connection.settimeout(0.5)
    got = b""
    try:
        while piece := connection.recv(65536):
            got += piece
    except (TimeoutError, OSError):
        pass
    return got


def resident() -> int:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(but: Path | None = None) -> int:
    """Open files of this process, without those of the store ``but``, which keeps some connections for the next reader."""
    held = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            held += but is None or not os.readlink(f"/proc/self/fd/{number}").startswith(str(but))
        except FileNotFoundError:  # closed meanwhile
            continue
    return held


def settle(served: Served) -> None:
    """Waits until the server has let go of all connections."""
    wait_for(lambda: not served.server._server.server_state.connections)


# ---------------------------------------------------------------------------------------------------------- fuzzing

PATHS = [
    "/", "/static/app.js", "/healthz", "/api", "/api/state", "/api/cameras/top/live?heat=1", "/api/inspections",
    "/api/inspections/1", "/api/inspections/1/original", "/api/inspections/1/thumbnail", "/api/counts?since=1",
    "/api/cameras/top/scores", "/api/audit", "/api/cameras/top/thresholds", "/api/cameras/top/recipe",
    "/api/cameras/top/trigger", "/api/inspections/1/label", "/api/inspections/1/rejudge", "/api/sign-in",
    "/api/sign-out", "/nowhere",
]  # fmt: skip
METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW", "get", ""]
BODIES = [
    b"", b"{}", b"null", b"[]", b'{"review": 1, "reject": 2}', b'{"part": null}', b'{"found": "good"}', b"{" * 200,
    b'{"recipe": "strict"}', b'{"token": "x", "name": "y"}', b"\x00\xff" * 50, b'{"review": 1e999, "reject": -0}',
    b'{"part": "\\ud800"}', b'{"recipe": "\\u0000"}', b"9" * 5000, b'"' + b"a" * 15000 + b'"',
]  # fmt: skip


def request(chance: random.Random, served: Served) -> bytes:
    """One request that is right, nearly right, or nothing like it."""
    path = chance.choice(PATHS)
    if chance.random() < 0.4:
        path = broken(chance, path.encode()).decode("latin-1")
    body = chance.choice(BODIES)
    headers = [f"Host: {chance.choice(['localhost'] * 14 + ['127.0.0.1:80', '[::1]', '[', 'x' * 300, ''])}"]
    if chance.random() < 0.8:
        headers.append(f"Content-Type: {chance.choice(['application/json', 'text/html', 'application/json;;;', '*'])}")
    length = chance.choice([str(len(body))] * 24 + ["-1", "0", "99999999999", "1e3", "٣", str(len(body) - 1)])
    headers.append(chance.choice([f"Content-Length: {length}"] * 5 + ["Transfer-Encoding: chunked", "X: y"]))
    bearer = [f"Bearer {served.token}", "Bearer x", "Bearer", "Basic eA==", "\x7f"]
    if chance.random() < 0.5:
        headers.append(f"Authorization: {chance.choice(bearer)}")
    if chance.random() < 0.3:
        headers.append(f"Cookie: {served.server._state.cookie}={chance.choice(['', 'x', ';;;=', 'a' * 5000])}")
    if chance.random() < 0.2:
        headers.append(
            chance.choice(["Origin: null", "Origin: http://[", "Expect: 100-continue", "Upgrade: websocket"])
        )
    head = f"{chance.choice(METHODS[:3] * 6 + METHODS)} {path} HTTP/1.1\r\n" + "\r\n".join(headers) + "\r\n\r\n"
    raw = head.encode("utf-8", "replace") + body
    return broken(chance, raw) if chance.random() < 0.25 else raw


def broken(chance: random.Random, raw: bytes) -> bytes:
    """Some bytes changed, cut out, doubled or put in."""
    data = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            case 1:
                del data[at : at + chance.randint(1, 20)]
            case 2:
                data[at:at] = data[max(0, at - 10) : at] * chance.randint(1, 30)
            case 3:
                data[at:at] = chance.choice(
                    [b"%00", b"%2e%2e/", b"../", b"\r\n", b"\x00", b"%", b"?", b"#", b"//", b"%ff"]
                )
            case _:
                del data[at:]
    return bytes(data)


def exchange(served: Served, raw: bytes, patience: float = 20.0) -> int:
    """The answer's code, 0 where the server hung up, waits for more or takes longer; then the client just goes."""
    try:
        with connect(served) as connection:
            connection.sendall(raw)
            connection.settimeout(patience)
            head = connection.recv(4096)
    except OSError:
        return 0
    return int(head[9:12]) if head.startswith(b"HTTP/1.1 ") and head[9:12].isdigit() else 0


@pytest.mark.budget
@pytest.mark.slow
def test_ten_thousand_fuzzed_requests_do_no_harm(served: Served) -> None:
    chance = random.Random(SEED)
    served.server._state.door._guesses.check = lambda _: None  # type: ignore[method-assign] # the pause would hide the rest
    look = b"GET /api/state HTTP/1.1\r\nHost: localhost\r\n\r\n"
    codes: Counter[int] = Counter()
    with ThreadPoolExecutor(AT_ONCE) as crowd:

        def send(number: int) -> None:
            for raw, code in crowd.map(lambda raw: (raw, exchange(served, raw, 0.4)), batch(number)):
                codes[code] += 1
                assert code not in (500, 502), raw
            assert exchange(served, look) == 200

        def batch(number: int) -> list[bytes]:
            return [request(chance, served) for _ in range(number)]

        send(1000)  # what is made once is made
        settle(served)
        store = served.station.store.path
        before = resident(), descriptors(store), threading.active_count()
        for _ in range(FUZZ // 1000):
            send(1000)
        settle(served)
    wait_for(lambda: descriptors(store) <= before[1] + 2)  # what reads the store for a client that left has ended too
    wait_for(lambda: descriptors() - descriptors(store) <= 3 * IDLE_CONNECTIONS + 3)  # a file, its log, their index
    grown = resident() - before[0]
    print(f"codes {dict(codes)}; grown by {grown / 1e6:.1f} MB")
    assert {200, 400, 401, 404, 405} <= set(codes)
    assert threading.active_count() <= before[2] + 2
    assert grown < 60e6
    assert exchange(served, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200


def test_a_body_that_breaks_where_no_400_can_be_sent_ends_the_connection(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{no chunk\r\n"
    assert exchange(served, b"HEAD /healthz HTTP/1.1\r\n" + head) in (0, 400)
    settle(served)
    assert not [record for record in caplog.records if record.name == "asyncio"]


# ------------------------------------------------------------------------------------- clients that take their time


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALLED_SECONDS", 1.0)
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
def test_clients_that_never_read_cost_little_and_are_ended(served: Served) -> None:
    ask = f"GET /api/inspections/{served.rejected}/original HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 40
    before = resident()
    open_ones = []
    for _ in range(30):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(served.server.address)
        connection.sendall(ask)
        open_ones.append(connection)
    start = time.monotonic()
    with served.client() as viewer:  # the page works on beside them
        for _ in range(10):
            assert viewer.get("/api/cameras/top/live").status_code == 200
    assert resident() - before < 40e6
    while len(served.server._server.server_state.connections) > 1 and time.monotonic() - start < 15:
        time.sleep(0.1)
    assert len(served.server._server.server_state.connections) <= 1
    for connection in open_ones:
        connection.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "begun", [b"", b"GET / HT", b"POST /api/sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"]
)
def test_requests_that_are_never_finished_are_ended(served: Served, begun: bytes) -> None:
    with connect(served) as connection:
        connection.sendall(begun)
        connection.settimeout(15)
        start = time.monotonic()
        while connection.recv(4096):
            pass
        assert time.monotonic() - start < 12


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("body", [False, True])
def test_requests_that_trickle_in_for_ever_are_ended(
    served: Served, body: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte is a sign of life; a whole request is due all the same."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 2.0)
    begun = b"POST /api/sign-in HTTP/1.1\r\nHost: localhost\r\n" + (b"Content-Length: 999\r\n\r\n" if body else b"X: ")
    with connect(served) as connection:
        connection.sendall(begun)
        start = time.monotonic()
        ended = False
        while not ended and time.monotonic() - start < 20:
            try:
                connection.sendall(b"x")
            except OSError:  # reset or broken pipe
                ended = True
            time.sleep(0.2)
        assert ended
        assert time.monotonic() - start >= 2.0


@pytest.mark.usefixtures("impatient")
def test_too_many_connections_are_refused_and_the_page_comes_back(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 16)
    settle(served)
    held = [connect(served) for _ in range(60)]
    time.sleep(0.3)
    assert len(served.server._server.server_state.connections) <= 16
    for connection in held:
        connection.close()
    settle(served)
    with served.client() as viewer:
        assert viewer.get("/api/state").status_code == 200


def test_a_viewer_who_looks_away_does_not_slow_the_station(served: Served) -> None:
    """Pictures are drawn for who asks, once for all."""
    served.station.step("top", served.bad)
    drawn = served.server._state.live._shown
    with served.client() as one, served.client() as two:
        first = one.get("/api/cameras/top/live?width=300").json()
        size = len(drawn)
        assert two.get("/api/cameras/top/live?width=470").json() == first
    assert len(drawn) == size
    served.station.step("top", served.good)
    assert len(drawn) == size  # nobody asked, nothing drawn


# ------------------------------------------------------------------------------------------------------ a station that hangs


def test_a_station_that_hangs_is_said_and_the_page_files_still_come(served: Served) -> None:
    served.station.stuck.set()
    try:
        with served.client() as viewer:
            start = time.monotonic()
            answer = viewer.get("/api/state")
            assert answer.status_code == 503
            assert "did not answer" in answer.json()["error"]
            assert time.monotonic() - start < 15
            assert viewer.get("/static/app.js").status_code == 200
            assert viewer.get("/healthz").status_code == 503
        assert len([t for t in threading.enumerate() if t.name.startswith("web-view")]) <= 4
    finally:
        served.station.stuck.clear()
        served.station.released.set()
    with served.client() as viewer:
        wait_for(lambda: viewer.get("/healthz").status_code == 200)
    served.station.released.clear()


def test_stopping_ends_threads_and_frees_the_address(served: Served, tmp_path: object) -> None:
    before = {thread.name for thread in threading.enumerate()}
    options = WebOptions("127.0.0.1:0", served.station.archive._index.folder.parent / "token")
    for _ in range(3):
        server = WebServer(options, served.station, served.station.store, None)
        server.start()
        with socket.create_connection(server.address) as held:
            held.sendall(b"GET /api/state HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert held.recv(100).startswith(b"HTTP/1.1 200")
            server.stop()
        server.stop()
        options = WebOptions("{}:{}".format(*server.address), options.token_file)
    assert {t.name for t in threading.enumerate()} <= before


@pytest.fixture(autouse=True)
def no_failure_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if record.name.startswith("dskd.runtime.web")]
