"""The page of a running station, as its file asks for it."""

from __future__ import annotations

from dskd.runtime.station.station import Station
from dskd.runtime.web.archive import Archive
from dskd.runtime.web.server import WebOptions, WebServer

TOKEN = "token"  # noqa: S105 a file name


def open_page(station: Station) -> WebServer | None:
    """A server that answers, None where the file names no page. Raises DskdError where it cannot listen."""
    config = station.config
    if config.web is None:
        return None
    options = WebOptions(
        config.web.listen,
        config.web.token_file or config.data / TOKEN,
        tuple(config.web.shifts),
        config.web.public_url,
        tuple(config.web.trusted_proxies),
    )
    sink = None if station.sinks is None else station.sinks.archive
    archive = None if sink is None else Archive(sink)
    server = WebServer(options, station, station.store, archive)
    server.start()
    return server
