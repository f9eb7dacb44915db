"""A station with every sink and output that can be had here, and all that stands around it on a line.

A network camera, a watched folder and a free camera; broker, reader and receiver; a proxy before the page; the agent
with a file host; PLC, program and line control that trigger; and who starts station and agent again, as systemd does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2

from dskd.benchmarks.lab.chaos.hooked_station import FOLDER
from dskd.benchmarks.lab.fleet.fleet_host import FileHost
from dskd.benchmarks.lab.fleet.power_drill import changed
from dskd.benchmarks.lab.station.broken_network import Subscriber
from dskd.benchmarks.lab.station.broker import Broker
from dskd.benchmarks.lab.station.drill import free_port, listens, station_file, wait_until
from dskd.benchmarks.lab.station.onlookers import Onlooker, Receiver
from dskd.benchmarks.lab.station.rtsp_camera import RtspCamera, picture
from dskd.benchmarks.lab.station.trigger_ways import CAMERA, HttpWay, ModbusWay, MqttWay, TriggerWays, Way
from dskd.jetson.publish import publish
from dskd.jetson.signing import load_private, make_key
from dskd.runtime.bundle.loading import Bundle

PRODUCT, TOPIC = "chaos", "chaos"
FPS = 8.0  # of the network camera
PAUSE = 0.5  # seconds before a station or an agent is started again
NEVER, ALWAYS = 1e9, -1.0  # thresholds that no score and every score reaches
ENDING = 60.0
NGINX = """
daemon off; master_process off; {user} pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 128; }}
http {{
  access_log off; client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{
    listen 127.0.0.1:{listen};
    location / {{ proxy_pass http://127.0.0.1:{page}; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; }}
  }}
}}
"""


@dataclass(frozen=True)
class Ended:
    """A process that ended: when, with which code, and whether it was told or made to."""

    at: float
    code: int
    meant: bool


class Supervised:
    """A process that is started again whenever it ends. ``before`` runs before each start; False: try again later."""

    def __init__(
        self, name: str, command: list[str], log: Path, environment: dict[str, str], before: list[str]
    ) -> None:
        self.name, self.ends, self.starts = name, list[Ended](), 0
        self.since: float | None = None
        self.held = threading.Event()  # set: it is not started again
        self._command, self._before, self._log = command, before, log
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._meant = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts it, and goes on doing so."""
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Of the process that runs, None where none does."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def signal(self, number: signal.Signals) -> None:
        """Sends it; one that ends the process is meant."""
        if self.pid is not None and self._process is not None:
            self._meant = self._meant or number in (signal.SIGKILL, signal.SIGTERM)
            self._process.send_signal(number)

    def stop(self) -> int | None:
        """SIGTERM for good; the exit code, None where none ran, -9 where it did not end in time."""
        self.held.set()
        self._stop.set()
        self.signal(signal.SIGTERM)
        process = self._process
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDING)
            if process.poll() is None:
                process.kill()
                process.wait()
        self._thread.join(ENDING)
        return None if process is None else process.returncode

    def _run(self) -> None:
        while not self._stop.is_set():
            if self.held.is_set():
                time.sleep(0.05)
                continue
            with self._log.open("ab") as log:
                if self._before and subprocess.run(self._before, stderr=log, stdout=log, check=False).returncode:  # noqa: S603
                    self.ends.append(Ended(time.monotonic(), -1000, False))
                    self._stop.wait(PAUSE)
                    continue
                if self._stop.is_set() or self.held.is_set():
                    continue
                self._meant = False
                self._process = subprocess.Popen(self._command, stderr=log, stdout=log, env=self._environment)  # noqa: S603
            self.since, self.starts = time.monotonic(), self.starts + 1
            code = self._process.wait()
            self.since = None
            self.ends.append(Ended(time.monotonic(), code, self._meant))
            self._stop.wait(PAUSE)


