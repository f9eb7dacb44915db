"""Whole stations: test cameras, a real store, a real PLC client, real signals."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sqlite3
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from pymodbus.client import ModbusTcpClient
from station_files import PATTERN, STRICT, Process, rows, wait_for, write_station

from dskd.benchmarks.lab.station.drill import free_port
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.station.control import CameraStatus
from dskd.runtime.station.load import load_station
from dskd.runtime.station.outputs.registers import INPUT_REGISTERS, registers_text, size
from dskd.runtime.station.station import Station

TRIGGERED = {"source": PATTERN, "recipe": "good", "trigger": {"kind": "software", "deadline_ms": 5000, "queue": 4}}


@contextmanager
def running(file: Path) -> Iterator[Station]:
    station = Station(load_station(file))
    station.start()
    try:
        yield station
    finally:
        station.stop()


def camera(station: Station, name: str = "top") -> CameraStatus:
    return next(found for found in station.status().cameras if found.status.name == name)


def test_a_free_camera_is_inspected_counted_and_shown(tmp_path: Path) -> None:
    with running(write_station(tmp_path)) as station:
        wait_for(lambda: camera(station).inspected >= 10)
        state = camera(station)
        assert state.captured == state.inspected + state.dropped + state.waiting
        assert state.verdicts == {"PASS": state.inspected, "REVIEW": 0, "REJECT": 0}
        assert state.ready
        assert state.status.health == "ok"
        assert 0 < state.latency_ms["p50"] <= state.latency_ms["p99"] <= state.latency_ms["max"]
        live = station.live("top")
        assert live is not None
        assert live.image.shape == (64, 64, 3)
        assert live.inspection.anomaly_map is not None
        assert station.status().health == "ok"
        assert not station.hanging()
    state = camera(station)
    assert state.captured == state.inspected + state.dropped
    assert rows(tmp_path, "SELECT count(*) FROM inspections") == [(state.inspected,)]
    assert rows(tmp_path, "SELECT count(*) FROM dropped") == [(state.dropped,)]
    assert rows(tmp_path, "SELECT count(*) FROM answers") == [(0,)]  # nobody asked
    assert station.status().cameras[0].status.detail


def test_a_broken_picture_in_a_watched_folder_is_a_warning_until_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The station works, and a watchdog that asks for its health must not restart it."""
    monkeypatch.setattr("dskd.runtime.capture.sources.watched_folder._PATIENCE", 0.0)
    monkeypatch.setattr("dskd.runtime.capture.pixel_limit._Limit.pixels", None)
    sound = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))[1].tobytes()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(sound[:-40])
    watching = {"top": {"source": "watch://pictures", "recipe": "good"}}
    with running(write_station(tmp_path, cameras=watching, max_megapixels=1)) as station:
        wait_for(lambda: camera(station).dropped == 1)
        assert camera(station).status.health == station.status().health == "warning"
        assert "cut-off PNG" in camera(station).status.detail
        (tmp_path / "pictures" / "b.pgm").write_bytes(b"P5 1025 1024 255\n")
        wait_for(lambda: camera(station).dropped == 2)
        assert "1025x1024 pixels is over the limit of 1 megapixels" in camera(station).status.detail
        (tmp_path / "pictures" / "c.png").write_bytes(sound)
        wait_for(lambda: camera(station).inspected == 1)
        assert camera(station).status.health == "ok"


def test_each_triggered_part_is_answered_once_with_its_own_frame(tmp_path: Path) -> None:
    with running(write_station(tmp_path, cameras={"top": TRIGGERED})) as station:
        wait_for(lambda: camera(station).ready)
        named = [station.trigger("top", "A-1"), station.trigger("top", None)]
        assert named[0] == "A-1"
        wait_for(lambda: rows(tmp_path, "SELECT count(*) FROM answers") == [(2,)])
        with pytest.raises(CallError, match="no camera 'side'"):
            station.trigger("side", None)
    assert [row[0] for row in rows(tmp_path, "SELECT part FROM answers ORDER BY id")] == named
    assert rows(
        tmp_path, "SELECT count(*) FROM inspections i JOIN answers a ON a.inspection = i.id AND a.part = i.part"
    ) == [(2,)]
    assert camera(station).captured == 2


