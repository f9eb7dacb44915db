"""The wheel brings one name; its commands work from folders that hold others of theirs, and beside NVIDIA's ``jetson``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from tiny_bundle import tiny_bundle

from dskd.runtime.capture.image_files import write_image

FOREIGN = ("train", "export", "runtime", "calibration", "benchmarks")
ROOMS = ("runtime", "train", "calibration", "export", "jetson", "benchmarks")
CARD = {
    "export.trt --fp16": 3, "export.onnx --help": 0, "export.verify --help": 0, "train --help": 0, "calibration --help": 0,
    "runtime --help": 0, "runtime.station --help": 0, "jetson --help": 0, "benchmarks --help": 0,
}  # fmt: skip
SOME = ("export.trt --fp16", "runtime --help")
INSTALLED = [pytest.param(command, marks=() if command in SOME else pytest.mark.thorough) for command in CARD]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    settings = folder / "build.cfg"
    settings.write_text(f"[build]\nbuild_base = {folder}/build\n")  # what stands in a checkout's build/ is not packed
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    environment = {**os.environ, "DIST_EXTRA_CONFIG": str(settings)}
    subprocess.run([sys.executable, *words], check=True, env=environment)
    return next(folder.glob("dskd_edge-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in an environment of its own; what it needs lies in this one, NVIDIA's ``jetson`` beside it."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # .pth files in there are not read
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True)
    (site / "jetson/inference").mkdir(parents=True)  # the layout of jetson-inference's Python bindings
    (site / "jetson/__init__.py").write_text("")
    (site / "jetson/inference/__init__.py").write_text("THEIRS = True\n")
    return folder / "bin"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A project that has files of these names."""
    for name in FOREIGN:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('somebody else\\'s {name}')\n")
    (tmp_path / "jetson").mkdir()
    (tmp_path / "jetson/__init__.py").write_text("raise SystemExit('somebody else\\'s jetson')\n")
    return tmp_path


def run(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "DSKD_BUNDLE")}
    return subprocess.run(
        list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_wheel_has_one_top_level_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"dskd"}
    assert {"dskd/py.typed", "dskd/runtime/web/static/index.html", "dskd/jetson/install.sh"} <= set(names)
    assert {"dskd/train/configs/magnetic_tile.yaml", "dskd/benchmarks/yardstick.onnx"} <= set(names)


def test_the_wheel_holds_every_module_but_the_laboratory(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    ours = {f"dskd/{path.relative_to(ROOT).as_posix()}" for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    laboratory = {name for name in ours if name.startswith("dskd/benchmarks/lab/")}
    assert laboratory
    own = {f"dskd/{path.name}" for path in (ROOT / "dskd").glob("*.py")}
    assert inside == (ours | own) - laboratory


@pytest.mark.parametrize("command", ["jetson drill", "jetson fleet-sim", "benchmarks faults", "benchmarks soak --help"])
def test_what_proves_the_product_asks_for_a_checkout(installed: Path, tmp_path: Path, command: str) -> None:
    done = run(installed / "dskd", *command.split(), folder=tmp_path)
    called = " ".join(command.split()[:2])
    assert done.stderr == f"error: {called} proves the product and is not installed; run it in a checkout of dskd\n"
    assert done.returncode == 3


@pytest.mark.parametrize("command", INSTALLED)
def test_the_installed_commands_work_where_a_folder_has_files_of_their_names(
    installed: Path, foreign: Path, command: str
) -> None:
    module, *options = command.split()
    twice = "runtime" in module or module == "export.trt"  # both ways of calling are tried with some
    ways = [[installed / "python", "-m", f"dskd.{module}"]]
    ways += [[installed / "dskd", module.replace("runtime.station", "station")]] * twice
    for words in ways:
        done = run(*words, *options, folder=foreign)
        assert done.returncode in (CARD[command], 2 * (module == "export.trt")), done.stderr  # 2: no bundle there
        assert "somebody else" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_pictures_are_inspected_there_and_the_engine_builder_says_what_is_missing(
    installed: Path, foreign: Path
) -> None:
    bundle = tiny_bundle(foreign / "bundle")
    write_image(foreign / "part.png", np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1)))
    done = run(installed / "dskd", "runtime", "--bundle", bundle.path, "--source", "part.png", "--json", folder=foreign)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] in ("PASS", "REVIEW", "REJECT")
    done = run(installed / "python", "-m", "dskd.export.trt", "--fp32", "--bundle", bundle.path, folder=foreign)
    assert done.returncode in (0, 3), done.stderr  # 3: no GPU here
    assert "Traceback" not in done.stderr


def test_nvidias_jetson_and_ours_stand_side_by_side(installed: Path, tmp_path: Path) -> None:
    script = "import jetson.inference, dskd.jetson, dskd; print(jetson.inference.THEIRS, dskd.__version__)"
    done = run(installed / "python", "-c", script, folder=tmp_path)
    assert done.stdout.startswith("True "), done.stderr
    version = run(installed / "dskd", "--version", folder=tmp_path).stdout
    assert version == f"dskd {done.stdout.split()[1]}\n"


@pytest.mark.parametrize("command", CARD)
def test_in_a_checkout_the_commands_work_as_written(command: str) -> None:
    module, *options = command.split()
    done = run(sys.executable, "-m", module, *options, folder=ROOT)
    assert done.returncode in (CARD[command], 2 * (module == "export.trt")), done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_package_is_named_with_what_brings_it(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['torch'] = None; from dskd.__main__ import run; sys.argv = ['dskd', 'train', '--data', '.']; run()"
    done = run(sys.executable, "-c", hidden, folder=tmp_path)
    assert done.returncode == 3
    assert done.stderr == "error: the Python package 'torch' is not installed; pip install 'dskd-edge[train]'\n"


def test_a_fault_in_the_code_is_not_blamed_on_a_missing_package(tmp_path: Path) -> None:
    broken = (
        "import sys; import dskd.__main__ as m; m.COMMANDS['train'] = ('dskd.train.nowhere', '');"
        "sys.argv = ['dskd', 'train']; m.run()"
    )
    done = run(sys.executable, "-c", broken, folder=tmp_path)
    assert "pip install" not in done.stderr
    assert "dskd.train.nowhere" in done.stderr
