"""A package of somebody else's, as docs/plugins.md shows it: its method, source and sink in every command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from plugin_site import install
from station_files import rows, wait_for, write_station
from tiny_bundle import tiny_bundle

DOCUMENT = (ROOT / "docs" / "plugins.md").read_text()
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's package, installed, and a broken one beside it."""
    folder = tmp_path_factory.mktemp("site")
    table = re.search(r"```toml\n(.*?)```", DOCUMENT, re.S)
    assert table
    entry_points = re.sub(r'\[project\.entry-points\."(.*?)"\]', r"[\1]", table[1]).replace('"', "")
    (folder / "line_extras").mkdir()
    modules = dict(re.findall(r"```python\n# ([\w/]+)\.py\n(.*?)```", DOCUMENT, re.S))
    assert set(modules) == {"line_extras/method", "line_extras/source", "line_extras/sink"}
    install(folder, "line_extras", entry_points, {"line_extras/__init__": "", **modules})
    groups = "".join(
        f"[dskd.{group}]\nbroken = broken_extras:KIND\n"
        for group in ("methods", "sources", "sinks", "outputs", "backends")
    )
    install(folder, "broken_extras", groups, {"broken_extras": "raise RuntimeError('no licence')"})
    return folder


@pytest.fixture
def dskd(site: Path, tmp_path: Path) -> Command:
    """``dskd COMMAND`` as a user calls it who installed the packages."""

    def call(*words: object, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:

        path = os.pathsep.join([str(site), str(ROOT)])
        return subprocess.run(
            [sys.executable, "-m", "dskd", *map(str, words)], capture_output=True, text=True, timeout=timeout,
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": path, **environment}, check=False,
        )  # fmt: skip

    return call


def test_source_and_sink_work_in_the_command(dskd: Command, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny").path
    words = ("runtime", "--bundle", bundle, "--backend", "onnxruntime", "--threads", "1")
    done = dskd(
        *words, "--source", "wheel://3?side=96", "--sink", f"tally://{tmp_path}/a.txt?stamp=${{LINE}}", LINE="3"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # the broken package is none of its business
    assert "captured 3 inspected 3" in done.stdout
    assert (tmp_path / "a.txt").read_text() == "PASS 3\n" * 3
    wrong = dskd(*words, "--source", "wheel://3?sde=96")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "error: source wheel://3?...: is given an option that it does not have; did you mean side?\n",
    )
    unset = dskd(*words, "--sink", f"tally://{tmp_path}/a.txt?stamp=${{LINE}}")
    assert "LINE is not set" in unset.stderr
    away = dskd(*words, "--source", "wheel://3", DSKD_DISABLE_PLUGINS="1")
    assert "there is no such kind of source" in away.stderr


def test_source_and_sink_work_in_a_station_file(dskd: Command, tmp_path: Path, site: Path) -> None:
    cameras = {"top": {"source": "wheel://4?side=64", "recipe": "good", "policy": "every"}}
    sinks = {"lamp": {"kind": "tally", "path": "out.txt", "stamp": "${LINE}"}}
    file = write_station(tmp_path, cameras=cameras, sinks=sinks)
    checked = dskd("station", file, "--check-config")
    assert checked.returncode == 2
    assert "sinks.lamp.stamp: environment variable LINE is not set" in checked.stdout
    assert "sink lamp: tally" in dskd("station", file, "--check-config", LINE="3").stdout

    path = os.pathsep.join([str(site), str(ROOT)])
    log = (tmp_path / "log.txt").open("w")
    with subprocess.Popen(
        [sys.executable, "-m", "dskd", "station", str(file)], cwd=tmp_path, stderr=log,
        env={**os.environ, "PYTHONPATH": path, "LINE": "3"},
    ) as station:  # fmt: skip
        try:
            out = tmp_path / "out.txt"
            wait_for(lambda: station.poll() is not None or (out.exists() and len(out.read_text().split()) == 8), 40)
        finally:
            station.terminate()
    assert (tmp_path / "out.txt").read_text() == "PASS 3\n" * 4, (tmp_path / "log.txt").read_text()
    assert rows(tmp_path, "SELECT count(*) FROM records WHERE kind = 'inspection'") == [(4,)]
    assert "broken" not in (tmp_path / "log.txt").read_text()


def test_help_and_schema_list_them_and_name_the_broken_package_once(dskd: Command, tmp_path: Path) -> None:
    told = dskd("runtime", "--help")
    assert told.returncode == 0, told.stderr
    for form in ("wheel://PARTS", "tally://PATH?stamp=${NAME}", "gige://ADDRESS", "csv://PATH"):
        assert form in told.stdout
    assert told.stderr.splitlines() == [
        f"passed over: {what} broken of the package broken_extras 1.0 cannot be used (RuntimeError: no licence); "
        "update or uninstall the package"
        for what in ("source", "sink")
    ]
    schema = dskd("station", "--print-schema")
    kinds = re.findall(r'"const": "(\w+)"', json.dumps(json.loads(schema.stdout)["properties"]))
    assert {"tally", "csv", "gpio", "modbus"} <= set(kinds)
    bundle = tiny_bundle(tmp_path / "tiny").path
    for words in (
        ("runtime", "--bundle", bundle, "--backend", "onnxruntime", "--sink", "broken://x"),
        ("runtime", "--bundle", bundle, "--source", "broken://x"),
        ("runtime", "--bundle", bundle, "--backend", "broken"),
        ("train", "--data", ".", "--set", "method=broken"),
    ):
        asked = dskd(*words)
        assert asked.returncode in (1, 2, 3)
        assert "broken of the package broken_extras 1.0 cannot be used" in asked.stderr, asked.stderr
        assert "Traceback" not in asked.stderr


LEARN = """
import torch
from dskd.train.config import load_config
from dskd.train.methods.base import build
from dskd.train.networks.backbones import BACKBONES

config = load_config(None, ["method=coarse", "coarse.fine=0.5", "embedding.width=0.125", "decoder.width=0.125"])
assert config.recipe.epochs == 40
assert config.coarse.fine == 0.5
method = build(config, BACKBONES["resnet18"].encoder().requires_grad_(False)).train()
print(list(method.readings()), list(method(*torch.randn(2, 2, 3, 64, 64).unbind())))
"""


def test_a_method_is_configured_and_makes_a_step(site: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEARN], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])},
    )  # fmt: skip
    assert done.stdout == "['coarse_scales'] ['coarse']\n", done.stderr
    assert done.stderr.count("\n") == 1  # the broken package


