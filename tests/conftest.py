"""What all tests share: budgets, folders made once, a small generated set, runs trained on it and their bundles.

Nothing here imports torch, onnx or matplotlib: fixtures that need them import ``trained`` when they are asked for.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker import Broker
from hypothesis import settings

from dskd.runtime.backoff import Backoff
from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.sinks.delivery import Delivery, Target
from dskd.runtime.sinks.mqtt import MqttConfig, MqttTarget
from dskd.runtime.sinks.mqtt_commands import CommandQueue
from dskd.runtime.store import Store
from dskd.train.methods import METHODS

if TYPE_CHECKING:
    from dskd.train.config import TrainConfig
    from dskd.train.trained_run import TrainedRun

ROOT = Path(__file__).resolve().parents[1]
# Students of a quarter of their width: a fifth of the weights to train, write, read and hash in nearly every test.
NARROW = ["embedding.width=0.25", "decoder.width=0.25", "map.components=64", "map.rank=16"]
FULL_WIDTH = ["embedding.width=1", "decoder.width=1", "map.components=384", "map.rank=96"]
SMALL = [
    "input.height=64", "input.width=96", "recipe.epochs=2", "recipe.batch=4", "recipe.precision=float32",
    "data.held_out=0.15", *NARROW,
]  # fmt: skip

# What every method, and what prunes or exports differently, must pass: settings beside SMALL.
FAMILY: dict[str, tuple[str, ...]] = {name: (f"method={name}",) for name in METHODS.built_in} | {
    "urd, plain": ("method=urd", "urd.injection=plain"),
    "dskd, lite": (
        "method=dskd",
        "backbone=efficientnet_lite0",
        "embedding.width=0.5",
        "decoder.width=0.5",
        "map.components=256",
    ),
    "dskd, slim": ("method=dskd", "embedding.width=0.5", "decoder.width=0.5", "map.components=256"),
}
# `make test` trains the method that ships and the one that is built otherwise, without a decoder.
MEMBERS = [pytest.param(name, marks=() if name in ("dskd", "stfpm") else pytest.mark.thorough) for name in FAMILY]

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before torch is imported; more than the free cores: 30 times slower
settings.register_profile("thorough", deadline=None)  # a busy machine is no fault of the code
settings.register_profile("quick", deadline=None, max_examples=25)
settings.load_profile("thorough")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Properties try as many cases as there are to spend. Files with long tests come first: the last file alone would
    keep the other workers idle."""
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("budget")
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
    from trained import write_pictures

    from dskd.train.synthetic import NAME

    return once("pictures", write_pictures) / NAME


@pytest.fixture(scope="session")
def small_set(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated set for this worker alone."""
    return shutil.copytree(pictures, tmp_path_factory.mktemp("set") / pictures.name)


@pytest.fixture(scope="session")
def small_config() -> TrainConfig:
    """Settings of the short run."""
    from dskd.train.config import load_config

    return load_config(None, SMALL)


@pytest.fixture(scope="session")
def trained_run(once: Once, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A short run with a random teacher: its answers are worthless, its path is the real one."""
    from trained import train_small

    from dskd.train.trained_run import load_run

    made = once("run", lambda folder: train_small(pictures, folder))
    return load_run(shutil.copytree(made, tmp_path_factory.mktemp("runs") / "small"))


@pytest.fixture(scope="session")
def bundle(once: Once, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of the short run. Do not change its files: copy the folder."""

    def fill(folder: Path) -> None:
        from trained import exported, train_small

        from dskd.train.trained_run import load_run

        exported(load_run(once("run", lambda run: train_small(pictures, run))), folder)

    return load_bundle(shutil.copytree(once("bundle", fill), tmp_path_factory.mktemp("bundle") / "bundle"))


@dataclass(frozen=True)
class Member:
    """One of the family: a short run with a random teacher, and its bundle."""

    name: str
    run: TrainedRun
    bundle: Bundle


@pytest.fixture(scope="session")
def members(request: pytest.FixtureRequest, once: Once, pictures: Path) -> Callable[[str], Member]:
    """Makes the members of the family, each once."""
    from trained import train_and_export

    from dskd.train.trained_run import load_run

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
    from trained import train_and_export

    from dskd.train.trained_run import load_run

    folder = once("full width", lambda folder: train_and_export(FULL_WIDTH, pictures, folder))
    return Member("full width", load_run(folder), load_bundle(folder / "bundle"))


@pytest.fixture(params=MEMBERS)
def member(request: pytest.FixtureRequest, members: Callable[[str], Member]) -> Member:
    """Each of the family in turn."""
    return members(request.param)


@pytest.fixture(scope="session")
def calibrated_members(once: Once, members: Callable[[str], Member]) -> Callable[[str], Bundle]:
    """The members' bundles after ``python -m calibration``, each once."""
    from trained import calibrate, write_good_parts

    from dskd.train.synthetic import NAME

    good = once("good parts", write_good_parts) / NAME

    @cache
    def make(name: str) -> Bundle:
        return load_bundle(once(f"{name}, calibrated", lambda folder: calibrate(members(name).bundle, good, folder)))

    return make


@pytest.fixture(params=MEMBERS)
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
        port: int, queue: CommandQueue | None = None, backoff: Backoff | None = None, **options: object
    ) -> Delivery:
        config = MqttConfig.model_validate(
            {"kind": "mqtt", "broker": f"mqtt://127.0.0.1:{port}", "topic": "dskd", "keepalive_s": 2, **options}
        )
        target = MqttTarget(config, store.identity, queue)
        return run_delivery(Delivery("mes", store, target, backoff or Backoff(0.05, 0.2)))

    return begin
