"""Fetching a file in pieces that last: cut off anywhere, it goes on where the disk was last sure of it."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from dskd.jetson.disk import Disk
from dskd.jetson.signing import Refused
from dskd.runtime.configuration.uri import without_password
from dskd.runtime.errors import CallError, DskdError

BLOCK = 1 << 16
SYNC_EVERY = 4 << 20  # bytes that a power cut may cost
PATIENCE = 20.0  # seconds a server may be silent
TRIES = 5
BACK_OFF = 1.0  # seconds, doubled each time
RESERVE = 64 << 20  # bytes that stay free for the station's own records
_TROUBLE = (OSError, http.client.HTTPException)  # URLError and timeouts are OSErrors


class NotFetched(DskdError):
    """The server does not answer or gives something else; trying again later is worth it."""


def check_source(source: str) -> str:
    """An https:// or file:// address; http:// only on this machine. Raises CallError; never shows a password."""
    parts = urlsplit(source)
    if "@" in source.partition("://")[2] and parts.scheme != "file":
        raise CallError(
            "the source's address holds a user or password; protect the server by client certificates or a network instead"
        )
    if parts.scheme == "https" and parts.hostname:
        return source
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        return source
    if parts.scheme == "http" and _is_here(parts.hostname or ""):
        return source
    raise CallError(f"{shown(source)}: name https://HOST/FOLDER/ or file:///FOLDER/")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address(source: str, name: str) -> str:
    """The address of a file beside the others of ``source``."""
    parts = urlsplit(source)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}", query=parts.query, fragment=""))


def shown(url: str) -> str:
    """An address for logs and the fleet: without its query, which may be a key to the server."""
    return without_password(url).partition("?")[0]


class NoRoom(DskdError):
    """The disk is too full; trying again once something was deleted is worth it."""


def forget(folder: Path, sha256: str, disk: Disk) -> None:
    """Removes what was fetched of that file."""
    disk.clear(folder / f"{sha256}.json")
    disk.clear(folder / sha256)


class Fetcher:
    """Fetches from one source. ``pause`` waits between tries; a test or a stopping agent gives its own."""

    def __init__(self, source: str, ca_file: Path | None = None, pause: Callable[[float], None] = time.sleep) -> None:
        self.source, self.pause = check_source(source), pause
        self._tls = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))

    def small(self, name: str, limit: int) -> bytes:
        """A whole small file. Raises NotFetched, or Refused where it is larger than ``limit``."""
        with self._opened(name, 0) as (stream, _):
            try:
                data: bytes = stream.read(limit + 1)
            except _TROUBLE as error:
                raise NotFetched(f"{shown(address(self.source, name))}: broke off ({error})") from error
        if len(data) > limit:
            raise Refused(f"{shown(address(self.source, name))}: is larger than {limit} bytes")
        return data

    def archive(self, name: str, size: int, sha256: str, folder: Path, disk: Disk) -> Path:
        """The file of that size and hash in ``folder``, going on where an earlier call stopped.

        Raises NotFetched where the server fails for good or gives something else, NoRoom, OSError on a full disk.
        """
        disk.make_folders(folder)
        part = folder / sha256
        have = _durable(folder, sha256)
        for leftover in folder.iterdir():
            if leftover.name not in (sha256, f"{sha256}.json"):
                disk.clear(leftover)
        if disk.free(folder) < size - have + RESERVE:
            raise NoRoom(f"the disk has no room for {size / 1e6:.0f} MB; free some and it is tried again")
        failures, trouble = 0, DskdError()
        while failures < TRIES:
            if failures:
                self.pause(BACK_OFF * 2 ** (failures - 1))
            before = have
            try:
                have = self._go_on(name, part, have, size, disk)
            except NotFetched as error:
                have, trouble = _durable(folder, sha256), error
                failures = 1 if have > before else failures + 1
                continue
            if _sha256(part) == sha256:
                return part
            # the server gave something else, or a power cut left garbage: from the start
            forget(folder, sha256, disk)
            have, failures = 0, failures + 1
            trouble = NotFetched(
                f"{shown(address(self.source, name))}: is not the archive that was signed (its sha256 differs)"
            )
        raise trouble

    def _go_on(self, name: str, part: Path, have: int, size: int, disk: Disk) -> int:
        """Fetches from ``have`` on until ``size``; every ``SYNC_EVERY`` bytes last."""
        if have == size:
            return have
        with self._opened(name, have) as (stream, start), disk.writing(part, start) as writer:
            try:
                while writer.size < size:
                    block = self._read(stream, name, min(BLOCK, size - writer.size))
                    writer.write(block)
                    if writer.size == size or writer.size // SYNC_EVERY > (writer.size - len(block)) // SYNC_EVERY:
                        writer.sync()
                        _note(part, writer.size, disk)
            except NotFetched:
                writer.sync()
                _note(part, writer.size, disk)
                raise
            return writer.size

    def _read(self, stream: Any, name: str, most: int) -> bytes:
        try:
            block: bytes = stream.read(most)
        except _TROUBLE as error:
            raise NotFetched(f"{shown(address(self.source, name))}: broke off ({error})") from error
        if not block:
            raise NotFetched(f"{shown(address(self.source, name))}: ended early")
        return block

    @contextmanager
    def _opened(self, name: str, start: int) -> Iterator[tuple[Any, int]]:
        """The stream and where it begins: at ``start`` where the server can do that, else at 0."""
        url = address(self.source, name)
        if urlsplit(url).scheme == "file":
            try:
                handle = open(unquote(urlsplit(url).path), "rb")  # noqa: SIM115
            except OSError as error:
                raise NotFetched(f"{shown(url)}: cannot be read ({error.strerror})") from error
            with handle:
                handle.seek(start)
                yield handle, start
            return
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310
        handlers = urllib.request.HTTPSHandler(context=self._tls), _SameSchemeRedirects()
        try:
            response = urllib.request.build_opener(*handlers).open(request, timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and start:  # what we have is longer than what is there: begin anew
                with self._opened(name, 0) as opened:
                    yield opened
                return
            raise NotFetched(f"{shown(url)}: the server says {error.code}") from error
        except _TROUBLE as error:
            raise NotFetched(f"{shown(url)}: cannot be reached ({getattr(error, 'reason', error)})") from error
        with response:
            ranged = response.status == 206 and (response.headers.get("Content-Range") or "").startswith(
                f"bytes {start}-"
            )
            yield response, start if ranged else 0


class _SameSchemeRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect stays https."""

    def redirect_request(self, request: Any, *rest: Any) -> Any:
        new = super().redirect_request(request, *rest)
        if new is not None and urlsplit(new.full_url).scheme != urlsplit(request.full_url).scheme:
            raise NotFetched(f"{shown(request.full_url)}: redirects to another scheme")
        return new


def _note(part: Path, size: int, disk: Disk) -> None:
    """So much of the file lasts."""
    disk.write_whole(part.with_name(f"{part.name}.json"), json.dumps({"lasting": size}).encode())


def _durable(folder: Path, sha256: str) -> int:
    try:
        lasting = json.loads((folder / f"{sha256}.json").read_bytes())["lasting"]
        return min(int(lasting), (folder / sha256).stat().st_size)
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
