"""One list of sinks: what ``dskd runtime --sink`` takes a station takes, each under the same name and settings."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Literal

import pytest
from broker import wait_for
from line_records import frame_of, inspection
from pydantic import Field
from station_files import write_station
from tiny_bundle import tiny_bundle

from dskd.runtime.__main__ import main
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.configuration.fields import Secret, secrets_in
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.result import Verdict
from dskd.runtime.sinks import SINKS, Sink, SinkConfig, SinkKind, by_uri, delivered
from dskd.runtime.sinks.base import SinkContext
from dskd.runtime.sinks.by_uri import open_sinks
from dskd.runtime.sinks.images import ImagesConfig, ImagesSink
from dskd.runtime.sinks.jsonl import JsonlConfig
from dskd.runtime.sinks.jsonl_target import JsonlTarget
from dskd.runtime.sinks.queued import Queued
from dskd.runtime.station.load import load_station, read_station
from dskd.runtime.station.station import Station
from dskd.runtime.store import Store


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("sinks") / "tiny").path


@pytest.fixture
def inspect(bundle: Path) -> Callable[..., int]:
    """``dskd runtime`` on the bundle's two golden frames."""

    def call(*sinks: str) -> int:
        words = [word for sink in sinks for word in ("--sink", sink)]
        return main(["--bundle", str(bundle), "--backend", "onnxruntime", "--threads", "1", *words])

    return call


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Address of a web server, and what it was sent: the JSON with its path and authorization."""
    got: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            got.append({**body, "path": self.path, "authorization": self.headers.get("authorization")})
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


# ------------------------------------------------------------------------------------------------------- the command


def test_csv_alone_gets_a_store_that_goes_with_the_run(
    inspect: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivered.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert inspect(f"csv://{tmp_path}/out.csv") == 0
    assert [line.split(",")[4] for line in (tmp_path / "out.csv").read_text().splitlines()[1:]] == [
        "frame_0.png", "frame_1.png",
    ]  # fmt: skip
    assert list((tmp_path / "temporary").iterdir()) == []


def test_csv_delivers_from_the_store_that_is_named(inspect: Callable[..., int], tmp_path: Path) -> None:
    assert inspect(f"csv://{tmp_path}/out.csv", f"sqlite://{tmp_path}/line.db") == 0
    with sqlite3.connect(tmp_path / "line.db") as database:
        store = database.execute("SELECT value FROM notes WHERE name = 'store'").fetchone()[0]
        cursors = database.execute("SELECT sink, position FROM cursors").fetchall()
    database.close()
    assert [line.split(",")[0] for line in (tmp_path / "out.csv").read_text().splitlines()[1:]] == [
        f"{store}-1", f"{store}-2",
    ]  # fmt: skip
    assert cursors == [(f"csv://{tmp_path}/out.csv", 2)]


def test_a_webhook_with_settings_behind_the_hash(
    inspect: Callable[..., int], receiver: tuple[str, list[dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", "secret")
    address, got = receiver
    assert inspect(f"{address}/hook?line=3#header_token=${{HOOK}}&on=PASS,REJECT") == 0
    assert [(one["path"], one["authorization"], one["frame"]) for one in got] == [
        ("/hook?line=3", "Bearer secret", f"frame_{k}.png") for k in range(2)
    ]


def test_a_receiver_that_is_away_ends_the_run_in_one_line_and_gets_all_of_it_later(
    inspect: Callable[..., int],
    receiver: tuple[str, list[dict[str, object]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivered, "PATIENCE", 0.2)
    address, got = receiver
    with pytest.raises(
        DskdError, match=r"sink http://127\.0\.0\.1:9 .*: 2 records were not delivered .*add --sink sqlite"
    ):
        inspect("http://127.0.0.1:9/token-in-the-path")
    store = Store(tmp_path / "line.db")
    name = by_uri._name(f"{address}/hook")
    store.cursor(name)  # as a run before it, which ended before anything was delivered
    store.add([inspection(1)])
    store.close()
    assert inspect(f"{address}/hook", f"sqlite://{tmp_path}/line.db") == 0
    assert [one["id"] for one in got] == [1, 2, 3]


def test_nothing_else_is_printed_where_a_sink_writes_to_standard_output(
    inspect: Callable[..., int], bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inspect("jsonl://-") == 0
    assert [json.loads(line)["frame"] for line in capfd.readouterr().out.splitlines()] == ["frame_0.png", "frame_1.png"]

    class Loud(Sink):
        to_stdout = True

        def write(self, results: object) -> None:
            """Prints nothing at all."""

    class LoudConfig(SinkConfig):
        kind: Literal["loud"]

    monkeypatch.setitem(SINKS.built_in, "loud", f"{__name__}:LOUD")
    monkeypatch.setitem(globals(), "LOUD", SinkKind(LoudConfig, "loud://", lambda uri: {}, sink=lambda *_: Loud()))
    assert inspect("loud://") == 0
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("webhok://x", "is of no known kind; use sqlite://PATH, "),
        ("http://127.0.0.1/x#xyz=1", "a setting that it does not have; there are url, on"),
        ("http://127.0.0.1/x#header_toke=1", "did you mean header_token"),
        ("http://127.0.0.1/x#header_token=abc", "a secret does not belong in the file"),
        ("http://127.0.0.1/x#timeout_s=soon", "timeout_s: Input should be a valid number"),
        ("mqtt://127.0.0.1/line?commands=true", "dskd runtime takes none"),
        ("archive://x?keep=some", "keep: String should match"),
        ("csv://-", r"jsonl://- writes to standard output"),
    ],
)
def test_a_wrong_sink_is_said_without_its_secrets(uri: str, said: str) -> None:
    with pytest.raises(CallError, match=said) as refused:
        open_sinks([uri])
    assert "abc" not in str(refused.value)


def test_two_addresses_of_one_host_have_cursors_of_their_own_and_show_no_path() -> None:
    names = {by_uri._name(f"https://hooks.example/{path}") for path in ("s3cret-a", "s3cret-b")}
    assert len(names) == 2
    assert not any("s3cret" in name for name in names)


def test_an_archive_and_pictures_are_written_as_results_come(inspect: Callable[..., int], tmp_path: Path) -> None:
    assert inspect(f"archive://{tmp_path}/kept?keep=all&heat=false", f"images://{tmp_path}/overlays") == 0
    assert len(list((tmp_path / "kept").rglob("*.json"))) == 2
    assert len(list((tmp_path / "overlays" / "PASS").iterdir())) == 2


def test_overlays_are_called_as_their_pictures_and_replaced_by_another_run(
    inspect: Callable[..., int], tmp_path: Path
) -> None:
    for _ in range(2):
        assert inspect(f"images://{tmp_path}/overlays") == 0
        assert inspect(f"images://{tmp_path}/dated?names=time") == 0
    assert sorted(path.name for path in (tmp_path / "overlays").rglob("*.png")) == ["frame_0.png", "frame_1.png"]
    assert len(list((tmp_path / "dated").rglob("*.png"))) == 4
    (tmp_path / "overlays" / "PASS" / "frame_0.png").rename(tmp_path / "overlays" / "PASS" / "other.png")
    assert inspect(f"images://{tmp_path}/overlays?beside=true") == 0
    alone, beside = (read_image(tmp_path / "overlays" / "PASS" / f"{name}.png") for name in ("other", "frame_0"))
    assert beside.shape[0] == alone.shape[0]
    assert beside.shape[1] > alone.shape[1]
    assert (beside[:, -alone.shape[1] :] == alone).all()


def test_a_part_that_is_judged_otherwise_leaves_no_overlay_of_before(tmp_path: Path) -> None:
    for verdict in (Verdict.PASS, Verdict.REJECT):
        found = replace(inspection(1, verdict), frame="crack/003.png")
        sink = ImagesSink(ImagesConfig(kind="images", folder=tmp_path))
        sink.write([(replace(frame_of(found), id="crack/003.png"), found)])
        for path in tmp_path.rglob("*.png"):
            os.utime(path, (0, 0))  # written long before the next run
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")] == ["REJECT/crack-003.png"]


def test_a_name_that_comes_twice_in_a_run_loses_no_overlay(tmp_path: Path) -> None:
    sink = ImagesSink(ImagesConfig(kind="images", folder=tmp_path))
    for number, (name, verdict) in enumerate(
        (("a.png", Verdict.REJECT), ("a.jpg", Verdict.PASS), ("a.png", Verdict.PASS))
    ):
        found = replace(inspection(number + 1, verdict), frame=name)
        sink.write([(replace(frame_of(found), id=name, captured=1e9 + number), found)])
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert names[-1] == "REJECT/a.png"
    assert [name.rpartition("-")[2] for name in names[:-1]] == ["a.png", "a.png"]


# -------------------------------------------------------------------------------------------------------- the station


def test_a_station_takes_every_kind_of_the_command(
    tmp_path: Path, receiver: tuple[str, list[dict[str, object]]]
) -> None:
    address, got = receiver
    sinks = {
        "one": {"kind": "jsonl", "path": "out.jsonl"},
        "two": {"kind": "sqlite", "path": "copy.db"},
        "three": {"kind": "images", "folder": "overlays"},
        "four": {"kind": "archive", "folder": "kept", "keep": "all", "min_free_gb": 0},
        "five": {"kind": "csv", "path": "out.csv"},
        "six": {"kind": "webhook", "url": f"{address}/hook"},
    }
    cameras = {"top": {"source": "folder://tiny/golden", "recipe": "good", "policy": "every"}}
    file = write_station(tmp_path, sinks=sinks, cameras=cameras)
    station = Station(load_station(file))
    station.start()
    try:
        wait_for(lambda: len(got) == 2)
        wait_for(lambda: all(not part.behind for part in station.sinks.statuses()))  # type: ignore[union-attr]
        assert {part.name: part.health for part in station.sinks.statuses()} == dict.fromkeys(sinks, "ok")  # type: ignore[union-attr]
    finally:
        station.stop()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == ["frame_0.png", "frame_1.png"]
    with sqlite3.connect(tmp_path / "copy.db") as database:
        assert database.execute("SELECT frame FROM records ORDER BY id").fetchall() == [
            ("frame_0.png",),
            ("frame_1.png",),
        ]
    database.close()
    assert len(list((tmp_path / "overlays").rglob("*.png"))) == len(list((tmp_path / "kept").rglob("*.json"))) == 2


def test_the_stations_own_store_is_no_sink(tmp_path: Path) -> None:
    file = write_station(tmp_path, sinks={"copy": {"kind": "sqlite", "path": "data/store.db"}})
    (fault,) = read_station(file)[1]
    assert "sinks.copy.path: is the station's own store" in str(fault)


def test_jsonl_from_the_store_begins_a_new_file_where_the_old_one_was_taken_away(tmp_path: Path, store: Store) -> None:
    target = JsonlTarget(JsonlConfig(kind="jsonl", path=tmp_path / "out.jsonl"))
    target.open()
    store.add([inspection(1), inspection(2)])
    done: list[int] = []
    target.deliver(store.after(0, 2), lambda record, refused="": done.append(record.id))
    target.check()
    (tmp_path / "out.jsonl").rename(tmp_path / "old.jsonl")
    with pytest.raises(DskdError, match="No such file"):
        target.check()
    target.close()
    assert done == [1, 2]
    assert [json.loads(line)["id"] for line in (tmp_path / "old.jsonl").read_text().splitlines()] == [1, 2]


class Failing(Sink):
    """Raises what a stranger's sink may raise."""

    def __init__(self) -> None:
        self.closed = False

    def wants(self, result: object) -> bool:
        return result[1].verdict is Verdict.REJECT  # type: ignore[index]

    def write(self, results: object) -> None:
        if results:
            raise ZeroDivisionError("no\nluck")

    def close(self) -> None:
        self.closed = True


