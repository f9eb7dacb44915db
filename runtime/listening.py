"""Listening sockets: opened before anything runs that would be lost with them; where one is taken, who has it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from dskd.runtime.errors import DskdError

LISTENS = "0A"  # a socket's state in /proc/net/tcp
TABLES = {"tcp": 4, "tcp6": 16}  # bytes of an address


def listen_at(host: str, port: int, what: str, setting: str, backlog: int = 64) -> socket.socket:
    """A socket that listens; clients wait until somebody accepts them. Raises DskdError where the address cannot be had.

    ``what`` listens there, ``setting`` names the address in the station file: both for the error.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise DskdError(
            f"{what}: cannot listen on {written(host, port)} ({why_not(error, host, port)}); "
            f"change {setting} in the station file"
        ) from error
    return listener


def written(host: str, port: int) -> str:
    """The address as it stands in files and links."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def why_not(error: OSError, host: str, port: int) -> str:
    """Why an address cannot be listened at, with the program that does where it can be known."""
    if error.errno != errno.EADDRINUSE:
        return error.strerror or str(error)
    pid = listener_of(host, port)
    return "taken by a program that this user may not see" if pid is None else f"taken by {_name(pid)}, process {pid}"


def listener_of(host: str, port: int) -> int | None:
    """The process that listens there, None where that cannot be seen: another user's, or no Linux."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(host, port)}
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            for handle in os.scandir(process / "fd"):
                if os.readlink(handle.path) in inodes:
                    return int(process.name)
    return None


def _inodes(host: str, port: int) -> Iterator[str]:
    """Of the sockets that listen at the address, or at all addresses."""
    wanted = ip_address(host)
    for table, size in TABLES.items():
        with suppress(OSError), open(f"/proc/net/{table}") as rows:
            next(rows)
            for fields in map(str.split, rows):
                address, _, number = fields[1].partition(":")
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, 2 * size, 8)]
                there = ip_address(b"".join(words))
                if (
                    fields[3] == LISTENS
                    and int(number, 16) == port
                    and (there == wanted or there.is_unspecified or wanted.is_unspecified)
                ):
                    yield fields[9]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip() or "a program"
    except OSError:
        return "a program"
