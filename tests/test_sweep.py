"""A sweep over products on Ray: one bundle each, the failed one named, killed and gone on with, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, SMALL, Command

from dskd.runtime.bundle.loading import load_bundle
from dskd.runtime.errors import CallError, MissingPart
from dskd.train import on_ray, synthetic
from dskd.train.sweep import COLUMNS, main

PRODUCTS = sorted(synthetic.PRODUCTS)
PLAIN = {"RAY_worker_niceness": "0"}  # beside other tests Ray's polite workers would hardly run
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **PLAIN}
SETTINGS = [part for change in SMALL for part in ("--set", change)]
PATIENCE = 180.0  # seconds until what does not come fails the test


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """A folder of three products, the last of which has too few pictures."""
    root = tmp_path / "products"
    for k, product in enumerate(PRODUCTS):
        synthetic.write_set(root, train=4 if k == 2 else 12, test_good=2, per_defect=1, product=product)
    return root


def words(products: Path, out: Path, *more: str) -> list[str]:
    return [
        "--data",
        str(products),
        "--out",
        str(out),
        "--teacher-weights",
        "random",
        "--device",
        "cpu",
        *SETTINGS,
        *more,
    ]


def wait_for(moment: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not moment():
        assert time.monotonic() < end, "the moment never came"
        time.sleep(0.01)


@pytest.mark.thorough
@pytest.mark.slow
def test_each_product_gets_its_bundle_and_a_failed_one_is_named(
    products: Path, tmp_path: Path, command: Command
) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "sweep"
    few = PRODUCTS[2]
    done = command("train.sweep", *words(products, out, "--cpus", "1"), **PLAIN)
    assert done.returncode == 1, done.stderr
    assert f"{few} failed: train: only 4 usable good images" in done.stdout
    table = done.stdout.splitlines()
    assert table[0].split() == list(COLUMNS)
    assert [line.split()[:2] for line in table[1:4]] == sorted(
        [name, "failed" if name == few else "made"] for name in PRODUCTS
    )
    report = json.loads((out / "sweep.json").read_text())
    assert (report["made"], report["kept"], report["failed"], report["waiting"]) == (2, 0, 1, [])
    rows = {row["product"]: row for row in report["products"]}
    assert rows[few]["bundle"] is None
    for name in PRODUCTS[:2]:
        bundle = load_bundle(Path(rows[name]["bundle"]))
        assert bundle.manifest.name == name
        assert rows[name]["reject"] == bundle.manifest.graphs["model.onnx"].thresholds.reject.score
    stamps = {
        path: path.stat().st_mtime_ns for name in PRODUCTS[:2] for path in (out / name).rglob("*") if path.is_file()
    }

    shutil.rmtree(out / PRODUCTS[1] / "bundle")  # exported again, not trained again
    synthetic.write_set(products, train=12, test_good=2, per_defect=1, product=few)
    done = command("train.sweep", *words(products, out, "--cpus", "1", "--json"), **PLAIN)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((out / "sweep.json").read_text())
    assert {row["product"]: row["status"] for row in report["products"]} == {
        PRODUCTS[0]: "kept", PRODUCTS[1]: "made", few: "made"
    }  # fmt: skip
    assert all(load_bundle(out / name / "bundle") for name in PRODUCTS)
    trained = [path for path in stamps if path.name in ("run.json", "model.safetensors") or PRODUCTS[0] in path.parts]
    assert {path: path.stat().st_mtime_ns for path in trained} == {path: stamps[path] for path in trained}


@pytest.mark.thorough
@pytest.mark.slow
def test_a_killed_sweep_leaves_no_process_and_goes_on(products: Path, tmp_path: Path, command: Command) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "sweep"
    often = ("--set", "recipe.epochs=4", "--set", "recipe.checkpoint_every=1")
    asked = words(products, out, "--category", PRODUCTS[0], *often, "--cpus", "1")
    sweep = subprocess.Popen(
        [sys.executable, "-m", "dskd.train.sweep", *asked], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: (out / PRODUCTS[0] / "checkpoint.safetensors").exists() or sweep.poll() is not None)
        assert sweep.poll() is None, "it ended before it could be killed"
        assert named(out)
    finally:
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
    wait_for(lambda: not named(out))
    assert not (out / PRODUCTS[0] / "run.json").exists()
    done = command("train.sweep", *asked, **PLAIN)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in (out / PRODUCTS[0] / "output.log").read_text()
    assert load_bundle(out / PRODUCTS[0] / "bundle")


def named(out: Path) -> list[int]:
    """Processes, but for those that ended, whose command names ``out``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(out).encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