def test_whatever_a_sink_raises_is_counted_and_its_thread_goes_on() -> None:
    sink = Failing()
    queued = Queued("mine", "mine", sink)
    queued.start()
    rejected, passed = inspection(1, Verdict.REJECT), inspection(2, Verdict.PASS)
    assert queued.offer((frame_of(rejected), rejected))
    assert queued.offer((frame_of(passed), passed))  # not wanted: neither written nor counted
    assert queued.stop()
    status = queued.status()
    assert (status.delivered, status.refused, status.behind) == (0, 1, 0)
    assert status.last_error == "ZeroDivisionError: no luck"
    assert sink.closed


# ---------------------------------------------------------------------------------------------------- marked secrets


class Vault(SinkConfig):
    """A secret of a name that nobody knows, alone and in a list."""

    kind: Literal["vault"]
    combination: Secret | None = Field(None)
    spares: list[Secret] = Field([])


def open_vault(config: Vault, context: SinkContext) -> Sink:
    return Failing()


VAULT = SinkKind(Vault, "vault://", lambda uri: {}, sink=open_vault)


def test_a_secret_of_any_name_is_found() -> None:
    vault = Vault(kind="vault", combination="${A}", spares=["${B}", "${C}"])
    assert list(secrets_in({"safe": vault})) == [
        (("safe", "combination"), "${A}"), (("safe", "spares", 0), "${B}"), (("safe", "spares", 1), "${C}"),
    ]  # fmt: skip


