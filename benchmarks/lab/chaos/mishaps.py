"""What may go wrong with a line: each mishap begins, lasts, and is mended; and what health must say of it."""

from __future__ import annotations

import http.client
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dskd.benchmarks.lab.chaos.line import ALWAYS, NEVER, TOPIC, Line
from dskd.benchmarks.lab.chaos.truth import ALL, Kind
from dskd.benchmarks.lab.station.broken_network import flood
from dskd.benchmarks.lab.station.drill import listens, wait_until
from dskd.benchmarks.lab.station.faults import fill
from dskd.benchmarks.lab.station.onlookers import Receiver

TOP, FILES, STORE, CLOCK = "camera top", "camera files", "store store", "clock clock"
ARCHIVE, PLC = "archive archive", "modbus plc"
CAMERAS = frozenset({TOP, FILES, "camera side"})
DOWN = 120.0  # seconds that a station may take to end or to come back


@dataclass(frozen=True)
class Mishap:
    """``groups``, in words: of two mishaps that share one only one goes on at a time."""

    kind: Kind
    groups: str
    begin: Callable[[], None]
    end: Callable[[], None]


def kind(name: str, *shows: str, may: frozenset[str] = frozenset(), **more: float | bool) -> Kind:
    """In fewer words."""
    return Kind(name, frozenset(shows), may, **more)  # type: ignore[arg-type]


class Doing:
    """Does one thing again and again in a thread of its own, between ``start`` and ``stop``."""

    def __init__(self, what: Callable[[], None], pause: float = 0.05) -> None:
        self._what, self._pause = what, pause
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when it has ended."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(60)

    def _run(self) -> None:
        while not self._over.wait(self._pause):
            with suppress(OSError, http.client.HTTPException, ValueError, RuntimeError):
                self._what()