def test_a_late_inspection_is_kept_and_marked_and_the_answer_stays(tmp_path: Path) -> None:
    slow = {**TRIGGERED, "trigger": {"kind": "software", "deadline_ms": 150}}
    idle = {"source": PATTERN, "recipe": "good", "trigger": {"kind": "software"}}
    backend = {"name": "onnxruntime", "threads": 1, "latency_budget_ms": 1500}  # waits for the other camera
    with running(write_station(tmp_path, cameras={"top": slow, "side": idle}, backend=backend)) as station:
        wait_for(lambda: camera(station).ready)
        station.trigger("top", "slow")
        wait_for(lambda: rows(tmp_path, "SELECT count(*) FROM inspections") == [(1,)])
    found = rows(tmp_path, "SELECT part, verdict, reason, inspection, answered - triggered FROM answers")
    assert found[0][:4] == ("slow", "REJECT", "no verdict before the deadline", None)
    assert 0.14 < float(str(found[0][4])) < 1.4
    timings = json.loads(str(rows(tmp_path, "SELECT timings_ms FROM inspections WHERE part = 'slow'")[0][0]))
    assert timings["late"] > 0


def test_a_frame_whose_part_is_answered_already_costs_no_inspection(tmp_path: Path) -> None:
    """Else an overload would end in no part being judged in time."""
    hasty = {**TRIGGERED, "trigger": {"kind": "software", "deadline_ms": 100, "queue": 4}}
    with running(write_station(tmp_path, cameras={"top": hasty})) as station:
        wait_for(lambda: camera(station).ready)
        thread = station.cameras["top"].inspects
        assert thread is not None
        assert thread.backend._inspector is not None
        infer, judged = thread.backend._inspector.backend.infer, []

        def slow(batch: np.ndarray) -> object:
            judged.append(len(batch))
            time.sleep(0.5)
            return infer(batch)

        thread.backend._inspector.backend.infer = slow  # type: ignore[method-assign, assignment]
        station.trigger("top", "first")
        wait_for(lambda: judged)
        for part in ("second", "third"):
            station.trigger("top", part)
        wait_for(lambda: rows(tmp_path, "SELECT count(*) FROM answers") == [(3,)])
        wait_for(lambda: rows(tmp_path, "SELECT count(*) FROM records WHERE kind != 'answer'") == [(3,)])
        assert judged == [1]
    assert rows(tmp_path, "SELECT part, reason FROM dropped ORDER BY id") == [
        (part, "late: the part was answered at its deadline") for part in ("second", "third")
    ]
    state = camera(station)
    assert (state.captured, state.inspected, state.dropped) == (3, 1, 2)


def test_triggers_beyond_the_queue_are_missed_and_said(tmp_path: Path) -> None:
    one = {**TRIGGERED, "trigger": {"kind": "software", "deadline_ms": 5000, "queue": 1}}
    backend = {"name": "onnxruntime", "threads": 1, "latency_budget_ms": 1500}  # waits for the other camera
    with running(write_station(tmp_path, cameras={"top": one, "side": TRIGGERED}, backend=backend)) as station:
        wait_for(lambda: camera(station).ready)
        station.trigger("top", "A")
        assert not camera(station).ready
        with pytest.raises(DskdError, match="the trigger is missed: 1 parts are under way"):
            station.trigger("top", "B")
        wait_for(lambda: rows(tmp_path, "SELECT count(*) FROM answers") == [(1,)])
        assert camera(station).missed_triggers == 1
        assert camera(station).ready


def test_a_free_camera_takes_no_trigger(tmp_path: Path) -> None:
    with running(write_station(tmp_path)) as station, pytest.raises(CallError, match="takes no trigger"):
        station.trigger("top", None)