class Line:
    """All of it, below ``folder``; ``data`` and ``logs`` may be small disks. As a context manager all ends with it."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self.folder, self.data, self.logs = folder, folder / "data", folder / "logs"
        self.page, self.metrics, self.modbus, self.proxied = (free_port() for _ in range(4))
        self.hooks, self.pictures, self.plain = folder / "hooks", folder / "pictures", folder / "plain"
        self.switched = folder / "switched"
        for made in (self.data, self.logs, self.hooks, self.pictures, folder / "aside", folder / "nginx"):
            made.mkdir(exist_ok=True)
        self.bundle, self.version, self._number = bundle, 0, 0
        self._stack = ExitStack()
        self.has_proxy = shutil.which("nginx") is not None

    def __enter__(self) -> Line:
        try:
            self._surroundings()
            self._fleet()
            self._station()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def trigger(self, period: float) -> None:
        """The three begin."""
        entrance = self.proxied if self.has_proxy else self.page
        ways: list[Way] = [
            ModbusWay(self.modbus), HttpWay(entrance, self.data / "token"), MqttWay(self.broker.port, TOPIC),
        ]  # fmt: skip
        self.ways = TriggerWays(ways, period)
        self._stack.callback(self.ways.stop)

    def publish(self, reject: float) -> int:
        """A new version of the bundle, with that threshold; announced where the broker lives."""
        self.version += 1
        made = changed(self.bundle, self.folder / f"version-{self.version}", reject - self.version * 1e-6)
        publish(made, PRODUCT, self.version, 1, self.host.folder, self.key)
        shutil.rmtree(made.path)
        if listens(self.broker.port):
            with suppress(OSError, ValueError, RuntimeError):
                self.broker.announce(f"{TOPIC}/update/{PRODUCT}", (self.host.folder / f"{PRODUCT}.update").read_bytes())
        return self.version

    def put_picture(self, data: bytes | None = None, suffix: str = "png") -> None:
        """A file in the watched folder, at once and whole; without ``data`` a sound one."""
        self._number += 1
        whole = data if data is not None else cv2.imencode(".png", picture(self._number % 65536))[1].tobytes()
        file = self.pictures / f"{self._number:06d}.{suffix}"
        temporary = file.with_suffix(".part")
        temporary.write_bytes(whole)
        os.replace(temporary, file)
        for old in sorted(self.pictures.glob("*.*g"))[:-200]:
            old.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------------- details

    def _surroundings(self) -> None:
        self.receiver = Receiver()
        self._stack.callback(lambda: self.receiver.stop())
        (self.folder / "broker").mkdir()
        self.broker = Broker(self.folder / "broker")
        self.broker.start()
        self._stack.callback(self.broker.kill)
        self.reader = Subscriber(self.broker.port, TOPIC)
        self._stack.callback(self.reader.stop)
        self.camera = self._stack.enter_context(RtspCamera(FPS))
        feeder = Onlooker("pictures", 1.0, self.put_picture)
        self._stack.callback(feeder.stop)
        self.proxy: Supervised | None = None
        if self.has_proxy:
            nginx = self.folder / "nginx"
            (nginx / "nginx.conf").write_text(
                NGINX.format(
                    folder=nginx, user="user root;" if os.geteuid() == 0 else "", listen=self.proxied, page=self.page
                )
            )
            command = [shutil.which("nginx") or "nginx", "-c", str(nginx / "nginx.conf"), "-p", str(nginx)]
            self.proxy = Supervised("proxy", command, nginx / "said", {}, [])
            self.proxy.start()
            self._stack.callback(self.proxy.stop)

    def _fleet(self) -> None:
        self.host = FileHost(self.folder / "host")
        self._stack.callback(self.host.close)
        private, _ = make_key(self.folder / "keys", "chaos")
        self.key = load_private(private)
        fleet = self.folder / "fleet.yaml"
        fields = {
            "device": "chaos", "product": PRODUCT, "source": self.host.address, "keys": str(self.folder / "keys"),
            "slots": str(self.folder / "bundles"), "store": str(self.data / "store.db"), "every_s": 5,
            "live": {"inspections": 10}, "switched": str(self.switched),
            "broker": {"address": self.broker.address, "topic": TOPIC},
        }  # fmt: skip
        fleet.write_text(json.dumps(fields))
        self.publish(NEVER)
        jetson = [sys.executable, "-m", "dskd.jetson"]
        self._boot = [*jetson, "slots", "boot", "--config", str(fleet)]
        for words in (["update"], ["slots", "confirm"]):
            command = [*jetson, *words, "--config", str(fleet)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)  # noqa: S603
        self._status = [*jetson, "slots", "status", "--config", str(fleet)]
        self.agent = Supervised("agent", [*jetson, "agent", "--config", str(fleet)], self.folder / "agent.log", {}, [])
        self.agent.start()
        self._stack.callback(self.agent.stop)

    def served_version(self) -> int:
        """The version that is confirmed and serves, 0 where none is."""
        done = subprocess.run(self._status, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603
        with suppress(ValueError, KeyError, TypeError):
            state = json.loads(done.stdout)
            return 0 if state.get("trial") else int(state["version"])
        return 0

    def _station(self) -> None:
        shutil.copytree(self.bundle.path, self.plain)
        command = [sys.executable, "-m", "dskd.benchmarks.lab.chaos.hooked_station", str(self._file())]
        environment = {FOLDER: str(self.hooks)}
        self.station = Supervised("station", command, self.folder / "station.log", environment, self._boot)
        self.station.start()
        self._stack.callback(self.station.stop)
        self._watcher = Onlooker("switch", 0.2, self._restart_when_switched)
        self._stack.callback(self._watcher.stop)
        wait_until(lambda: listens(self.metrics), "the station's start", 180)

    def _restart_when_switched(self) -> None:
        if self.switched.exists():
            self.switched.unlink()
            self.station.signal(signal.SIGTERM)

    def _file(self) -> Path:
        trigger = {"kind": "software", "deadline_ms": 5000, "queue": 64}
        lax = {"review": NEVER, "reject": NEVER}
        return station_file(
            self.folder, self.bundle.path, {},
            data=str(self.data), log_file=str(self.logs / "station.log"),
            cameras={
                CAMERA: {"source": self.camera.uri, "recipe": "served", "trigger": trigger},
                "files": {"source": f"watch://{self.pictures}", "recipe": "plain"},
                "side": {"source": "test://pattern?size=320x240&fps=2", "recipe": "plain"},
            },
            recipes={
                "served": {"bundle": str(self.folder / "bundles" / PRODUCT / "current")},
                "plain": {"bundle": str(self.plain), **lax},
            },
            outputs={"plc": {"kind": "modbus", "listen": f"127.0.0.1:{self.modbus}", "camera": CAMERA, "buffer": 1024}},
            metrics={"listen": f"127.0.0.1:{self.metrics}"},
            web={
                "listen": f"127.0.0.1:{self.page}",
                **({"public_url": f"http://127.0.0.1:{self.proxied}/", "trusted_proxies": ["127.0.0.1"]} if self.has_proxy else {}),
            },
            sinks={
                "archive": {"kind": "archive", "keep": "rejects and 1 in 10 passes", "max_count": 200, "min_free_gb": 0},
                "csv": {"kind": "csv", "path": str(self.folder / "sink.csv"), "records": ["inspection", "dropped", "answer"]},
                "lines": {"kind": "jsonl", "path": str(self.folder / "sink.jsonl")},
                "copy": {"kind": "sqlite", "path": str(self.folder / "copy.db")},
                "overlays": {"kind": "images", "folder": str(self.folder / "overlays")},
                "hook": {"kind": "webhook", "url": f"http://127.0.0.1:{self.receiver.port}/", "timeout_s": 2},
                "mes": {"kind": "mqtt", "broker": self.broker.address, "topic": TOPIC, "commands": True},
            },
        )  # fmt: skip
