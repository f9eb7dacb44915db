"""Webhook: one HTTP POST per record, in order, signed after the Standard Webhooks specification.

Each record carries its key as ``webhook-id`` and ``Idempotency-Key``: a receiver tells repeated deliveries by it.
Redirects are not followed and proxies of the environment are not used: nothing is contacted that is not named.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from dskd.runtime.configuration.fields import LocalPath, Seconds, Secret, Text, reveal
from dskd.runtime.errors import CallError
from dskd.runtime.result import Verdict
from dskd.runtime.sinks.base import Fields, SinkConfig, SinkKind, options
from dskd.runtime.sinks.delivery import DeliveryFailed, Done, payload
from dskd.runtime.store import Kind, Record

LARGEST_ANSWER = 65_536  # bytes read of what the receiver says
_ALREADY_THERE = {409}
_REFUSED_FOR_GOOD = {400, 410, 413, 415, 422}  # about this record; other codes are about the address or the moment
_MOMENTARY = {408, 425, 429}


class WebhookConfig(SinkConfig):
    """One POST per record, at least once, from the store. Receivers tell repetitions by the header webhook-id."""

    kind: Literal["webhook"]
    url: Text = Field(description="http:// or https:// address; certificates are checked")
    on: list[Verdict] = Field(list(Verdict), min_length=1, description="verdicts told")
    records: list[Kind] = Field(["inspection"], min_length=1, description="inspection, dropped, answer")
    header_token: Secret | None = Field(None, description="as ${NAME}; sent as Authorization: Bearer")
    sign: Secret | None = Field(None, description="as ${NAME}; key of the header webhook-signature (HMAC-SHA256)")
    timeout_s: Seconds = Field(10, description="for one POST with its answer")
    ca_file: LocalPath | None = Field(None, description="certificates to trust (default: the system's)")

    @field_validator("url")
    @classmethod
    def _is_a_web_address(cls, text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("is no http:// or https:// address")
        if parts.username is not None or parts.password is not None:
            raise ValueError("user and password do not belong in the address; use header_token: ${NAME}")
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("holds characters that no address has; write them as %XX")
        return text


class WebhookTarget:
    """A receiver of POSTs. Raises CallError at once where a secret is not set or no key."""

    kind = "webhook"

    def __init__(self, config: WebhookConfig) -> None:
        self._config = config
        parts = urlsplit(config.url)
        self._where = f"{parts.scheme}://{parts.netloc}"  # a path may hold a token: it is not logged
        self._host, self._port, self._tls = parts.hostname or "", parts.port, parts.scheme == "https"
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._key = None if config.sign is None else signing_key(reveal(config.sign))
        self._token = ""
        self._headers = {"Content-Type": "application/json", "User-Agent": "dskd"}
        if config.header_token is not None:
            self._token = _header(reveal(config.header_token))
            self._headers["Authorization"] = f"Bearer {self._token}"
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()
        self._stopping = self._late = False

    def open(self) -> None:
        """Nothing yet: the first POST connects."""

    def wants(self, record: Record) -> bool:
        """By kind and verdict."""
        return record.kind in self._config.records and (record.verdict is None or record.verdict in self._config.on)

    def deliver(self, records: Sequence[Record], done: Done) -> None:
        """One POST after the other over one connection."""
        for record in records:
            if self._stopping:
                return
            status, text = self._post(record)
            if 200 <= status < 300 or status in _ALREADY_THERE:
                done(record)
            elif status in _REFUSED_FOR_GOOD:
                done(record, refused=f"{self._where} answered {status} {text}")
            else:
                raise self._failure(status, text)

    def check(self) -> None:
        """A connection that the receiver closed meanwhile is none to worry about."""

    def interrupt(self) -> None:
        """Cuts the POST under way."""
        with self._lock:
            self._stopping = True
            self._cut()

    def close(self) -> None:
        """Closes the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _post(self, record: Record) -> tuple[int, str]:
        """The receiver's status and the beginning of what it said."""
        body = payload(record)
        fresh = self._connection is None
        try:
            return self._exchange(record, body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if self._late or isinstance(error, TimeoutError):
                raise DeliveryFailed(f"{self._where}: no answer within {self._config.timeout_s:g} s") from error
            if not fresh and not self._stopping:
                return self._post(record)  # the receiver had closed the idle connection: once more over a new one
            raise DeliveryFailed(f"{self._where}: {_reason(error)}") from error

    def _exchange(self, record: Record, body: bytes) -> tuple[int, str]:
        connection = self._connected()
        self._late = False
        watch = threading.Timer(self._config.timeout_s, self._give_up)  # of the whole; a socket's timeout is per wait
        watch.name, watch.daemon = "webhook deadline", True
        watch.start()
        try:
            connection.request("POST", self._path, body, self._signed(record, body))
            answer = connection.getresponse()
            text = answer.read(LARGEST_ANSWER + 1)
            if self._late:  # an answer that was cut looks whole to http.client
                raise TimeoutError
            if len(text) > LARGEST_ANSWER or answer.will_close:
                self.close()
            said = text[:200].decode(errors="replace")
            return answer.status, said.replace(self._token, "***") if self._token else said
        finally:
            watch.cancel()

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is not None:
            return self._connection
        timeout = self._config.timeout_s
        connection: http.client.HTTPConnection
        if self._tls:
            trust = ssl.create_default_context(cafile=self._config.ca_file)
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=trust)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        connection.connect()
        with self._lock:
            self._connection = connection
            if self._stopping:
                self._cut()
        return connection

    def _give_up(self) -> None:
        self._late = True
        self._cut()

    def _cut(self) -> None:
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _signed(self, record: Record, body: bytes) -> dict[str, str]:
        moment = str(int(time.time()))
        headers = {**self._headers, "Idempotency-Key": record.key, "webhook-id": record.key}
        headers["webhook-timestamp"] = moment
        if self._key is not None:
            headers["webhook-signature"] = signature(self._key, record.key, moment, body)
        return headers

    def _failure(self, status: int, text: str) -> DeliveryFailed:
        if 300 <= status < 400:
            return DeliveryFailed(f"{self._where}: answered {status}, and redirects are not followed; name the "
                                  "new address", hopeless=True)  # fmt: skip
        hopeless = 400 <= status < 500 and status not in _MOMENTARY
        mend = "; check address and token" if hopeless else ""
        return DeliveryFailed(f"{self._where}: answered {status} {text}{mend}", hopeless)


def signing_key(secret: str) -> bytes:
    """The key's bytes: base64 after ``whsec_`` as the specification has it, or the text itself."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise CallError("sink webhook: what follows whsec_ in the signing key is no base64; copy it again") from error


def signature(key: bytes, message: str, timestamp: str, body: bytes) -> str:
    """``v1,`` and the HMAC-SHA256 of id, time and body, as the Standard Webhooks specification has it."""
    digest = hmac.new(key, f"{message}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _header(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise CallError("sink webhook: header_token holds characters that no header may have; set another")
    return value


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _fields(uri: str) -> Fields:
    """Settings stand behind #, which no receiver is sent; the query is the receiver's own."""
    url, _, settings = uri.partition("#")
    return {"url": url, **options(settings)}


KIND = SinkKind(
    WebhookConfig, "https://HOST/PATH#header_token=${NAME}", _fields, target=lambda config, _: WebhookTarget(config)
)