def test_a_recipe_is_changed_between_two_frames_and_kept(tmp_path: Path) -> None:
    shutil.copytree(write_station(tmp_path).parent / "tiny", tmp_path / "other")
    recipes = {"good": {"bundle": "tiny", "review": 9.0, "reject": 9.0}, "bad": {"bundle": "other", **STRICT}}
    with running(write_station(tmp_path, recipes=recipes)) as station:
        wait_for(lambda: camera(station).inspected >= 5)
        before = {thread.bundle.path for thread in station.recipes._threads.values()}
        station.set_recipe("top", "bad", "anna")
        assert {thread.bundle.path for thread in station.recipes._threads.values()} != before
        wait_for(lambda: camera(station).verdicts["REJECT"] >= 5)
        with pytest.raises(CallError, match="no recipe 'ugly'"):
            station.set_recipe("top", "ugly", "anna")
        station.set_thresholds("top", 0.001, 9.0, "anna")
        wait_for(lambda: camera(station).verdicts["REVIEW"] >= 5)
        with pytest.raises(CallError, match="must be a number not over"):
            station.set_thresholds("top", 5.0, 4.0, "anna")
        state = camera(station)
        assert state.captured == state.inspected + state.dropped + state.waiting
        audit = [(entry.who, entry.action, entry.detail) for entry in station.store.audit_log(10)]
        bundle = camera(station).bundle
        assert ("anna", "recipe", f"camera top: good to bad, bundle {bundle}") in audit
        detail = f"bad: review 0 to 0.001, reject 0 to 9; bundle {bundle}, camera top"
        assert ("anna", "thresholds", detail) in audit
    with running(tmp_path / "station.yaml") as station:
        state = camera(station)
        assert (state.recipe, state.review, state.reject) == ("bad", 0.001, 9.0)
    recipes["bad"]["reject"] = 8.0  # the file was changed since: it holds
    with running(write_station(tmp_path, recipes=recipes)) as station:
        assert camera(station).reject == 8.0
    cameras = {"top": {"source": PATTERN, "recipe": "bad"}}
    with running(write_station(tmp_path, recipes=recipes, cameras=cameras)) as station:
        assert camera(station).recipe == "bad"


def test_a_recipe_that_cannot_be_loaded_leaves_the_old_one(tmp_path: Path) -> None:
    write_station(tmp_path)
    shutil.copytree(tmp_path / "tiny", tmp_path / "broken")
    (tmp_path / "broken" / "model.onnx").write_bytes(b"x")
    recipes = {"good": {"bundle": "tiny"}, "bad": {"bundle": "broken"}}
    with running(write_station(tmp_path, recipes=recipes)) as station:
        with pytest.raises(DskdError, match="sha256"):
            station.set_recipe("top", "bad", "anna")
        seen = camera(station).inspected
        wait_for(lambda: camera(station).inspected > seen + 3)
        assert camera(station).recipe == "good"


