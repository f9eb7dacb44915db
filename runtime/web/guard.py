"""What every request passes through before a route sees it, and every answer on its way out."""

from __future__ import annotations

import asyncio
import json
import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dskd.runtime.web.visitor import KEY, Entrance

log = logging.getLogger(__name__)
LARGEST_BODY = 16 << 10  # bytes; the largest body that makes sense has 200
BODY_SECONDS = 5.0
SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """Refuses foreign hosts, foreign origins and large or slow bodies; adds the security headers; hides failures.

    Without names that it answers to, a foreign page whose name was made to point to this machine (DNS rebinding) could
    read what is free to look at.
    """

    def __init__(self, app: ASGIApp, entrance: Entrance) -> None:
        self._app, self._entrance = app, entrance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            return
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(raw=message["headers"])
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            self._check(scope)
            scope[KEY] = self._entrance.visitor(scope)
            await self._app(scope, await _whole_body(scope, receive), answer)
        except _Refused as refused:
            await _send_error(answer, refused.status, str(refused))
        except Exception:
            log.exception("web page: %s failed", scope["method"])
            if begun:
                raise
            await _send_error(answer, 500, "the page failed; the station's log says how")

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._entrance.answers_to(host):
            known = "to localhost and to the address it listens on"
            raise _Refused(421, f"this page answers {known}; behind a proxy, name its address in web.public_url")
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and not self._entrance.is_own(origin, host):
            raise _Refused(403, "the request comes from another site's page; behind a proxy, name it in web.public_url")


async def _whole_body(scope: Scope, receive: Receive) -> Receive:
    """Reads the body, at most ``LARGEST_BODY`` bytes in ``BODY_SECONDS``, and gives it on in one piece."""
    declared = Headers(scope=scope).get("content-length", "0")
    if declared.isdecimal() and int(declared) > LARGEST_BODY:
        raise _Refused(413, f"the body has {declared} bytes; {LARGEST_BODY} is the most")
    try:
        body = await asyncio.wait_for(_read(receive), BODY_SECONDS)
    except (TimeoutError, asyncio.TimeoutError) as error:  # two classes before Python 3.11
        raise _Refused(408, f"the body did not come within {BODY_SECONDS:.0f} seconds") from error
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _Refused(400, "the connection ended inside the request")
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            raise _Refused(413, f"the body is longer than {LARGEST_BODY} bytes")
        if not message.get("more_body", False):
            return bytes(body)


async def _send_error(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
