"""Webhook delivered from the store to a real HTTP server that misbehaves."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from broker import wait_for
from line_records import dropped, inspection
from pydantic import ValidationError

from dskd.runtime.errors import CallError
from dskd.runtime.result import Verdict
from dskd.runtime.sinks.delivery import Delivery, Target
from dskd.runtime.sinks.webhook import WebhookConfig, WebhookTarget, signature, signing_key
from dskd.runtime.store import Store

Start = Callable[[Target], Delivery]


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
        assert time.monotonic() - begun < 10  # it waits for nobody
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
