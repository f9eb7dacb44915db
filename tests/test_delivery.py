"""Webhook and CSV delivered from the store: against a real HTTP server that misbehaves, and files that are cut."""

from __future__ import annotations

import base64
import csv
import hashlib
import hmac
import json
import random
import resource
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from broker import wait_for
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from line_records import answer, dropped, inspection
from pydantic import ValidationError

from runtime.backoff import Backoff
from runtime.delivery import Delivery, DeliveryFailed, Target
from runtime.errors import CallError
from runtime.result import Verdict
from runtime.sinks.csv import COLUMNS, CsvConfig, CsvTarget, header_line, line, safe
from runtime.sinks.webhook import WebhookConfig, WebhookTarget, signature, signing_key
from runtime.store import Record, Store, StoreReader

Start = Callable[[Target], Delivery]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "line.db")
    yield made
    made.close()


@pytest.fixture
def start(store: Store) -> Iterator[Start]:
    running = []

    def begin(target: Target) -> Delivery:
        delivery = Delivery("hook", store, target, Backoff(0.02, 0.1))
        delivery.start()
        running.append(delivery)
        return delivery

    yield begin
    for delivery in running:
        assert delivery.stop()


# -------------------------------------------------------------------------------------------------------------- webhook


class Receiver:
    """An HTTP server that does with each POST what ``answers`` says next, then 200: a status, or a misdeed's name."""

    def __init__(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                receiver.connections.append(self.connection)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.posts.append((self.path, dict(self.headers), body))
                deed = receiver.answers.pop(0) if receiver.answers else 200
                if isinstance(deed, int):
                    self.send_response(deed)
                    self.send_header("Location", "/elsewhere")
                    self.send_header("Content-Length", "2")
                    self.end_headers()
                    self.wfile.write(b"ok")
                else:
                    getattr(receiver, deed)(self)
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.connections: list[socket.socket] = []
        self.posts: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int | str] = []
        self.freed = threading.Event()
        self._handler = Handler
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self._serve()

    def _serve(self) -> None:
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def up(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        self._serve()

    def reset(self, handler: socketserver.StreamRequestHandler) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        handler.connection.close()

    def silent(self, handler: socketserver.StreamRequestHandler) -> None:
        self.freed.wait(15)

    def drip(self, handler: socketserver.StreamRequestHandler) -> None:
        """A header that never ends, a byte at a time: each wait alone would never time out."""
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not self.freed.wait(0.05):
                handler.wfile.write(b"x")
        except OSError:
            pass

    def garbage(self, handler: socketserver.StreamRequestHandler) -> None:
        handler.wfile.write(b"\x16\x03\x01 what is this?\r\n\r\n")

    def endless(self, handler: socketserver.StreamRequestHandler) -> None:
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while not self.freed.is_set():
                handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    def ids(self) -> list[int]:
        return [int(json.loads(body)["id"]) for _, _, body in self.posts]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.freed.set()
    made.down()


def hook(receiver: Receiver, **options: object) -> WebhookTarget:
    fields = {"kind": "webhook", "url": f"http://127.0.0.1:{receiver.port}/hook?x=1", "timeout_s": 0.5, **options}
    return WebhookTarget(WebhookConfig.model_validate(fields))


def test_posts_are_in_order_signed_and_name_their_record(
    store: Store, start: Start, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "t0ken")
    monkeypatch.setenv("HOOK_KEY", "whsec_" + base64.b64encode(b"secret").decode())
    delivery = start(hook(receiver, header_token="${HOOK_TOKEN}", sign="${HOOK_KEY}", on=["REJECT"]))
    store.add([inspection(1), dropped(2), inspection(3, Verdict.REJECT, part="p"), inspection(4, Verdict.REJECT)])
    wait_for(lambda: delivery.status().behind == 0)
    assert receiver.ids() == [3, 4]
    path, headers, body = receiver.posts[0]
    assert path == "/hook?x=1"
    assert headers["Authorization"] == "Bearer t0ken"
    assert headers["webhook-id"] == headers["Idempotency-Key"] == f"{store.identity}-3"
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(b"secret", signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert json.loads(body)["part"] == "p"


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of the Standard Webhooks reference libraries."""
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert (
        signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )
    with pytest.raises(CallError, match="base64"):
        signing_key("whsec_%%%")


@pytest.mark.parametrize("deed", [500, 503, 429, 401, 404, 301, 307, "reset", "silent", "drip", "garbage"])
def test_a_receiver_that_fails_gets_it_again(deed: int | str, store: Store, start: Start, receiver: Receiver) -> None:
    receiver.answers = [200, deed, deed]
    delivery = start(hook(receiver))
    store.add([inspection(k) for k in range(1, 5)])
    wait_for(lambda: delivery.status().behind == 0)
    assert receiver.ids() == [1, 2, 2, 2, 3, 4]
    assert {path for path, _, _ in receiver.posts} == {"/hook?x=1"}  # no redirect was followed
    assert (delivery.status().delivered, delivery.status().health) == (4, "ok")
    assert delivery.status().last_error.startswith(f"http://127.0.0.1:{receiver.port}: ")


@pytest.mark.parametrize(("status", "health"), [(500, "warning"), (401, "fault"), (404, "fault"), (302, "fault")])
def test_what_only_a_person_can_mend_is_a_fault(
    status: int, health: str, store: Store, start: Start, receiver: Receiver
) -> None:
    receiver.answers = [status] * 1000
    delivery = start(hook(receiver))
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().last_error != "")
    wait_for(lambda: delivery.status().health == health)
    assert delivery.status().behind == 1
    receiver.answers = []
    wait_for(lambda: delivery.status().behind == 0)


def test_a_record_that_is_refused_for_good_does_not_hold_the_others(
    store: Store, start: Start, receiver: Receiver
) -> None:
    receiver.answers = [422, 409, 200]
    delivery = start(hook(receiver))
    store.add([inspection(k) for k in range(1, 4)])
    wait_for(lambda: delivery.status().behind == 0)
    assert receiver.ids() == [1, 2, 3]
    assert (delivery.status().delivered, delivery.status().refused) == (2, 1)  # 409: it was there already


def test_an_answer_without_end_is_not_read_to_its_end(store: Store, start: Start, receiver: Receiver) -> None:
    receiver.answers = ["endless"]
    delivery = start(hook(receiver))
    store.add([inspection(1), inspection(2)])
    wait_for(lambda: delivery.status().behind == 0)
    assert receiver.ids() == [1, 2]


def test_an_outage_is_caught_up_and_costs_inspection_nothing(store: Store, start: Start, receiver: Receiver) -> None:
    delivery = start(hook(receiver))
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().behind == 0)
    receiver.down()
    for k in range(2, 202, 20):
        begun = time.monotonic()
        store.add([inspection(number) for number in range(k, k + 20)])
        assert time.monotonic() - begun < 1
    wait_for(lambda: delivery.status().health == "warning")
    receiver.up()
    wait_for(lambda: delivery.status().behind == 0)
    assert list(dict.fromkeys(receiver.ids())) == list(range(1, 202))


def test_a_stop_does_not_wait_for_a_silent_receiver(store: Store, start: Start, receiver: Receiver) -> None:
    receiver.answers = ["silent"]
    delivery = start(hook(receiver, timeout_s=60))
    store.add([inspection(1)])
    wait_for(lambda: len(receiver.posts) == 1)
    begun = time.monotonic()
    assert delivery.stop()
    assert time.monotonic() - begun < 3
    assert store.cursors() == {"hook": 0}


def test_a_certificate_that_nobody_signed_is_refused(
    store: Store, start: Start, receiver: Receiver, tmp_path: Path
) -> None:
    """Over TLS: refused with the system's certificates, taken once the file with this one is named."""
    import ssl

    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
            "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]  # fmt: skip
    made = subprocess.run(make, cwd=tmp_path, capture_output=True, check=False)
    if made.returncode:
        pytest.skip("openssl could not make a certificate")
    receiver.down()
    receiver.server = ThreadingHTTPServer(("127.0.0.1", receiver.port), receiver._handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    receiver._serve()
    url = f"https://127.0.0.1:{receiver.port}/hook"
    store.cursor("hook")
    store.add([inspection(1)])
    wary = start(hook(receiver, url=url))
    wait_for(lambda: "CERTIFICATE_VERIFY_FAILED" in wary.status().detail)
    assert receiver.posts == []
    assert wary.stop()
    trusting = start(hook(receiver, url=url, ca_file=str(tmp_path / "cert.pem")))
    wait_for(lambda: trusting.status().behind == 0)
    assert receiver.ids() == [1]


def test_secrets_are_never_told(
    store: Store, start: Start, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("HOOK_TOKEN", "ok")  # which is just what the receiver's answer holds
    receiver.answers = [401, 422, 500]
    delivery = start(hook(receiver, header_token="${HOOK_TOKEN}"))
    store.add([inspection(1), inspection(2)])
    wait_for(lambda: delivery.status().behind == 0)
    assert "422 ***" in caplog.text
    assert "Bearer" not in caplog.text
    assert "x=1" not in caplog.text + delivery.status().last_error
    monkeypatch.delenv("HOOK_TOKEN")
    with pytest.raises(CallError, match="HOOK_TOKEN is not set"):
        hook(receiver, header_token="${HOOK_TOKEN}")
    monkeypatch.setenv("HOOK_TOKEN", "a\r\nX-Evil: 1")
    with pytest.raises(CallError, match="header"):
        hook(receiver, header_token="${HOOK_TOKEN}")


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://x"}, {"url": "x"}, {"url": "http://"}, {"url": "http://u:p@x/"}, {"url": "http://x/a b"},
        {"url": "http://x/\r\nHost: y"}, {"url": "http://x:99999/"}, {"header_token": "plain"}, {"on": []},
        {"timeout_s": 0}, {"timeout_s": float("inf")}, {"retries": 3}, {"records": ["all"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_webhook_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WebhookConfig.model_validate({"kind": "webhook", "url": "http://x/", **options})


# ------------------------------------------------------------------------------------------------------------------ csv


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def csv_target(path: Path, **options: object) -> CsvTarget:
    return CsvTarget(CsvConfig.model_validate({"kind": "csv", "path": str(path), **options}))


def test_csv_has_a_line_per_record(store: Store, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "out" / "line.csv"
    delivery = start(csv_target(path, records=["inspection", "dropped", "answer"]))
    found = inspection(1, Verdict.REJECT, part="p1")
    store.add([found, dropped(2), answer(3, found), answer(4)])
    wait_for(lambda: delivery.status().behind == 0)
    header, *rows = rows_of(path)
    assert tuple(header) == COLUMNS
    assert rows[0] == [
        f"{store.identity}-1", "inspection", "2026-09-21T14:13:21.000+00:00", "top", "f000001", "p1", "REJECT", "0.01",
        "1.0", "1", "",
    ]  # fmt: skip
    assert rows[1][-1] == "blank: all black"
    assert [row[1] for row in rows] == ["inspection", "dropped", "answer", "answer"]


anything = st.none() | st.text(st.characters(), max_size=40)


@given(texts=st.lists(anything, min_size=4, max_size=4), score=st.none() | st.floats(allow_nan=False))
def test_any_record_is_one_line_of_all_columns_without_a_formula(texts: list[str | None], score: float | None) -> None:
    base = inspection(1)
    record = Record(
        id=1, key="abc-1", kind="inspection", source=texts[0] or "", frame=texts[1], captured=base.captured,
        part=texts[2], verdict=Verdict.PASS, score=score, threshold=1.0, regions=(), timings_ms={}, bundle="b",
        backend="cpu", reason=texts[3], triggered=None, answered=None, inspection=None,
    )  # fmt: skip
    text = line(record)
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    (row,) = csv.reader([text])
    assert len(row) == len(COLUMNS)
    assert [row[k] for k in (3, 4, 5, 10)] == [safe(text) for text in texts]
    for cell in (row[3], row[4], row[5], row[10]):
        for piece in cell.replace(",", ";").replace("|", ";").split(";"):
            assert not piece.strip().startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"), ("  =cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"), ("-2", "'-2"), ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'=1"), ("a;=1", "a;'=1"), ("plain - text", "plain - text"), ("a\nb", "a b"), ("", ""), (None, ""),
    ],
)  # fmt: skip
def test_formulas_are_disarmed(text: str | None, cell: str) -> None:
    assert safe(text) == cell


def test_a_cut_line_is_taken_away_and_nothing_comes_twice(store: Store, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "line.csv"
    delivery = start(csv_target(path))
    store.add([inspection(k) for k in range(1, 251)])
    wait_for(lambda: delivery.status().behind == 0)
    assert delivery.stop()
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])  # a power cut in the last line
    store.advance("hook", 40)  # and a cursor that was not synced
    again = start(csv_target(path))
    wait_for(lambda: again.status().behind == 0)
    assert path.read_bytes() == whole
    path.write_bytes(header_line().encode()[:9])  # cut in the header
    third = CsvTarget(CsvConfig(kind="csv", path=path))
    third.open()
    third.close()
    assert path.read_text() == header_line()


def test_a_full_file_is_turned_over_and_the_oldest_go(store: Store, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "line.csv"
    delivery = start(csv_target(path, max_mb=0.005, max_files=2))
    for k in range(0, 500, 50):
        store.add([inspection(number) for number in range(k, k + 50)])
        wait_for(lambda: delivery.status().behind == 0)
    full = sorted(tmp_path.glob("line-*.csv"))
    assert len(full) == 2
    frames = [row[4] for file in (*full, path) for row in rows_of(file)[1:]]
    assert frames == [f"f{k:06}" for k in range(500 - len(frames), 500)]


def test_what_stands_in_a_full_file_is_not_written_again(store: Store, tmp_path: Path) -> None:
    """Whoever delivers comes back with records that may be there already; also when a file was just turned over."""
    target = csv_target(tmp_path / "line.csv", max_mb=0.001)
    store.add([inspection(number) for number in range(30)])
    records = StoreReader(tmp_path / "line.db").after(0, 30)
    target.open()
    for _ in range(2):
        target.deliver(records, lambda *_: None)
    target.close()
    rows = [row for file in tmp_path.glob("line*.csv") for row in rows_of(file)[1:]]
    assert sorted(row[4] for row in rows) == [f"f{k:06}" for k in range(30)]


def test_anothers_file_is_never_touched(store: Store, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "precious.csv"
    path.write_text("name,phone\nann,1\n")
    delivery = start(csv_target(path))
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().health == "fault")
    assert "holds something else" in delivery.status().detail
    assert path.read_text() == "name,phone\nann,1\n"


def test_a_file_that_is_taken_away_is_begun_anew(store: Store, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "line.csv"
    delivery = start(csv_target(path))
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().behind == 0)
    path.rename(tmp_path / "mine.csv")
    wait_for(path.exists)
    store.add([inspection(2)])
    wait_for(lambda: delivery.status().behind == 0)
    assert [row[4] for row in rows_of(path)] == ["frame", "f000002"]


def test_a_full_disk_is_waited_out(store: Store, tmp_path: Path) -> None:
    """A limit on file size stands in for it: the line that did not fit whole is there once, whole."""
    path = tmp_path / "line.csv"
    target = csv_target(path)
    target.open()
    store.add([inspection(k) for k in range(1, 101)])
    records = store.after(0, 100)
    done: list[int] = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
        with pytest.raises(DeliveryFailed, match="cannot be written"):
            target.deliver(records, lambda record, refused="": done.append(record.id))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert done == []
    target.close()
    target.open()
    target.deliver(records, lambda record, refused="": done.append(record.id))
    target.close()
    assert done == list(range(1, 101))
    assert [row[4] for row in rows_of(path)[1:]] == [f"f{k:06}" for k in range(1, 101)]


WRITER = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from line_records import inspection
from runtime.delivery import Delivery
from runtime.sinks.csv import CsvConfig, CsvTarget
from runtime.store import Store
store = Store(Path(sys.argv[1]))
Delivery("csv", store, CsvTarget(CsvConfig(kind="csv", path=sys.argv[2]))).start()
number = store.newest()
while True:
    number += 1
    store.add([inspection(number)])
    print(number, flush=True)
"""


@pytest.mark.slow
def test_kills_at_any_moment_leave_a_whole_csv_without_gap(tmp_path: Path) -> None:
    store_path, path, rng, reported = tmp_path / "a.db", tmp_path / "a.csv", random.Random(6), 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store_path), str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        lines = process.communicate()[0].split("\n")
        reported = max([reported, *(int(text) for text in lines[:-1] if text)])
    store = Store(store_path)
    delivery = Delivery("csv", store, csv_target(path))
    delivery.start()
    wait_for(lambda: delivery.status().behind == 0)
    assert delivery.stop()
    frames = [row[4] for row in rows_of(path)[1:]]
    assert frames == [f"f{k:06}" for k in range(1, store.newest() + 1)]
    assert len(frames) >= reported
    store.close()


# ------------------------------------------------------------------------------------------------------------- delivery


class Odd:
    """A target whose library raises what it likes."""

    kind = "odd"

    def __init__(self) -> None:
        self.closed = self.opened = 0
        self.fail = True
        self.got: list[int] = []

    def open(self) -> None:
        self.opened += 1

    def wants(self, record: Record) -> bool:
        return True

    def deliver(self, records: object, done: Callable[[Record], None]) -> None:
        for record in records:  # type: ignore[attr-defined]
            if self.fail and record.id == 2:
                raise ZeroDivisionError("inside")
            self.got.append(record.id)
            done(record)

    def check(self) -> None: ...

    def interrupt(self) -> None: ...

    def close(self) -> None:
        self.closed += 1


def test_whatever_a_library_raises_the_thread_outlives_it(store: Store, start: Start) -> None:
    target = Odd()
    delivery = start(target)
    store.add([inspection(k) for k in range(1, 4)])
    wait_for(lambda: target.opened > 3)
    assert delivery.status().detail.startswith("ZeroDivisionError: inside")
    assert (delivery.status().behind, delivery.status().health) == (2, "fault")
    target.fail = False
    wait_for(lambda: delivery.status().behind == 0)
    assert target.got == [1, 2, 3]
    assert delivery.stop()
    assert target.opened == target.closed


def test_a_store_that_is_locked_or_moved_stops_no_sink_for_good(store: Store, start: Start, tmp_path: Path) -> None:
    target = Odd()
    target.fail = False
    delivery = start(target)
    store.add([inspection(1)])
    wait_for(lambda: delivery.status().behind == 0)
    for file in tmp_path.glob("line.db*"):
        file.rename(tmp_path / f"moved-{file.name}")
    for attempt in range(3):
        try:
            store.add([inspection(k) for k in range(5)])
            break
        except Exception:
            assert attempt == 0
    wait_for(lambda: target.got == [1, 1, 2, 3, 4, 5])
    assert delivery.status().behind == 0


def test_positions_are_kept_for_the_next_start(store: Store, start: Start, tmp_path: Path) -> None:
    target = Odd()
    target.fail = False
    delivery = start(target)
    store.add([inspection(k) for k in range(1, 1001)])
    wait_for(lambda: delivery.status().behind == 0)
    assert delivery.stop()
    assert store.cursors() == {"hook": 1000}
    reader = StoreReader(store.path)
    assert reader.cursors() == {"hook": 1000}
    reader.close()
