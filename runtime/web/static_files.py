"""The page's own files, served by starlette; only names that stand in the folder are looked for there."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from dskd.runtime.web.endpoint import Call, Endpoint, Refused

FOLDER = Path(__file__).with_name("static")
NAMES = frozenset(path.name for path in FOLDER.iterdir())
mimetypes.add_type("text/javascript", ".js")  # systems differ in what they know
mimetypes.add_type("application/manifest+json", ".webmanifest")
_folder = StaticFiles(directory=FOLDER)


def endpoints() -> list[Endpoint]:
    """The routes."""
    return [
        Endpoint("GET", "/", "the page", _page, open=True),
        Endpoint("GET", "/static/{name}", "scripts, styles and icon of the page", _file, open=True),
    ]


async def _page(call: Call) -> Response:
    return await _answer(call, "index.html")


async def _file(call: Call) -> Response:
    return await _answer(call, call.path("name"))


async def _answer(call: Call, name: str) -> Response:
    if name not in NAMES:
        raise Refused(404, "there is no such file")
    found = await _folder.get_response(name, call.request.scope)
    found.headers["cache-control"] = "no-cache"  # browsers ask again each time and mostly hear "not modified"
    return found
