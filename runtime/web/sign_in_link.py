"""``dskd station sign-in-link FILE``: a link that signs in on the page of a station that runs, once, on any machine."""

from __future__ import annotations

import http.client
import ipaddress
import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

from dskd.runtime.atomic import writer_of
from dskd.runtime.configuration.fields import split_address
from dskd.runtime.errors import CallError, DskdError, Parser
from dskd.runtime.listening import listener_of, written
from dskd.runtime.station.config import StationConfig
from dskd.runtime.station.load import read_station
from dskd.runtime.web.page import TOKEN
from dskd.runtime.web.qr_code import qr_code
from dskd.runtime.web.token import read_token

PATIENCE = 20.0  # seconds
EXAMPLE = """example:
  sudo -u dskd dskd station sign-in-link /etc/dskd/station.yaml    as the user that the service runs as"""
NEAR = "it works on this machine alone; for a phone, listen at another address or set web.public_url: docs/station.md"


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = Parser(prog="dskd station sign-in-link", description=__doc__, epilog=EXAMPLE)
    options.add_argument("station", type=Path, help="station file (YAML)")
    file = options.parse_args(arguments).station
    config, faults = read_station(file)
    if config is None:
        raise CallError(str(faults[0]))
    link = ask(config)
    print(link, flush=True)
    if _is_near(link):
        print(NEAR, file=sys.stderr)
    elif sys.stdout.isatty():
        code = qr_code(link)
        if code and _writable(code):
            print(code)
    print("it signs in once, within ten minutes; the next one ends it", file=sys.stderr)
    return 0


def ask(config: StationConfig) -> str:
    """A new link from the station that runs by this file. Raises DskdError where none answers, CallError without a page."""
    if config.web is None:
        raise CallError(f"station {config.name} has no page; give its file a web: section")
    host, port = split_address(config.web.listen)
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    if not port:
        raise CallError("web.listen: port 0 is any free one; name one in the station file")
    where = f"station {config.name} at {written(host, port)}"
    writer = writer_of(config.data)
    if sys.platform == "linux" and (writer is None or listener_of(host, port) not in (None, writer)):
        raise DskdError(f"{where}: does not run; start it")  # and the token is told to nobody else who listens there
    file = config.web.token_file or config.data / TOKEN
    word = read_token(file)
    link = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        headers = {"authorization": f"Bearer {word}", "content-type": "application/json", "x-operator": "command line"}
        link.request("POST", "/api/sign-in-link", "{}", headers)
        answer = link.getresponse()
        fields = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DskdError(f"{where}: does not answer ({type(error).__name__}: {error}); look at its log") from error
    finally:
        link.close()
    if answer.status == http.client.NOT_FOUND:
        raise DskdError(f"{where}: runs an older dskd that makes no links; start it again")
    if answer.status == http.client.UNAUTHORIZED:
        raise DskdError(
            f"{where}: the token in {file} is another station's; name the one it runs with in web.token_file"
        )
    if answer.status != http.client.OK:
        raise DskdError(f"{where}: {fields.get('error', answer.status)}")
    return str(fields["link"])


def _is_near(link: str) -> bool:
    host = urlsplit(link).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _writable(code: str) -> bool:
    try:
        code.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