LISTENERS = """
import json, os, sys
from pathlib import Path
from dskd.train.on_ray import as_done, connected, share

def answer(work):
    return {"square": work * work, "telling": os.environ.get("RAY_USAGE_STATS_ENABLED"), "cores": os.environ["OMP_NUM_THREADS"]}

def listeners(folder):
    inodes = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            of_ours = folder.encode() in (process / "cmdline").read_bytes()
            links = [os.readlink(file) for file in (process / "fd").iterdir()] if of_ours else []
        except OSError:
            continue
        inodes |= {link[8:-1] for link in links if link.startswith("socket:[")}
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(fields[1].rpartition(":")[0])
    return found

with connected(None) as ray:
    rows = [row for _, row in as_done(ray, answer, [2, 3], share(ray, "cpu", 1, None))]
    folder = ray._private.worker._global_node.get_temp_dir_path()
    print(json.dumps({"rows": rows, "folder": folder, "listening": listeners(folder), "page": ray._private.worker._global_node.webui_url}))
"""


@pytest.mark.thorough
@pytest.mark.slow
def test_ray_listens_on_loopback_tells_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "script.py").write_text(LISTENERS)
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sorted(row["square"] for row in told["rows"]) == [4, 9]
    assert {(row["telling"], row["cores"]) for row in told["rows"]} == {("0", "1")}
    assert not told["page"]
    assert told["listening"]
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert set(told["listening"]) <= loopback, told["listening"]
    assert not Path(told["folder"]).exists()
    wait_for(lambda: not named(Path(told["folder"])))


def nodes(*resources: dict[str, float]) -> SimpleNamespace:
    """A cluster as far as it is asked what it has."""
    return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": own} for own in resources])


def test_a_product_takes_a_gpu_where_there_is_one_and_few_cores() -> None:
    plain, pair = {"CPU": 16.0}, {"CPU": 6.0, "GPU": 2.0}
    assert on_ray.share(nodes(plain), "auto", None, None) == {"num_cpus": 4, "num_gpus": 0}
    assert on_ray.share(nodes({"CPU": 2.0}), "cpu", None, None) == {"num_cpus": 2, "num_gpus": 0}
    assert on_ray.share(nodes(plain, pair), "auto", None, None) == {"num_cpus": 3, "num_gpus": 1}
    assert on_ray.share(nodes(pair), "cuda", None, 0.5) == {"num_cpus": 1, "num_gpus": 0.5}
    assert on_ray.share(nodes(pair), "cpu", 6, None) == {"num_cpus": 6, "num_gpus": 0}


@pytest.mark.parametrize(("device", "cpus", "gpus"), [("cuda", None, None), ("cpu", 17, None), ("auto", None, 2.0)])
def test_what_no_node_has_is_refused_before_the_work(device: str, cpus: int | None, gpus: float | None) -> None:
    with pytest.raises(MissingPart, match="no node has"):
        on_ray.share(nodes({"CPU": 16.0}), device, cpus, gpus)


def test_without_ray_the_extra_is_named(products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPart, match=r"dskd-edge\[sweep\]"):
        main(words(products, tmp_path / "sweep"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--cpus", "0"], "--cpus"),
        (["--category", "nothing"], "name one category"),
        (["--set", "recipe.epoch=1"], "did you mean"),
        (["--teacher-weights", "/no/file.pth"], "no such file"),
    ],
)
def test_a_wrong_call_ends_before_the_work(more: list[str], said: str, products: Path, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=said):
        main(words(products, tmp_path / "sweep", *more))


def test_a_tied_command_ends_with_its_parent(tmp_path: Path) -> None:
    """The module waits for ever; its parent is killed."""
    (tmp_path / "waiting.py").write_text(
        "import pathlib, sys, time\npathlib.Path(sys.argv[1]).touch()\ntime.sleep(600)\n"
    )
    (tmp_path / "sitecustomize.py").write_text("import dskd, os\ndskd.__path__.append(os.path.dirname(__file__))\n")
    parent = f"import subprocess; from dskd.train.tied import words; subprocess.run(words('waiting', {str(tmp_path / 'up')!r}))"
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    process = subprocess.Popen([sys.executable, "-c", parent], env=environment)
    try:
        wait_for((tmp_path / "up").exists)
        assert len(named(tmp_path)) == 2
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not named(tmp_path))
