"""``dskd station``: run a station from its file until it is told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

# Before numpy: nothing here multiplies matrices, and threads for it would cost each start half of numpy's import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from dskd.runtime.errors import DeviceLost, Parser, exit_with_code, one_line
from dskd.runtime.station import systemd
from dskd.runtime.station.camera_daemon import CameraDaemon, csi_cameras
from dskd.runtime.station.check import check
from dskd.runtime.station.config import StationConfig
from dskd.runtime.station.load import load_station
from dskd.runtime.station.log import start_logging
from dskd.runtime.station.station import Station

EXAMPLES = """examples:
  dskd station line-3.yaml --check-config    what would run, and all that is wrong in the file
  dskd station line-3.yaml                   run until SIGTERM or Ctrl-C
  dskd station test-output gate              pulses on a GPIO line, to see that it moves what it should
  dskd station sign-in-link line-3.yaml      a link, and at a terminal a QR code, that signs in on the page once

Exit code 0: stopped when told to; 1: the work failed, or only a new process can go on; 2: the file is wrong; 3: a library or device is missing."""
MOST_FILES = 16_384
WATCH = 1.0  # seconds between looks at the threads
log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(
        prog="dskd station",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    options.add_argument("station", type=Path, help="station file (YAML)")
    options.add_argument(
        "--check-config",
        action="store_true",
        help="run nothing; print what would run, every fault, and which address is taken",
    )
    options.add_argument(
        "--accept-clock", action="store_true", help="the clock is right although it jumped since the last run"
    )
    options.add_schema(lambda: StationConfig)
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    if arguments[:1] == ["test-output"]:
        from dskd.runtime.station.outputs.line_test import main as test_output

        return test_output(arguments[1:])
    if arguments[:1] == ["sign-in-link"]:
        from dskd.runtime.web.sign_in_link import main as sign_in_link

        return sign_in_link(arguments[1:])
    options = parser().parse_args(arguments)
    if options.check_config:
        return check(options.station)
    config = load_station(options.station)
    start_logging(config.log_file)
    _allow_descriptors()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    station = Station(config)
    page, lost = None, None
    try:
        if config.web is not None:  # its libraries are needed only then
            from dskd.runtime.web.page import make_page, start_page

            page = make_page(station)
        station.start()
        if options.accept_clock:
            station.accept_clock("command line")
        if page is not None:
            start_page(page, station)
            log.info("page on %s, token in %s", page.url, page.token_file)
            if sys.stderr.isatty():  # a person at a terminal; a log must not hold it
                print(f"sign in within ten minutes, once: {page.sign_in_link()}", file=sys.stderr, flush=True)
        systemd.notify("READY=1")
        watch(station, stop, lambda: page is None or page.alive)
    except DeviceLost as error:
        lost = error
    finally:
        systemd.notify("STOPPING=1")
        if page is not None:
            page.stop()
        station.stop()
    if lost is not None:
        leave(lost)
    return 0


def leave(lost: DeviceLost) -> NoReturn:
    """Ends the process without running destructors: those of a library whose device is lost may hang."""
    print(f"error: {one_line(str(lost))}", file=sys.stderr, flush=True)
    logging.shutdown()
    os._exit(lost.exit_code)


def _allow_descriptors() -> None:
    """As many open files as this process may have: the soft limit is meant for programs that use select."""
    with suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def watch(station: Station, stop: threading.Event, page_alive: Callable[[], bool]) -> None:
    """Feeds systemd's watchdog as long as every thread lives; tells it once a second how the station is.

    Raises DskdError where only a new process can go on: whoever started this one starts it again.
    """
    interval = min(WATCH, (systemd.watchdog_seconds() or WATCH) / 3)
    told = ""
    sources = {name: camera.source for name, camera in station.config.cameras.items()}
    daemon = CameraDaemon(station.cameras[name].capture for name in csi_cameras(sources))
    while not stop.wait(interval):
        daemon.look()
        if (error := station.beyond_repair()) is not None:
            log.error("the station ends, to be started again: %s", one_line(str(error)))
            raise error
        hanging = [*station.hanging(), *([] if page_alive() else ["page"])]
        if hanging:
            text = f"hanging: {', '.join(hanging)}"
        else:
            systemd.notify("WATCHDOG=1")
            status = station.status()
            parts = (*(camera.status for camera in status.cameras), *status.parts)
            text = "; ".join([status.health, *(f"{p.name}: {p.detail}" for p in parts if p.health != "ok")])
        text = one_line(text)[:400]
        if text != told:
            systemd.notify(f"STATUS={text}")
            log.log(logging.ERROR if hanging else logging.INFO, "status: %s", text)
            told = text


if __name__ == "__main__":
    exit_with_code(main)