class Mishaps:
    """All of them, on one line. ``small_disks``: data and logs are disks that can be filled."""

    def __init__(self, line: Line, chance: random.Random, small_disks: bool) -> None:
        self._line, self._chance = line, chance
        self._sockets: list[socket.socket] = []
        self._lock: sqlite3.Connection | None = None
        self._limits: dict[int, tuple[int, int]] = {}
        self.aside: list[Path] = []  # stores that were taken away, and copies of what was damaged
        self.all = [*self._of_cameras(), *self._of_networks(), *self._of_store(small_disks), *self._of_processes()]

    # ------------------------------------------------------------------------------------------------------- cameras

    def _of_cameras(self) -> list[Mishap]:
        camera, put = self._line.camera, self._line.put_picture

        def resized(size: tuple[int, int]) -> None:
            camera.kill()
            camera.size = size
            camera.start()

        def broken() -> None:
            put(picture_head(64, 48)[:40])
            put(b"\xff\xd8" + b"no picture", "jpg")
            put(picture_head(60_000, 60_000))
            put(arithmetic_jpeg(30_000, 30_000), "jpg")
            put(b"")

        return [
            Mishap(kind("camera killed", TOP), "top", camera.kill, camera.start),
            Mishap(kind("camera stalled", TOP, detect=8), "top", camera.stalled.set, camera.stalled.clear),
            Mishap(
                kind("camera replaced", TOP, detect=10), "top", lambda: resized((640, 480)), lambda: resized((320, 240))
            ),
            Mishap(
                kind("camera frozen", TOP, detect=8), "top",
                lambda: setattr(camera, "frozen", True), lambda: setattr(camera, "frozen", False),
            ),
            Mishap(kind("broken pictures", may=frozenset({FILES})), "files", broken, nothing),
            Mishap(kind("decoder killed", may=frozenset({FILES})), "files", self._kill_decoder, nothing),
        ]  # fmt: skip

    def _kill_decoder(self) -> None:
        pid = self._line.station.pid
        for child in children(pid) if pid else []:
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)

    # ------------------------------------------------------------------------------------------------------ networks

    def _of_networks(self) -> list[Mishap]:
        line = self._line

        def receiver_back() -> None:
            line.receiver = Receiver(line.receiver.port, line.receiver.keys)

        def host_back() -> None:
            line.host.restart()

        flood_of_messages, guesses, garbage = map(Doing, (self._garbage, self._guess, self._modbus_garbage))
        of_proxy: list[Mishap] = []
        if line.proxy is not None:
            proxy = line.proxy
            of_proxy = [Mishap(kind("proxy killed"), "proxy", lambda: proxy.signal(signal.SIGKILL), nothing)]
        return [
            Mishap(kind("broker down", "mqtt mes", detect=8, recover=60), "broker", line.broker.kill, line.broker.start),
            Mishap(kind("broker flooded"), "broker", flood_of_messages.start, flood_of_messages.stop),
            Mishap(
                kind("receiver down", "webhook hook", detect=10, recover=60), "receiver",
                lambda: line.receiver.stop(), receiver_back,
            ),
            Mishap(kind("page flooded", may=frozenset({PLC})), "page", self._open_idle, self._close_idle),
            Mishap(kind("wrong tokens"), "page", guesses.start, guesses.stop),
            Mishap(kind("Modbus garbage", may=frozenset({PLC})), "modbus", garbage.start, garbage.stop),
            Mishap(kind("file host gone"), "fleet", line.host.close, host_back),
            *of_proxy,
        ]  # fmt: skip

    def _garbage(self) -> None:
        for topic in (f"{TOPIC}/command", f"{TOPIC}/update/chaos"):
            self._line.broker.announce(topic, self._chance.randbytes(self._chance.randrange(1, 200)))

    def _guess(self) -> None:
        link = http.client.HTTPConnection("127.0.0.1", self._line.page, timeout=2, source_address=("127.0.0.2", 0))
        link.request("POST", "/api/cameras/top/trigger", "{}", {"Authorization": "Bearer wrong"})
        link.getresponse().read()
        link.close()

    def _modbus_garbage(self) -> None:
        with socket.create_connection(("127.0.0.1", self._line.modbus), 2) as link:
            link.settimeout(0.2)
            body = self._chance.randbytes(self._chance.randrange(1, 60))
            link.sendall(struct.pack(">HHH", 1, self._chance.choice((0, 0, 7)), len(body)) + body)
            with suppress(OSError):
                link.recv(300)

    def _open_idle(self) -> None:
        """Some say nothing, some ask without end and never read, on page, metrics and Modbus."""
        for port, number in ((self._line.page, 60), (self._line.metrics, 6), (self._line.modbus, 6)):
            for _ in range(number):
                with suppress(OSError):
                    link = socket.create_connection(("127.0.0.1", port), 2)
                    link.setblocking(False)
                    self._sockets.append(link)
        for link in self._sockets[:8]:
            flood(link)

    def _close_idle(self) -> None:
        for link in self._sockets:
            link.close()
        self._sockets.clear()

    # --------------------------------------------------------------------------------------------------------- store

    def _of_store(self, small_disks: bool) -> list[Mishap]:
        line = self._line
        archive = line.data / "archive"

        def archive_taken() -> None:
            shutil.rmtree(archive, ignore_errors=True)
            with suppress(OSError):
                archive.write_text("a file")

        def archive_free() -> None:
            with suppress(OSError):
                archive.unlink(missing_ok=True)

        on_disk = frozenset({"disk disk", ARCHIVE, TOP, FILES, "camera side", CLOCK})
        found = [
            Mishap(kind("store locked", STORE, may=CAMERAS, detect=5, recover=20), "store", self._lock_store, self._unlock),
            Mishap(kind("store taken away", may=frozenset({STORE, ARCHIVE})), "store", self._take_store, nothing),
            Mishap(kind("store damaged", STORE, restarts=True, detect=40, recover=60), "process store", self._damage, self._restart),
            Mishap(kind("archive deleted", may=frozenset({ARCHIVE})), "archive", lambda: shutil.rmtree(archive, ignore_errors=True), nothing),
            Mishap(kind("archive's place taken", may=frozenset({ARCHIVE}), recover=120), "archive", archive_taken, archive_free),
            Mishap(kind("bundle gone", may=frozenset()), "process", lambda: self._bundle(away=True), lambda: self._bundle(away=False)),
        ]  # fmt: skip
        if small_disks:
            filler, logs = line.data / "filler", line.logs / "filler"
            found += [
                Mishap(kind("disk full", STORE, "disk disk", may=on_disk, detect=8, recover=30), "store", lambda: fill(filler), lambda: filler.unlink(missing_ok=True)),
                Mishap(kind("log disk full"), "logs", lambda: fill(logs), lambda: logs.unlink(missing_ok=True)),
            ]  # fmt: skip
        return found

    def _lock_store(self) -> None:
        self._lock = sqlite3.connect(
            self._line.data / "store.db", isolation_level=None, timeout=20, check_same_thread=False
        )
        self._lock.execute("BEGIN IMMEDIATE")

    def _unlock(self) -> None:
        if self._lock is not None:
            with suppress(sqlite3.Error):
                self._lock.rollback()
            self._lock.close()
        self._lock = None

    def _take_store(self) -> None:
        """Somebody moves the file away while the station writes; it is looked through at the end all the same."""
        store = self._line.data / "store.db"
        there = self._line.folder / "aside" / f"taken-{len(self.aside)}.db"
        for end in ("", "-wal", "-shm"):
            with suppress(OSError):
                shutil.move(f"{store}{end}", f"{there}{end}")
        self.aside.append(there)

    def _damage(self) -> None:
        """Killed, and a page of the store overwritten before it starts again; a copy of before says what was lost."""
        station, store = self._line.station, self._line.data / "store.db"
        self._down(signal.SIGKILL)
        try:
            copy = self._line.folder / "aside" / f"before-damage-{len(self.aside)}.db"
            for end in ("", "-wal"):
                with suppress(OSError):
                    shutil.copy(f"{store}{end}", f"{copy}{end}")
            with suppress(sqlite3.Error), sqlite3.connect(store) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            size = store.stat().st_size if store.exists() else 0
            if size > 3 * 4096:
                self.aside.append(copy)
                page = self._chance.randrange(1, size // 4096)
                with store.open("r+b") as file:
                    file.seek(page * 4096)
                    file.write(self._chance.randbytes(4096))
        finally:
            station.held.clear()

    def _restart(self) -> None:
        """The warning stands until the next start; on a busy machine the one under way may take its time."""
        wait_until(lambda: listens(self._line.metrics), "the station's start", DOWN)
        self._line.station.signal(signal.SIGTERM)

    def _bundle(self, away: bool) -> None:
        """The folder of a bundle that serves goes, and comes back."""
        plain, aside = self._line.plain, self._line.folder / "plain.aside"
        with suppress(OSError):
            os.rename(plain, aside) if away else os.rename(aside, plain)

    # ----------------------------------------------------------------------------------------------------- processes

    def _of_processes(self) -> list[Mishap]:
        line, hooks = self._line, self._line.hooks
        station, agent = line.station, line.agent
        slow = frozenset(ALL)

        def clock(seconds: float) -> None:
            temporary = hooks / "clock.new"
            temporary.write_text(str(seconds))
            os.replace(temporary, hooks / "clock")

        def jumped() -> None:
            clock(self._chance.choice((3600.0, -3600.0, 400 * 86400.0, -20 * 365 * 86400.0, 10 * 365 * 86400.0)))

        backend = hooks / "backend"

        def fails() -> None:
            backend.write_text(self._chance.choice(("", "open")))

        # without descriptors the station's clock cannot be made to jump, so not both at once
        found = [
            Mishap(kind("SIGKILL", restarts=True, may=CAMERAS), "process", lambda: station.signal(signal.SIGKILL), nothing),
            Mishap(kind("SIGTERM", restarts=True, may=CAMERAS), "process", lambda: station.signal(signal.SIGTERM), nothing),
            Mishap(
                kind("stopped for a while", restarts=True, pauses=True, may=slow, recover=60), "process",
                lambda: station.signal(signal.SIGSTOP), lambda: station.signal(signal.SIGCONT),
            ),
            Mishap(kind("clock jumped", CLOCK, may=frozenset({"mqtt mes"}), detect=10, recover=15), "clock", jumped, lambda: clock(0.0)),
            Mishap(kind("backend raises", *CAMERAS, detect=8, recover=60), "backend", fails, lambda: backend.unlink(missing_ok=True)),
            Mishap(kind("descriptors exhausted", may=slow, recover=60), "limits clock", self._few_descriptors, self._lift_limits),
            Mishap(kind("agent killed"), "fleet", lambda: agent.signal(signal.SIGKILL), nothing),
            Mishap(
                kind("good update", restarts=True, may=CAMERAS, recover=60), "update",
                lambda: void(line.publish(NEVER)), nothing,
            ),
            Mishap(
                kind("bad update", restarts=True, may=CAMERAS | {"drift top"}, recover=120), "update",
                lambda: void(line.publish(ALWAYS)), nothing,
            ),
        ]  # fmt: skip
        return found

    def _down(self, number: signal.Signals) -> None:
        """Returns when the station is gone; it stays so until ``held`` is cleared."""
        station = self._line.station
        station.held.set()
        station.signal(number)
        wait_until(lambda: station.pid is None and not listens(self._line.metrics), "the station's end", DOWN)

    def _few_descriptors(self) -> None:
        pid = self._line.station.pid
        if pid is None:
            return
        with suppress(OSError):
            held = len(os.listdir(f"/proc/{pid}/fd"))
            self._limits[pid] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (held + 1, self._limits[pid][1]))

    def _lift_limits(self) -> None:
        for pid, limits in self._limits.items():
            with suppress(OSError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        self._limits.clear()


def nothing() -> None:
    """For what mends itself."""


def void(_: object) -> None:
    """For calls whose answer nobody needs."""


def children(pid: int) -> list[int]:
    """Process ids of the children."""
    with suppress(OSError, ValueError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def picture_head(width: int, height: int) -> bytes:
    """A PNG that is all head."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head) - 4) + head + struct.pack(">I", zlib.crc32(head))


def arithmetic_jpeg(width: int, height: int) -> bytes:
    """A JPEG of arithmetic coding that claims a size."""
    channels = b"".join(bytes((k + 1, 0x11, 0)) for k in range(3))
    return b"\xff\xd8\xff\xc9" + struct.pack(">HBHHB", 17, 8, height, width, 3) + channels + b"\xff\xd9"
