"""What commit 86fd172 wrote still works: a station file with its data, a store of the command, a bundle, a run's settings.

The folder holds two golden frames of a bundle that `tiny_bundle` made, what a station did with them, whose webhook nobody
answered, and what an operator then changed.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from station_files import rows, wait_for

from dskd.runtime.__main__ import main
from dskd.runtime.bundle.loading import load_bundle
from dskd.runtime.inspection.proved import open_proved
from dskd.runtime.result import Verdict
from dskd.runtime.station.check import check
from dskd.runtime.station.load import load_station, read_station
from dskd.runtime.station.station import Station
from dskd.runtime.store import StoreReader
from dskd.train.config import load_config

OLD = ROOT / "tests" / "data" / "86fd172"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, with the pictures that the station's camera reads."""
    monkeypatch.setenv("DSKD_TEST_HOOK", "whsec_c2VjcmV0")
    folder = tmp_path / "old"
    shutil.copytree(OLD, folder)
    (folder / "pictures").mkdir()
    for picture in (folder / "tiny" / "golden").glob("*.png"):
        shutil.copy(picture, folder / "pictures")
    return folder


@pytest.fixture
def receiver() -> Iterator[tuple[int, list[str]]]:
    """Port of a web server, and the keys of the records that it was sent."""
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["key"])
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, got
    server.shutdown()
    server.server_close()


def test_every_key_of_an_old_station_file_says_what_it_said(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, faults = read_station(old / "station.yaml")
    assert faults == []
    assert config is not None
    read = json.loads(config.model_dump_json(serialize_as_any=True))
    written = yaml.safe_load((old / "station.yaml").read_text())

    def held(given: object, found: object) -> bool:
        if isinstance(given, dict):
            return isinstance(found, dict) and all(held(value, found[key]) for key, value in given.items())
        return given == found or str(found) == str(old / str(given)) or str(found) == f"folder://{old}/pictures"

    assert held({key: value for key, value in written.items() if key != "sinks"}, read)
    assert held(written["sinks"], {name: sink.model_dump(mode="json") for name, sink in config.sinks.items()})
    assert check(old / "station.yaml") == 0
    assert "the file is right" in capsys.readouterr().out


def test_an_old_station_goes_on_where_it_stopped(old: Path, receiver: tuple[int, list[str]]) -> None:
    """Ids rise on, the webhook gets what it missed, the operator's changes hold."""
    port, got = receiver
    file = old / "station.yaml"
    file.write_text(file.read_text().replace("127.0.0.1:9/", f"127.0.0.1:{port}/"))
    before = (old / "out.csv").read_text()
    station = Station(load_station(file))
    store = station.store.identity
    station.start()
    try:
        (camera,) = station.status().cameras
        assert camera.recipe == "bracket-b"
        wait_for(lambda: len(got) >= 6)  # of the old records inspections alone: four
        station.set_recipe("top", "bracket-a", "test")
        (camera,) = station.status().cameras
        assert (camera.review, camera.reject) == (0.02, 8.0)
    finally:
        station.stop()
    assert got[:6] == [f"{store}-{number}" for number in (1, 2, 4, 5, 7, 8)]
    after = (old / "out.csv").read_text()
    assert after.startswith(before)
    assert [line.split(",")[0] for line in after.splitlines()[7:9]] == [f"{store}-7", f"{store}-8"]
    assert rows(old, "SELECT label FROM labels WHERE record = 1") == [("confirmed good",)]
    assert json.loads((old / "data" / "recipes.json").read_text())["thresholds"]["bracket-a"]["review"] == 0.02
    reader = StoreReader(old / "data" / "store.db")
    first = reader.after(0, 1)[0]
    reader.close()
    assert (first.frame, first.verdict) == ("frame_0.png", Verdict.REVIEW)
    assert station.sinks is not None
    assert station.sinks.archive is not None
    assert station.sinks.archive.original(first) is not None


def test_an_old_store_of_the_command_is_continued(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--bundle", old / "tiny", "--source", old / "pictures", "--backend", "onnxruntime", "--threads", "1"]
    assert main([*map(str, words), "--sink", f"sqlite://{old}/command.db", "--sink", f"csv://{old}/new.csv"]) == 0
    reader = StoreReader(old / "command.db")
    frames = [(record.id, record.frame, record.score) for record in reader.after(0, 10)]
    reader.close()
    assert [(number, frame) for number, frame, _ in frames] == [
        (1, "frame_0.png"), (2, "frame_1.png"), (3, "frame_0.png"), (4, "frame_1.png"),
    ]  # fmt: skip
    assert [score for *_, score in frames[:2]] == pytest.approx([score for *_, score in frames[2:]], abs=1e-6)
    assert len((old / "new.csv").read_text().splitlines()) == 3  # a sink begins at what is new


def test_an_old_bundle_passes_its_golden_check() -> None:
    """Its manifest has none of the keys that came later."""
    bundle = load_bundle(OLD / "tiny")
    assert bundle.id == "tiny-5769c43fbe3a"  # the id that old records and thresholds name
    backend, checked = open_proved(bundle, "onnxruntime", threads=1)
    backend.close()
    assert checked.images == 2


def test_the_settings_of_an_old_run_still_load() -> None:
    config = load_config(OLD / "run-config.yaml", [])
    assert (config.method, config.recipe.epochs, config.augment.kind) == ("urd", 3, "texture")
    written = json.loads((OLD / "run-config.yaml").read_text())
    read = config.model_dump(mode="json")
    for section, values in written.items():
        for key, value in values.items() if isinstance(values, dict) else []:
            assert read[section][key] == value, f"{section}.{key}"
