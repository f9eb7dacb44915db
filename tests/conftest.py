"""A small generated set, runs trained on it and their bundles, made once; and the real data where it is to be had."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from broker import Broker
from hypothesis import settings

import dskd.calibration.__main__ as calibration
from dskd.benchmarks.accuracy import CONTESTANTS
from dskd.calibration.images import FEWEST
from dskd.calibration.quantise import quantisable
from dskd.export.onnx import export
from dskd.runtime.backoff import Backoff
from dskd.runtime.bundle import Bundle, load_bundle
from dskd.runtime.delivery import Delivery, Target
from dskd.runtime.sinks.mqtt import MqttConfig, MqttTarget
from dskd.runtime.sinks.mqtt_commands import CommandDesk
from dskd.runtime.store import Store
from dskd.train.config import TrainConfig, load_config
from dskd.train.data import find_images
from dskd.train.methods import METHODS
from dskd.train.run import run
from dskd.train.synthetic import NAME, write_set
from dskd.train.trained_run import TrainedRun, load_run

ROOT = Path(__file__).resolve().parents[1]
# Students of a quarter of their width: a fifth of the weights to train, write, read and hash in nearly every test.
NARROW = ["embedding.width=0.25", "decoder.width=0.25", "map.components=64", "map.rank=16"]
FULL_WIDTH = ["embedding.width=1", "decoder.width=1", "map.components=384", "map.rank=96"]
SMALL = [
    "input.height=64", "input.width=96", "recipe.epochs=2", "recipe.batch=4", "recipe.precision=float32", *NARROW,
]  # fmt: skip

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))  # more than the free cores: 30 times slower
settings.register_profile("shared", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests first: the last file alone would keep the other workers idle."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each test starts without what another one left in the user's cache."""
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes a folder for all workers of this test session: who asks first fills it, the others wait. Only to be read."""
    own = tmp_path_factory.getbasetemp()
    common = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "once"
    common.mkdir(exist_ok=True)

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder = common / name
        with (common / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                begun = Path(tempfile.mkdtemp(dir=common))
                fill(begun)
                begun.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def pictures(once: Once) -> Path:
    """A generated inspection set in MVTec layout."""
    return once("pictures", lambda folder: write_set(folder, train=14, test_good=4, per_defect=2)) / NAME


@pytest.fixture(scope="session")
def small_set(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated set for this worker alone."""
    return shutil.copytree(pictures, tmp_path_factory.mktemp("set") / NAME)


@pytest.fixture(scope="session")
def small_config() -> TrainConfig:
    return load_config(None, SMALL)


