"""Several processes train one model: they follow one process, notice a lost one, go on, and refuse to differ."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import NARROW, ROOT
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from dskd.runtime.errors import DskdError
from dskd.train.batches import Schedule
from dskd.train.group import lost
from dskd.train.loop import read_curve

DOCUMENT = (ROOT / "docs/training.md").read_text()
TINY = ["input.height=32", "input.width=64", "recipe.epochs=2", "recipe.precision=float32", *NARROW]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
PAIR = [*TORCHRUN, "--standalone", "--nproc-per-node", "2"]
PATIENCE = 300.0  # seconds until what does not end fails the test

WORKER = """
import sys
from pathlib import Path
import numpy as np
import torch
from safetensors.torch import save_file
from dskd.train.config import load_config
from dskd.train.group import join_processes
from dskd.train.loop import train
from dskd.train.methods.base import build
from dskd.train.networks.backbones import BACKBONES

torch.set_num_threads(1)
folder, frozen, settings = Path(sys.argv[1]), sys.argv[2] == "frozen", sys.argv[3:]
config = load_config(None, settings)
process = join_processes("cpu")
torch.manual_seed(process.rank)  # each starts from other weights: only the group makes them one
method = build(config, BACKBONES["resnet18"].encoder().eval().requires_grad_(False))
for module in method.modules() if frozen else ():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.eval()
        module.train = lambda mode=True: None
images = np.random.default_rng(1).integers(0, 256, (8, 32, 64, 3), np.uint8)
train(method, images, config, {}, folder, process)
save_file({name: p.detach().contiguous() for name, p in method.named_parameters()}, folder / f"{process.rank}.safetensors")
if process.world > 1:
    torch.distributed.destroy_process_group()
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, words)], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, env=ENVIRONMENT, check=False
    )


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT
    )


def worker(folder: Path, start_with: list[str], batch: int, *more: str) -> dict[str, torch.Tensor]:
    """Trains on eight pictures; the weights of the first process."""
    folder.mkdir()
    (folder / "worker.py").write_text(WORKER)
    done = run(*start_with, folder / "worker.py", folder, *more, *TINY, f"recipe.batch={batch}")
    assert done.returncode == 0, done.stderr
    return load_file(folder / "0.safetensors")


def training(small_set: Path, out: Path, *changes: str) -> list[object]:
    settings = [part for change in (*TINY, "recipe.batch=2", *changes) for part in ("--set", change)]
    return [
        "-m",
        "train",
        "--data",
        small_set,
        "--out",
        out,
        "--teacher-weights",
        "random",
        "--device",
        "cpu",
        *settings,
    ]


# One model


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31))
def test_together_they_see_in_each_step_what_one_process_with_their_batches_sees(
    batch: int, world: int, steps: int, seed: int
) -> None:
    count = batch * world * steps + 1
    alone = list(Schedule(count, batch * world, 2, seed))
    parts = [list(Schedule(count, batch, 2, seed, rank, world)) for rank in range(world)]
    assert [[draw for part in step for draw in part] for step in zip(*parts, strict=True)] == alone


@pytest.mark.thorough
@pytest.mark.slow
def test_a_pair_ends_with_the_weights_of_one_process_of_twice_the_batch(tmp_path: Path) -> None:
    """But for BatchNorm, which sees each process's own pictures and is held still here. SGD: Adam's sign doubles rounding."""
    settings = ["recipe.optimiser=sgd", "recipe.learning_rate=0.01", "dskd.students=decoder"]
    alone = worker(tmp_path / "alone", [sys.executable], 4, "frozen", *settings)
    pair = worker(tmp_path / "pair", PAIR, 2, "frozen", *settings)
    untrained = worker(tmp_path / "untrained", [sys.executable], 4, "frozen", *settings, "recipe.learning_rate=1e-12")
    moved = torch.cat([(alone[name] - untrained[name]).ravel() for name in alone]).norm()
    apart = torch.cat([(alone[name] - pair[name]).ravel() for name in alone]).norm()
    assert moved > 0.01
    assert apart < 1e-4 * moved


@pytest.mark.slow
def test_two_processes_train_one_set_of_weights(tmp_path: Path) -> None:
    one = worker(tmp_path / "pair", PAIR, 2, "usual")
    other = load_file(tmp_path / "pair/1.safetensors")
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert all(torch.isfinite(tensor).all() for tensor in one.values())
    assert [row["step"] for row in read_curve(tmp_path / "pair/log.csv")] == ["0", "1", "2", "3"]


# The documented commands


