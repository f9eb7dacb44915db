"""Outputs and backends of somebody else's: registered under a name, used from a station file and from the command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from station_files import wait_for, write_station
from tiny_bundle import tiny_bundle

from dskd.runtime.__main__ import main
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.configuration.fields import Name, Place
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.backends import BACKENDS, Backend, BackendKind, Candidate, open_backend
from dskd.runtime.reason import Reason
from dskd.runtime.result import Answer, Verdict
from dskd.runtime.station.control import PartStatus
from dskd.runtime.station.load import load_station, read_station
from dskd.runtime.station.outputs.guarded import open_guarded
from dskd.runtime.station.outputs.kinds import OUTPUTS, OutputConfig, OutputContext, OutputKind
from dskd.runtime.station.station import Station


class LampConfig(OutputConfig):
    """A lamp beside one camera."""

    kind: Literal["lamp"]
    camera: Name
    port: int = 1

    def cameras_named(self) -> Iterator[tuple[Place, str]]:
        yield ("camera",), self.camera

    def claims(self) -> Iterator[tuple[str, object]]:
        yield "port", ("lamp", self.port)


class Lamp:
    """Counts what it shows."""

    shown: list[str]

    def __init__(self, config: LampConfig, context: OutputContext) -> None:
        self.name, self._camera = context.name, config.camera
        Lamp.shown = []

    def hears(self, camera: str) -> bool:
        return camera == self._camera

    def answer(self, answer: Answer) -> None:
        Lamp.shown.append(answer.verdict.value)

    def status(self) -> PartStatus:
        return PartStatus(self.name, "lamp", "ok", f"{len(Lamp.shown)} shown", time.time())

    def drain(self, timeout: float) -> None:
        """Nothing waits."""

    def close(self) -> None:
        Lamp.shown.append("off")


LAMP = OutputKind(LampConfig, Lamp)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OUTPUTS.built_in, "lamp", f"{__name__}:LAMP")
    monkeypatch.setitem(BACKENDS.built_in, "mine", f"{__name__}:MINE")
    monkeypatch.setitem(BACKENDS.built_in, "bad", f"{__name__}:BAD")


def test_an_output_hears_the_answers_of_its_camera(tmp_path: Path) -> None:
    cameras = {"top": {"source": "folder://tiny/golden", "recipe": "good", "policy": "every"}}
    file = write_station(tmp_path, cameras=cameras, outputs={"green": {"kind": "lamp", "camera": "top"}})
    station = Station(load_station(file))
    station.start()
    try:
        wait_for(lambda: len(Lamp.shown) == 2)
        assert "2 shown" in [part.detail for part in station.status().parts if part.name == "green"]
    finally:
        station.stop()
    assert Lamp.shown == ["PASS", "PASS", "off"]


def test_what_it_names_and_claims_is_checked(tmp_path: Path) -> None:
    outputs = {"green": {"kind": "lamp", "camera": "tip"}, "red": {"kind": "lamp", "camera": "top"}}
    told = [str(fault) for fault in read_station(write_station(tmp_path, outputs=outputs))[1]]
    assert any("outputs.green.camera: there is no camera 'tip'; did you mean top?" in line for line in told)
    assert any("outputs.red" in line and "is taken by outputs.green.port" in line for line in told)


def test_what_a_packages_output_raises_is_shown_and_reaches_nobody() -> None:
    class Broken(Lamp):
        def answer(self, answer: Answer) -> None:
            raise ZeroDivisionError("no\nlamp")

        def close(self) -> None:
            raise OSError("gone")

    config, context = LampConfig(kind="lamp", camera="top"), OutputContext("green", {}, lambda *_: None)
    output = open_guarded(OutputKind(LampConfig, Broken), config, context)
    assert output.hears("top")
    assert output.status().health == "ok"
    output.answer(Answer("top", "1", Verdict.PASS, Reason.INSPECTED, 0.0, 0.0))
    assert (output.status().health, output.status().detail) == ("fault", "ZeroDivisionError: no lamp")
    output.close()
    with pytest.raises(DskdError, match=r"output green: cannot be opened \(KeyError"):
        open_guarded(OutputKind(LampConfig, lambda config, context: context.cameras["top"]), config, context)  # type: ignore[arg-type,return-value]


def mine(bundle: Bundle, threads: int, precision: object) -> list[Candidate]:
    return [Candidate("mine", lambda: open_backend(bundle, "onnxruntime", 1))]


def bad(bundle: Bundle, threads: int, precision: object) -> list[Candidate]:
    def opened() -> Backend:
        raise ValueError("no driver")

    return [Candidate("bad", opened)]


MINE, BAD = BackendKind(mine), BackendKind(bad)


def test_a_backend_is_used_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tiny_bundle(tmp_path / "tiny").path
    assert main(["--bundle", str(bundle), "--backend", "mine"]) == 0
    assert "inspected 2" in capsys.readouterr().out
    with pytest.raises(DskdError, match=r"backend bad: cannot be opened \(ValueError: no driver\)"):
        main(["--bundle", str(bundle), "--backend", "bad"])
    config, faults = read_station(write_station(tmp_path, backend={"name": "mine"}))
    assert config is not None
    assert (config.backend.name, faults) == ("mine", [])
    (fault,) = read_station(write_station(tmp_path, backend={"name": "mne"}))[1]
    assert "backend.name: no backend is called 'mne'; did you mean mine?" in str(fault)
