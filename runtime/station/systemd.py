"""Talks to systemd: ready, alive, stopping, and one line on how it goes (sd_notify(3), without its library)."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Sends ``READY=1``, ``WATCHDOG=1``, ``STATUS=…`` or ``STOPPING=1``; whether there is a systemd that took it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(1.0)
        try:
            sender.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            return False
    return True


def watchdog_seconds() -> float | None:
    """How often at least systemd wants to hear that this process is alive, None where it does not ask."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        seconds = int(os.environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return None
    return seconds if seconds > 0 else None