def documented(holding: str) -> list[str]:
    """The line of docs/training.md with ``holding``, as the words after ``torchrun``."""
    lines = [line for line in re.findall(r"^torchrun .*$", DOCUMENT.replace("\\\n", ""), re.M) if holding in line]
    assert len(lines) == 1, f"docs/training.md has {len(lines)} torchrun lines with {holding}"
    return shlex.split(lines[0])[1:]


def changed(words: list[str], **values: object) -> list[str]:
    """The options' values exchanged: a number of GPUs, an address and folders as they are here."""
    words = list(words)
    for name, value in values.items():
        words[words.index("--" + name.replace("_", "-")) + 1] = str(value)
    return words


SHORT = [
    "--teacher-weights", "random", "--device", "cpu",
    *(part for change in (*TINY, "recipe.batch=2") for part in ("--set", change)),
]  # fmt: skip


@pytest.mark.thorough
@pytest.mark.slow
def test_torchrun_trains_one_run_on_two_processes(small_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "pair"
    words = changed(documented("--standalone"), nproc_per_node=2, data=small_set)
    done = run(*TORCHRUN, *words, "--out", out, *SHORT)
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "run.json").read_text())
    steps_per_epoch = record["training_images"] // (2 * 2)
    assert len(read_curve(out / "log.csv")) == 2 * steps_per_epoch
    assert all(torch.isfinite(t).all() for t in load_file(out / "model.safetensors").values())
    assert done.stdout.count("report:") == 1
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["latest", "pair"]
    assert not list(out.glob("prepared-*"))


@pytest.mark.thorough
@pytest.mark.slow
def test_two_machines_train_one_run_and_refuse_a_folder_of_their_own(small_set: Path, tmp_path: Path) -> None:
    """Two agents of torchrun as on two machines, one process each."""

    def together(port: int, *outs: Path) -> list[tuple[int, str]]:
        here = {"nproc_per_node": 1, "master_addr": "127.0.0.1", "master_port": port, "data": small_set}
        words = [changed(documented(f"--node-rank {rank}"), **here, out=out) + SHORT for rank, out in enumerate(outs)]
        machines = [start(*TORCHRUN, *one) for one in words]
        try:
            said = [machine.communicate(timeout=PATIENCE)[1] for machine in machines]
        finally:
            for machine in machines:
                machine.kill()
        return [(machine.returncode, err) for machine, err in zip(machines, said, strict=True)]

    shared = tmp_path / "shared"
    found = together(29611, shared, shared)
    assert [code for code, _ in found] == [0, 0], found
    assert (shared / "run.json").exists()
    refused = together(29612, shared, tmp_path / "own")
    assert all(code != 0 for code, _ in refused)
    assert any("process 1 has another checkpoint than process 0" in err for _, err in refused), refused


# One is gone


def process_of(rank: int, out: Path) -> int:
    """The process id of that rank of the training into ``out``."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
            except OSError:
                continue  # it ended, or is another user's
            if str(out).encode() in words and f"\0RANK={rank}\0".encode() in environment:
                return int(folder.name)
        time.sleep(0.01)
    raise AssertionError(f"no process of rank {rank} came up")


FREQUENT = ["recipe.checkpoint_every=1", "recipe.epochs=4"]


@pytest.fixture(scope="module")
def whole(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a pair trains that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = run(*PAIR, *training(small_set, folder, *FREQUENT))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_with_one_line_and_the_same_command_goes_on(
    rank: int, whole: Path, small_set: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    group = start(*PAIR, *training(small_set, cut, *FREQUENT))
    try:
        victim = process_of(rank, cut)
        end = time.monotonic() + PATIENCE
        while not (cut / "checkpoint.safetensors").exists():
            assert time.monotonic() < end
            assert group.poll() is None
            time.sleep(0.001)
        os.kill(victim, signal.SIGKILL)
        _, said = group.communicate(timeout=PATIENCE)
    finally:
        group.kill()
    assert group.returncode != 0
    assert not (cut / "run.json").exists()
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    assert re.search("another (process|one) of this training is gone", lines[0])
    assert "same command again" in lines[0]
    again = run(*PAIR, *training(small_set, cut, *FREQUENT))
    assert again.returncode == 0, again.stderr
    assert "going on from step" in again.stderr
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_only_a_lost_process_is_said_to_be_lost() -> None:
    with pytest.raises(RuntimeError, match="shape") as caught, lost():
        raise RuntimeError("shape mismatch")
    assert not isinstance(caught.value, DskdError)
    gone = (
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:9. This is typical"
    )
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(DskdError, match=r"gone or silent \(Connection closed by peer \[127.0.0.1\]:9\)"), lost():
            raise RuntimeError(gone)
    finally:
        signal.signal(signal.SIGTERM, before)