@pytest.mark.thorough
@pytest.mark.slow
def test_a_method_trains_exports_calibrates_and_runs(dskd: Command, tmp_path: Path) -> None:
    """All by commands: what is not told by the page follows from the method's inference path."""
    assert dskd("train.synthetic", "set", "--train", 20, "--test-good", 2, "--per-defect", 1).returncode == 0
    (data,) = (tmp_path / "set").iterdir()
    tiny = (
        "input.height=64",
        "input.width=96",
        "recipe.batch=4",
        "recipe.epochs=1",
        "recipe.precision=float32",
        "embedding.width=0.125",
        "decoder.width=0.125",
        "map.components=64",
        "map.rank=16",
    )
    sets = [word for setting in ("method=coarse", *tiny) for word in ("--set", setting)]
    trained = dskd(
        "train", "--data", data, *sets, "--teacher-weights", "random", "--device", "cpu", "--out", "run", timeout=900
    )
    assert trained.returncode == 0, trained.stderr
    exported = dskd("export.onnx", "--run", "run", timeout=900)
    assert exported.returncode == 0, exported.stderr
    verified = dskd("export.verify", "--bundle", "run/bundle", timeout=900)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    good = data / "train" / "good"
    calibrated = dskd("calibration", "--bundle", "run/bundle", "--images", good, "--target", "cpu", timeout=900)
    assert calibrated.returncode == 0, calibrated.stderr
    for precision in ("fp32", "int8"):
        done = dskd(
            "runtime",
            "--bundle",
            "run/bundle",
            "--precision",
            precision,
            "--source",
            data / "test",
            "--sink",
            f"tally://{tmp_path}/{precision}.txt",
        )
        assert done.returncode == 0, done.stderr
    assert len((tmp_path / "int8.txt").read_text().split()) == len((tmp_path / "fp32.txt").read_text().split()) > 0
    manifest = (tmp_path / "run" / "bundle" / "manifest.yaml").read_text()
    assert "method: coarse" in manifest
    assert "bottleneck_source: coarse_scales" in manifest
