"""Answers: JSON, and bytes in pieces so that a client who does not read holds little of them."""

from __future__ import annotations

import json

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PIECE = 64 << 10  # bytes; the next piece waits until the client took most of the one before


class Blob(Response):
    """Bytes that many connections may share: each holds one piece at a time."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends head and pieces; uvicorn waits where the client does."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = memoryview(self.body)
        for start in range(0, max(len(body), 1), PIECE):
            last = start + PIECE >= len(body)
            await send(
                {"type": "http.response.body", "body": bytes(body[start : start + PIECE]), "more_body": not last}
            )


def as_json(fields: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON without infinities, which browsers refuse."""
    body = json.dumps(fields, allow_nan=False, separators=(",", ":")).encode(errors="backslashreplace")
    return Blob(body, status, headers, "application/json")


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error as JSON: one sentence."""
    return as_json({"error": message}, status, headers)
