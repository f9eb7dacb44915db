"""The chaos run: what it takes for a lie of health, how it accounts for parts, and two minutes of it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from tiny_bundle import tiny_bundle

from dskd.benchmarks.lab.chaos.account import account, not_stored
from dskd.benchmarks.lab.chaos.truth import SETTLING, SILENCE, STARTING, Kind, Sample, Span, lies
from dskd.runtime.reason import Reason
from dskd.runtime.result import Announced, Answer, Verdict
from dskd.runtime.store import Store

BROKER = Kind("broker down", frozenset({"mqtt mes"}), detect=10, recover=40)
KILL = Kind("SIGKILL", restarts=True)


def said(*moments: float, since: float | None = -1000.0, **parts: str) -> list[Sample]:
    return [
        Sample(at, at, {"mqtt mes": "ok", **{k.replace("_", " "): v for k, v in parts.items()}}, since)
        for at in moments
    ]


def found(samples: list[Sample], *spans: Span) -> list[tuple[str, float]]:
    return [(lie.what, lie.at) for lie in lies(samples, spans)]


def test_a_fault_that_health_does_not_show_is_a_lie_once_it_is_due() -> None:
    span = Span(BROKER, 100, 120)
    assert found(said(100, 105, 110), span) == []
    assert found(said(105, 111, 115), span) == [("hidden", 111)]
    assert found([*said(105), *said(111, 115, mqtt_mes="warning")], span) == []
    assert found(said(111, since=105), span) == [], "a station that was just started has time to see it"


def test_a_station_that_was_paused_has_its_time_from_then_on() -> None:
    paused = Span(Kind("stopped for a while", restarts=True, pauses=True), 98, 111)
    assert found(said(112), Span(BROKER, 100, 130), paused) == []
    assert found(said(122), Span(BROKER, 100, 130), paused) == [("hidden", 122)]


def test_an_alarm_without_a_fault_is_a_lie() -> None:
    bad = said(150, mqtt_mes="warning")
    assert found(bad) == [("false alarm", 150)]
    assert found(bad, Span(BROKER, 100, 120)) == [], "it has time to find back"
    assert found(said(170, mqtt_mes="warning"), Span(BROKER, 100, 120)) == [("false alarm", 170)]
    assert found(said(150, camera_top="fault"), Span(BROKER, 100, 120)) == [("false alarm", 150)]
    assert found(said(150, mqtt_mes="warning", since=150 - SETTLING / 2)) == []


def test_a_fault_that_begins_while_health_is_asked_is_neither_hidden_nor_a_false_alarm() -> None:
    span = Span(BROKER, 100, 120)
    assert found([Sample(99, 101, {"mqtt mes": "fault"}, -1000.0)], span) == []
    assert found([Sample(97, 99, {"mqtt mes": "fault"}, -1000.0)], span) == [("false alarm", 97)]
    assert found([Sample(119, 121, {"mqtt mes": "ok"}, -1000.0)], span) == []


def test_a_station_that_runs_and_says_nothing_lies() -> None:
    moments = [100 + k for k in range(int(SILENCE) + 3)]
    silent = [Sample(at, at, None, -1000.0) for at in moments]
    assert [what for what, _ in found(silent)] == ["silent"]
    assert found(silent, Span(KILL, 95, 95)) == []
    assert found([Sample(at, at, None, None) for at in moments]) == []
    assert found([Sample(at, at, None, 100 - STARTING / 2) for at in moments]) == []


def answer(part: str, reason: Reason = Reason.INSPECTED) -> Answer:
    return Answer("top", part, Verdict.REJECT, reason, 1_790_000_000.0, 1_790_000_000.1)


def test_each_part_is_accounted_for(tmp_path: Path) -> None:
    now, taken = Store(tmp_path / "store.db"), Store(tmp_path / "taken.db")
    now.add([answer("a"), answer("b", Reason.STATION_KILLED), answer("c", Reason.NO_FRAME)])
    taken.add([answer("d"), Announced("top", "e", 1_790_000_000.0)])
    now.close()
    taken.close()
    parts = {"HTTP": {"a": 10.0, "b": 10.0, "c": 10.0, "d": 10.0}, "MQTT": {"e": 10.0, "f": 50.0, "g": 90.0}}
    locked = Span(Kind("store locked", frozenset({"store store"})), 48, 55)
    told = ["a", "d", "f", "h"]
    result = account(tmp_path / "store.db", [tmp_path / "taken.db"], parts, told, [locked], kills=[53, 95])
    assert (result.inspected, result.listed, result.fail_safe, result.in_taken_stores) == (1, 1, 1, 2)
    assert result.killed_while_refusing == 1
    assert result.missing == ["g"], "the store was well when it was acknowledged"
    assert result.told_and_not_stored == 1, "only the one that nobody acknowledged and nothing excuses"
    assert result.wrong()


def test_what_a_stop_names_in_the_log_is_accounted_for(tmp_path: Path) -> None:
    log = tmp_path / "station.log"
    given = answer("b")
    log.write_text(f"ERROR not stored: {Announced('top', 'a', 1.0)}\nERROR not stored: {given}\nINFO stored part='c'\n")
    assert not_stored(log) == {"a", "b"}
    Store(tmp_path / "store.db").close()
    parts = {"HTTP": {"a": 1.0, "b": 1.0, "c": 1.0}}
    result = account(tmp_path / "store.db", [], parts, ["b"], [], [], not_stored(log))
    assert (result.not_stored, result.missing, result.told_and_not_stored) == (2, ["c"], 0)


def test_a_pass_without_an_inspection_is_wrong(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    store.add([answer("a")])
    store.close()
    with sqlite3.connect(tmp_path / "store.db") as database:
        database.execute("UPDATE records SET verdict = 'PASS'")
    result = account(tmp_path / "store.db", [], {"HTTP": {"a": 1.0}}, [], [], [])
    assert result.passed_uninspected == 1
    assert result.wrong()


@pytest.mark.thorough
@pytest.mark.slow
def test_a_minute_of_chaos_loses_no_part(command, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Of health only that it was asked: when it must show a fault is a matter of seconds, and other tests run beside."""
    if not (shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")):
        pytest.skip("mosquitto is not installed")
    small = tiny_bundle(tmp_path / "tiny").path
    words = ["--minutes", "1", "--seed", "7", "--bundle", small, "--json"]
    done = command("benchmarks", "chaos", *words, timeout=900)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    told = json.loads(done.stdout)
    account = told["account"]
    assert told["rounds"] > 0
    assert sum(account["acknowledged"].values()) > 10
    assert not account["missing"], account
    assert account["passed_uninspected"] == 0, account