def test_check_config_finds_a_secret_of_any_name_that_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SINKS.built_in, "vault", f"{__name__}:VAULT")
    monkeypatch.setenv("DSKD_TEST_SET", "x")
    sinks = {"safe": {"kind": "vault", "combination": "${DSKD_TEST_SET}", "spares": ["${DSKD_TEST_UNSET}"]}}
    (fault,) = read_station(write_station(tmp_path, sinks=sinks))[1]
    assert "sinks.safe.spares.0: environment variable DSKD_TEST_UNSET is not set" in str(fault)
    (fault,) = read_station(write_station(tmp_path, sinks={"safe": {"kind": "vault", "combnation": "x"}}))[1]
    assert "sinks.safe.combnation: unknown key; did you mean combination?" in str(fault)


def test_a_delivery_that_goes_on_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record takes its time, all of them more than the patience with one."""
    monkeypatch.setattr(delivered, "PATIENCE", 0.5)
    got: list[int] = []

    class Slow(JsonlTarget):
        def deliver(self, records: object, done: object) -> None:
            for record in records:  # type: ignore[attr-defined]
                time.sleep(0.2)
                got.append(record.id)
                done(record)  # type: ignore[operator]

    store = Store(tmp_path / "line.db")
    sink = delivered.Delivered("slow", store, Slow(JsonlConfig(kind="jsonl", path=tmp_path / "x")), lost=True)
    store.add([inspection(k) for k in range(5)])
    sink.close()
    store.close()
    assert got == [1, 2, 3, 4, 5]


def test_a_receiver_that_never_comes_back_does_not_fill_the_disk(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in (("MOST_WAITING", 20), ("KEPT", 5), ("TIDY_EVERY", 0.0)):
        monkeypatch.setattr(delivered, name, value)
    sink = delivered.TemporaryStore()
    sink.store.cursor("away")
    for number in range(60):
        found = inspection(number)
        sink.write([(frame_of(found), found)])
    held = [record.id for record in sink.store.after(0, 100)]
    sink.close()
    assert held == list(range(41, 61))
    assert "sink away: over 20 results wait for it" in caplog.text