@pytest.fixture(scope="session")
def trained_run(
    once: Once, pictures: Path, small_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> TrainedRun:
    """A short run with a random teacher: its answers are worthless, its path is the real one."""
    made = once("run", lambda folder: run(small_config, find_images(pictures), "random", folder, "cpu", strict=True))
    return load_run(shutil.copytree(made, tmp_path_factory.mktemp("runs") / "small"))


@pytest.fixture(scope="session")
def bundle(once: Once, trained_run: TrainedRun) -> Bundle:
    """The bundle of the short run. Do not change its files: copy the folder."""
    made = once("bundle", lambda folder: exported(trained_run, folder))
    return load_bundle(shutil.copytree(made, trained_run.folder / "bundle"))


def exported(run: TrainedRun, folder: Path) -> Bundle:
    """The bundle of a run's default reading."""
    return export(run, next(iter(run.method.readings())), folder, opset=20, batch=4, licence="test")[0]


# What every method, and what prunes or exports differently, must pass: settings beside SMALL.
FAMILY = {name: (f"method={name}",) for name in METHODS} | {
    "urd, plain": CONTESTANTS["urd-plain"],
    "dskd, slim": CONTESTANTS["dskd-slim"],
}


@dataclass(frozen=True)
class Member:
    """One of the family: a short run with a random teacher, and its bundle."""

    name: str
    run: TrainedRun
    bundle: Bundle


def train_and_export(settings: Sequence[str], images: Path, folder: Path) -> None:
    """One epoch with a random teacher into ``folder``, and its bundle below."""
    config = load_config(None, [*SMALL, "recipe.epochs=1", *settings])
    run(config, find_images(images), "random", folder, "cpu", strict=True)
    (folder / "checkpoint.safetensors").unlink()  # some hundred megabytes
    exported(load_run(folder), folder / "bundle")


@pytest.fixture(scope="session")
def members(request: pytest.FixtureRequest, once: Once, pictures: Path) -> Callable[[str], Member]:
    """Makes the members of the family, each once."""

    @cache
    def make(name: str) -> Member:
        if name == "dskd":
            return Member(name, request.getfixturevalue("trained_run"), request.getfixturevalue("bundle"))
        folder = once(name, lambda folder: train_and_export(FAMILY[name], pictures, folder))
        return Member(name, load_run(folder), load_bundle(folder / "bundle"))

    return make


@pytest.fixture(scope="session")
def full_width(once: Once, pictures: Path) -> Member:
    """DSKD's networks of the size that ships."""
    folder = once("full width", lambda folder: train_and_export(FULL_WIDTH, pictures, folder))
    return Member("full width", load_run(folder), load_bundle(folder / "bundle"))


@pytest.fixture(params=FAMILY)
def member(request: pytest.FixtureRequest, members: Callable[[str], Member]) -> Member:
    """Each of the family in turn."""
    return members(request.param)


@pytest.fixture(scope="session")
def calibrated_members(once: Once, members: Callable[[str], Member]) -> Callable[[str], Bundle]:
    """The members' bundles after ``python -m calibration``, each once."""
    good = once("good parts", lambda folder: write_set(folder, train=FEWEST, test_good=2, per_defect=0)) / NAME

    def calibrate(source: Bundle, folder: Path) -> None:
        shutil.copytree(source.path, folder, dirs_exist_ok=True)
        words = ["--bundle", folder, "--images", good / "train", "--held-out", good / "test"]
        with pytest.MonkeyPatch.context() as patch:  # a few layers stand for all that are judged one by one
            patch.setattr("dskd.calibration.sensitivity.quantisable", lambda model: quantisable(model)[::25])
            assert calibration.main([str(word) for word in words]) == 0

    @cache
    def make(name: str) -> Bundle:
        return load_bundle(once(f"{name}, calibrated", lambda folder: calibrate(members(name).bundle, folder)))

    return make


@pytest.fixture(params=FAMILY)
def calibrated_member(request: pytest.FixtureRequest, calibrated_members: Callable[[str], Bundle]) -> Bundle:
    """The bundle of each of the family in turn, with INT8 graphs."""
    return calibrated_members(request.param)


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs ``python -m dskd.MODULE ARGUMENTS`` as a user would, from the repository's root."""

    def call(
        module: str, *arguments: object, timeout: float = 300, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"dskd.{module}", *map(str, arguments)],
            capture_output=True, text=True, timeout=timeout, cwd=ROOT, env={**os.environ, **environment}, check=False,
        )  # fmt: skip

    return call


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the magnetic tile set."""
    folder = os.environ.get("DSKD_DATA")
    if not folder:
        pytest.skip("DSKD_DATA is not set: the tests on real pictures did not run")
    if not (Path(folder) / "train" / "good" / "exp1_num_10181.jpg").is_file():
        pytest.skip(f"DSKD_DATA {folder} is not the magnetic tile set: the tests on real pictures did not run")
    return Path(folder)


@pytest.fixture(scope="session")
def real_weights() -> str:
    """File of real ImageNet weights."""
    file = os.environ.get("DSKD_TEACHER_WEIGHTS")
    if not file:
        pytest.skip("DSKD_TEACHER_WEIGHTS is not set: the tests on real weights did not run")
    return file


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store of inspections."""
    made = Store(tmp_path / "line.db")
    yield made
    made.close()


@pytest.fixture
def run_delivery() -> Iterator[Callable[[Delivery], Delivery]]:
    """Starts deliveries, and stops them at the end."""
    running = list[Delivery]()

    def begin(delivery: Delivery) -> Delivery:
        delivery.start()
        running.append(delivery)
        return delivery

    yield begin
    for delivery in running:
        assert delivery.stop()


@pytest.fixture
def start(store: Store, run_delivery: Callable[[Delivery], Delivery]) -> Callable[[Target], Delivery]:
    """Starts deliveries from the store that come back quickly from a failure."""
    return lambda target: run_delivery(Delivery("hook", store, target, Backoff(0.02, 0.1)))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A real MQTT broker on loopback."""
    made = Broker(tmp_path).start()
    yield made
    made.kill()


@pytest.fixture
def start_mqtt(store: Store, run_delivery: Callable[[Delivery], Delivery]) -> Callable[..., Delivery]:
    """Starts deliveries from the store to a broker's port."""

    def begin(
        port: int, desk: CommandDesk | None = None, backoff: Backoff | None = None, **options: object
    ) -> Delivery:
        config = MqttConfig.model_validate(
            {"kind": "mqtt", "broker": f"mqtt://127.0.0.1:{port}", "topic": "dskd", "keepalive_s": 2, **options}
        )
        target = MqttTarget(config, store.identity, desk)
        return run_delivery(Delivery("mes", store, target, backoff or Backoff(0.05, 0.2)))

    return begin
