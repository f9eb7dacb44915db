"""A small generated set, a run trained on it and its bundle, made once; and the real data where it is to be had."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from broker import Broker
from hypothesis import settings

from export.onnx import export
from runtime.backoff import Backoff
from runtime.bundle import Bundle
from runtime.delivery import Delivery, Target
from runtime.sinks.mqtt import MqttConfig, MqttTarget
from runtime.sinks.mqtt_commands import CommandDesk
from runtime.store import Store
from train.config import TrainConfig, load_config
from train.data import find_images
from train.methods import METHODS
from train.run import run
from train.synthetic import write_set
from train.trained_run import TrainedRun, load_run

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["input.height=64", "input.width=96", "recipe.epochs=2", "recipe.batch=4", "recipe.precision=float32"]

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


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated inspection set in MVTec layout."""
    return write_set(tmp_path_factory.mktemp("set"), train=14, test_good=4, per_defect=2)


@pytest.fixture(scope="session")
def small_config() -> TrainConfig:
    return load_config(None, SMALL)


@pytest.fixture(scope="session")
def trained_run(small_set: Path, small_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A short run with a random teacher: its answers are worthless, its path is the real one."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    run(small_config, find_images(small_set), "random", folder, "cpu", strict=True)
    return load_run(folder)


@pytest.fixture(scope="session")
def bundle(trained_run: TrainedRun) -> Bundle:
    """The bundle of the short run. Do not change its files: copy the folder."""
    return export(trained_run, "teacher", trained_run.folder / "bundle", opset=20, batch=4, licence="test")[0]


# What every method, and what prunes or exports differently, must pass: settings beside SMALL.
FAMILY = {name: (f"method={name}",) for name in METHODS} | {
    "urd, plain": ("method=urd", "urd.injection=plain"),
    "dskd, slim": ("embedding.width=0.5", "decoder.width=0.5"),
}


@dataclass(frozen=True)
class Member:
    """One of the family: a short run with a random teacher, and its bundle."""

    name: str
    run: TrainedRun
    bundle: Bundle


@pytest.fixture(scope="session")
def members(
    request: pytest.FixtureRequest, small_set: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Member]:
    """Makes the members of the family, each once."""

    @cache
    def make(name: str) -> Member:
        if name == "dskd":
            return Member(name, request.getfixturevalue("trained_run"), request.getfixturevalue("bundle"))
        folder = tmp_path_factory.mktemp("family") / "run"
        settings = [*SMALL, "recipe.epochs=1", *FAMILY[name]]
        run(load_config(None, settings), find_images(small_set), "random", folder, "cpu", strict=True)
        (folder / "checkpoint.safetensors").unlink()  # some hundred megabytes
        done = load_run(folder)
        reading = next(iter(done.method.readings()))
        return Member(name, done, export(done, reading, folder / "bundle", opset=20, batch=4, licence="test")[0])

    return make


@pytest.fixture(params=FAMILY)
def member(request: pytest.FixtureRequest, members: Callable[[str], Member]) -> Member:
    """Each of the family in turn."""
    return members(request.param)


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs ``python -m MODULE ARGUMENTS`` as a user would, from the repository's root."""

    def call(*arguments: object, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
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
def start(store: Store) -> Iterator[Callable[[Target], Delivery]]:
    """Starts deliveries from the store that come back quickly from a failure, and stops them at the end."""
    running = []

    def begin(target: Target) -> Delivery:
        delivery = Delivery("hook", store, target, Backoff(0.02, 0.1))
        delivery.start()
        running.append(delivery)
        return delivery

    yield begin
    for delivery in running:
        assert delivery.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A real MQTT broker on loopback."""
    made = Broker(tmp_path).start()
    yield made
    made.kill()


@pytest.fixture
def start_mqtt(store: Store) -> Iterator[Callable[..., Delivery]]:
    """Starts deliveries from the store to a broker's port, and stops them at the end."""
    running = []

    def begin(
        port: int, desk: CommandDesk | None = None, backoff: Backoff | None = None, **options: object
    ) -> Delivery:
        config = MqttConfig.model_validate(
            {"kind": "mqtt", "broker": f"mqtt://127.0.0.1:{port}", "topic": "dskd", "keepalive_s": 2, **options}
        )
        delivery = Delivery("mes", store, MqttTarget(config, store.identity, desk), backoff or Backoff(0.05, 0.2))
        delivery.start()
        running.append(delivery)
        return delivery

    yield begin
    for delivery in running:
        assert delivery.stop()
