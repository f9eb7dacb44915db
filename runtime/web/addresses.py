"""Where browsers on other machines find the page."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress

from dskd.runtime.listening import written

# Addresses that documents use: a datagram socket is told of them and sends nothing, and the system says which of this
# machine's addresses it would send from.
FAR = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def shown_at(host: str, port: int, public_url: str | None) -> str:
    """The page's address for people: ``public_url`` where there is one, else where it listens.

    Of a page that listens at all addresses it is the one that this machine shows to the network, else its name.
    """
    if public_url is not None:
        return f"{public_url.rstrip('/')}/"
    return f"http://{written(_to_others() if ipaddress.ip_address(host).is_unspecified else host, port)}/"


def _to_others() -> str:
    for family, far in FAR:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
            return str(probe.getsockname()[0])
    return socket.gethostname()
