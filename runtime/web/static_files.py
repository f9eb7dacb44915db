"""The page's own files: a short list, read once, so no path from a request reaches the file system."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.responses import Response

from dskd.runtime.web.answers import Blob
from dskd.runtime.web.endpoint import Call, Endpoint, Refused

FOLDER = Path(__file__).with_name("static")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
PAGE = "index.html"


class StaticFiles:
    """Every file of the folder by its name; browsers ask again each time and mostly hear 'not modified'."""

    def __init__(self) -> None:
        self._files = {p.name: p.read_bytes() for p in sorted(FOLDER.iterdir()) if p.suffix in KINDS}
        self._tags = {name: f'"{hashlib.sha256(data).hexdigest()[:20]}"' for name, data in self._files.items()}

    def endpoints(self) -> list[Endpoint]:
        """The routes."""
        return [
            Endpoint("GET", "/", "the page", self.page, open=True),
            Endpoint("GET", "/static/{name}", "scripts, styles and icon of the page", self.file, open=True),
        ]

    async def page(self, call: Call) -> Response:
        """The page itself; it shows nothing of the station before the interface gave it."""
        return self._answer(call, PAGE)

    async def file(self, call: Call) -> Response:
        """One file."""
        return self._answer(call, call.path("name"))

    def _answer(self, call: Call, name: str) -> Response:
        data = self._files.get(name)
        if data is None:
            raise Refused(404, "there is no such file")
        headers = {"etag": self._tags[name], "cache-control": "no-cache"}
        if call.request.headers.get("if-none-match") == self._tags[name]:
            return Response(status_code=304, headers=headers)
        return Blob(data, headers=headers, media_type=KINDS[Path(name).suffix])
