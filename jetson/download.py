"""Fetching a file in pieces that last: cut off anywhere, it goes on where the disk was last sure of it."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from dskd.jetson.disk import Disk
from dskd.jetson.signing import Refused
from dskd.jetson.transfer import Transfer
from dskd.runtime.configuration.uri import without_password
from dskd.runtime.errors import CallError, DskdError

BLOCK = 1 << 16
SYNC_EVERY = 4 << 20  # bytes that a power cut may cost
MOST_REDIRECTS = 5
LONGEST, LOWEST_RATE = 600.0, 32 << 10  # seconds and bytes a second: how long one call may fetch an archive
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
        self._present: Transfer | None = None
        self._stopped, self._until = False, 0.0

    def small(self, name: str, limit: int) -> bytes:
        """A whole small file. Raises NotFetched, or Refused where it is larger than ``limit``."""
        with self._opened(name, 0) as (stream, _):
            try:
                data: bytes = stream.read(limit + 1)
            except _TROUBLE as error:
                raise self._broke_off(name, error) from error
            if (transfer := self._present) is not None and transfer.why:  # what was cut looks whole to http.client
                raise self._broke_off(name, OSError())
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
        self._until = time.monotonic() + LONGEST + size / LOWEST_RATE
        while failures < TRIES and not self._stopped and not (trouble.args and time.monotonic() > self._until):
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

    def _broke_off(self, name: str, error: Exception) -> NotFetched:
        why = "" if self._present is None else self._present.why
        return NotFetched(f"{shown(address(self.source, name))}: broke off ({why or error})")

    def _read(self, stream: Any, name: str, most: int) -> bytes:
        try:
            block: bytes = stream.read(most)
        except _TROUBLE as error:
            raise self._broke_off(name, error) from error
        if (transfer := self._present) is not None:
            transfer.came(len(block))
            if time.monotonic() > self._until:
                transfer.cut("it takes too long in all; it goes on at the next look")
            if transfer.why:
                raise self._broke_off(name, OSError())
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
        with self._transfer() as transfer:
            try:
                response = self._answer(transfer, url, start)
                if response.status == 416 and start:  # what we have is longer than what is there: begin anew
                    transfer.end()
                    start, response = 0, self._answer(transfer, url, 0)
            except _TROUBLE as error:
                raise NotFetched(f"{shown(url)}: cannot be reached ({transfer.why or error})") from error
            if response.status not in (200, 206):
                raise NotFetched(f"{shown(url)}: the server says {response.status}")
            range_ = response.headers.get("Content-Range") or ""
            ranged = response.status == 206 and range_.startswith(f"bytes {start}-")
            yield response, start if ranged else 0

    @contextmanager
    def _transfer(self) -> Iterator[Transfer]:
        """A transfer that ``cut`` ends."""
        if self._stopped:
            raise NotFetched(f"{shown(self.source)}: not asked, for this program stops")
        with Transfer(self._tls) as transfer:
            self._present = transfer
            try:
                yield transfer
            finally:
                self._present = None

    def cut(self) -> None:
        """Ends what is fetched now and fetches no more. May be called from a signal handler."""
        self._stopped = True
        if (transfer := self._present) is not None:
            transfer.cut("this program stops")

    def _answer(self, transfer: Transfer, url: str, start: int) -> http.client.HTTPResponse:
        """The answer to a request, after redirects of the same scheme."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        for _ in range(MOST_REDIRECTS):
            response = transfer.ask(url, headers)
            if response.status not in (301, 302, 303, 307, 308):
                return response
            new = urljoin(url, response.headers.get("Location") or "")
            transfer.end()
            if urlsplit(new).scheme != urlsplit(url).scheme:
                raise NotFetched(f"{shown(url)}: redirects to another scheme")
            url = new
        raise NotFetched(f"{shown(url)}: redirects without end")


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
