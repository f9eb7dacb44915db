"""Whose request it is: the client's own address, how it came, and whether it came through a proxy.

A proxy's word is taken only where the station's file names its address. Anybody may send its headers, so from all others
they say one thing alone: that this is no browser on this machine, and looking is not free.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

KEY = "dskd.visitor"  # in a request's scope
Network = IPv4Network | IPv6Network
_SIGNS = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
_LONGEST_CHAIN = 32  # addresses of a chain of proxies that are looked at


@dataclass(frozen=True)
class Visitor:
    """``address``: the client's own. ``secure``: it came by TLS. ``near``: a program on this machine, through no proxy."""

    address: str
    secure: bool
    near: bool


@dataclass(frozen=True)
class Entrance:
    """How the page is reached.

    ``names``: host names that requests may be addressed to, None for any. ``origin``: scheme, host and port that browsers
    see where a proxy stands before the page, empty where none does. ``proxies``: whose headers are believed.
    """

    names: tuple[str, ...] | None
    origin: str = ""
    proxies: tuple[Network, ...] = ()

    def visitor(self, scope: Scope) -> Visitor:
        """Who sends the request."""
        headers = Headers(scope=scope)
        peer = str((scope.get("client") or ("",))[0])
        if not self.trusts(peer):
            local = _is_loopback(peer) and scope.get("http_version") != "1.0"  # as plain proxies ask, and no browser
            near = local and not self.origin and not any(sign in headers for sign in _SIGNS)
            return Visitor(peer, False, near)
        chain = ",".join(headers.getlist("x-forwarded-for")).split(",")[-_LONGEST_CHAIN:]
        address = peer
        for word in reversed(chain):  # each proxy appends whom it heard: from the right, up to the first stranger
            found = _plain_address(word)
            if not found:
                break
            address = found
            if not self.trusts(found):
                break
        said = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
        return Visitor(address, said == "https" if said else self.origin.startswith("https:"), False)

    def trusts(self, address: str) -> bool:
        """Whether it is a proxy's that the station's file names."""
        try:
            found = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        plain = getattr(found, "ipv4_mapped", None) or found
        return any(plain in network for network in self.proxies if network.version == plain.version)

    def answers_to(self, host: str) -> bool:
        """Whether a request to the host of this header is for this page."""
        name = _name_of(host)
        return (
            self.names is None or name in self.names or (bool(self.origin) and name == urlsplit(self.origin).hostname)
        )

    def is_own(self, origin: str, host: str) -> bool:
        """Whether a browser that says ``origin`` shows this page, which was asked for at ``host``."""
        return origin in (f"http://{host}", f"https://{host}") or (bool(self.origin) and origin == self.origin)


def origin_of(public_url: str) -> str:
    """Scheme, host and port of an address as browsers write them in the header Origin."""
    parts = urlsplit(public_url)
    host = parts.hostname or ""
    usual = {"http": 80, "https": 443}[parts.scheme]
    port = "" if parts.port in (None, usual) else f":{parts.port}"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def network_of(text: str) -> Network:
    """An address or a network such as 10.0.0.0/24. Raises ValueError."""
    return ip_network(text, strict=False)


def visitor_of(scope: Scope) -> Visitor:
    """What the entrance found out of a request."""
    found = scope[KEY]
    assert isinstance(found, Visitor)
    return found


def _plain_address(word: str) -> str:
    """The address in one part of X-Forwarded-For, with or without a port; empty where it is none."""
    word = word.strip()
    if word.startswith("["):
        word = word[1:].partition("]")[0]
    elif word.count(":") == 1:
        word = word.partition(":")[0]
    try:
        return str(ip_address(word))
    except ValueError:
        return ""


def _is_loopback(address: str) -> bool:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # a bracket that is not closed
        return ""
