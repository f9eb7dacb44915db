"""The page of a running station, as its file asks for it."""

from __future__ import annotations

from dskd.runtime.station.station import Station
from dskd.runtime.web.archive import Archive
from dskd.runtime.web.server import WebOptions, WebServer

TOKEN = "token"  # noqa: S105 a file name


def make_page(station: Station) -> WebServer | None:
    """A server that listens and does not answer yet, None where the file names no page.

    Made before the station starts: what is wrong with address, token file or libraries is known before a part comes.
    Raises DskdError.
    """
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
    return WebServer(options, station, station.store)


def start_page(server: WebServer, station: Station) -> None:
    """Begins to answer for a station that has started."""
    if station.sinks is not None and station.sinks.archive is not None:
        server.use_archive(Archive(station.sinks.archive))
    server.start()