def test_a_choice_that_cannot_be_kept_leaves_the_old_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the station would come back from a restart with another recipe than it ended with."""
    shutil.copytree(write_station(tmp_path).parent / "tiny", tmp_path / "other")
    recipes = {"good": {"bundle": "tiny"}, "bad": {"bundle": "other", **STRICT}}
    with running(write_station(tmp_path, recipes=recipes)) as station:

        def full(*_: object) -> None:
            raise DskdError("no space left")

        monkeypatch.setattr(station.recipes._overrides, "save_recipe", full)
        with pytest.raises(DskdError, match="no space left"):
            station.set_recipe("top", "bad", "anna")
        assert camera(station).recipe == "good"
        assert [thread.bundle.path.name for thread in station.recipes._threads.values()] == ["tiny"]
        seen = camera(station).inspected
        wait_for(lambda: camera(station).inspected > seen + 3)
    with pytest.raises(DskdError, match="the station stops"):
        station.set_recipe("top", "bad", "anna")


def test_a_picture_is_judged_again(tmp_path: Path) -> None:
    with running(write_station(tmp_path)) as station:
        wait_for(lambda: station.live("top"))
        live = station.live("top")
        assert live is not None
        again = station.rejudge(live.image, "top")
        assert (again.score, again.verdict) == (live.inspection.score, live.inspection.verdict)


def test_a_camera_that_is_absent_is_waited_for(tmp_path: Path) -> None:
    cameras = {"top": {**TRIGGERED, "source": "v4l2:///dev/video77"}, "side": {"source": PATTERN, "recipe": "good"}}
    with running(write_station(tmp_path, cameras=cameras)) as station:
        wait_for(lambda: camera(station, "side").inspected > 3)
        wait_for(lambda: camera(station).status.health == "fault")
        assert "/dev/video77" in camera(station).status.detail
        with pytest.raises(DskdError, match="the trigger is missed: camera lost"):
            station.trigger("top", None)
        assert station.status().health == "fault"
        assert not station.hanging()


def test_what_cannot_be_used_is_one_line_and_leaves_nothing_open(tmp_path: Path) -> None:
    file = write_station(tmp_path)
    with running(file), pytest.raises(CallError, match="another process is writing there"):
        Station(load_station(file))
    (tmp_path / "data" / "recipes.json").write_text("{")
    with pytest.raises(CallError, match=r"recipes\.json: cannot be used"):
        Station(load_station(file))
    (tmp_path / "data" / "recipes.json").unlink()
    (tmp_path / "tiny" / "model.onnx").unlink()
    station = Station(load_station(file))
    with pytest.raises(DskdError, match=r"model\.onnx"):
        station.start()
    file = write_station(tmp_path, data="station.yaml")
    with pytest.raises(CallError, match="name another data folder"):
        Station(load_station(file))


def test_metrics_on_loopback(tmp_path: Path) -> None:
    port = free_port()
    with running(write_station(tmp_path, metrics={"listen": f"127.0.0.1:{port}"})) as station:
        wait_for(lambda: camera(station).inspected > 3)
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        assert 'dskd_parts_total{camera="top",verdict="PASS"}' in page


# ------------------------------------------------------------------------------------------------------ as a process


def test_it_tells_systemd_and_stops_cleanly(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        process = Process(write_station(tmp_path), NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="3000000")
        said = [systemd.recv(1000).decode()]
        stat = Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
        while "WATCHDOG=1" not in said or "STATUS=ok" not in said:
            said.append(systemd.recv(1000).decode())
        assert process.end() == 0, process.text()
        systemd.settimeout(0.1)
        while "STOPPING=1" not in said:
            said.append(systemd.recv(1000).decode())
    assert said[0] == "READY=1"
    busy = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    assert busy < 2.0  # seconds of processor time: on a machine of its own the start takes no longer
    assert "station test stopped" in process.text()
    assert all(line.count("\n") == 0 and line[:2] == "20" for line in process.text().splitlines())
    captured = rows(tmp_path, "SELECT count(*) FROM records")
    assert int(str(captured[0][0])) > 0


@pytest.mark.slow
def test_kills_lose_no_record_that_was_told(tmp_path: Path) -> None:
    """A PLC is told a part's verdict; after SIGKILL at any moment that part is in the store, once."""
    port = free_port()
    outputs = {"plc": {"kind": "modbus", "listen": f"127.0.0.1:{port}", "camera": "top"}}
    file = write_station(tmp_path, cameras={"top": TRIGGERED}, outputs=outputs)
    told: list[str] = []
    chance = random.Random(0)
    for _ in range(3):
        process = Process(file)
        process.wait_for_log("runs with 1 camera")
        client = ModbusTcpClient("127.0.0.1", port=port, timeout=2, retries=0)
        wait_for(client.connect)
        client.write_coil(0, True)
        end = time.monotonic() + chance.uniform(0.5, 2.0)
        while time.monotonic() < end:
            client.write_coil(1, True)
            client.write_coil(1, False)
            registers = client.read_input_registers(0, count=size(INPUT_REGISTERS)).registers
            if registers[0] >> 5 & 1:
                told.append(registers_text(registers[20:]))
                client.write_coil(2, True)
                client.write_coil(2, False)
        process.kill()
        client.close()
        (tmp_path / "log.txt").unlink()
    stored = [str(row[0]) for row in rows(tmp_path, "SELECT part FROM answers")]
    assert told
    assert len(stored) == len(set(stored))
    assert set(told) <= set(stored)
    with sqlite3.connect(tmp_path / "data" / "store.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_answer_to_a_wrong_call_is_one_line(tmp_path: Path, command) -> None:  # type: ignore[no-untyped-def]
    done = command("runtime.station", tmp_path / "none.yaml")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    done = command("runtime.station", write_station(tmp_path, cameras={"top": {"source": "test://x", "recipe": "nix"}}))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "station.yaml" in done.stderr
