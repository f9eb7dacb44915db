"""Where the teacher's weights come from, and what is not accepted as weights."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dskd.benchmarks.lab.station.drill import free_port
from dskd.runtime.errors import CallError, DskdError, MissingPart
from dskd.train import weights
from dskd.train.networks.backbone import Encoder
from dskd.train.networks.backbones import BACKBONES
from dskd.train.weights import load_teacher

BACKBONE = BACKBONES["resnet18"]
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache, no environment, no network: a port of this machine that nobody listens on."""
    monkeypatch.setattr(weights, "DOWNLOAD_FROM", f"http://127.0.0.1:{free_port()}/")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("DSKD_TEACHER_WEIGHTS", raising=False)


def state_of(seed: int) -> State:
    """A whole torchvision state dict's part that matters, with statistics that are not the fresh ones."""
    torch.manual_seed(seed)
    return {
        name: tensor if name.endswith("num_batches_tracked") else torch.rand_like(tensor)
        for name, tensor in BACKBONE.encoder().state_dict().items()
    }


def saved(file: Path, state: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)
    return file


def with_the_rest(state: State) -> State:
    """What a real file holds besides: layer4 and the classifier."""
    return {**state, "layer4.0.conv1.weight": torch.zeros(512, 256, 3, 3), "fc.weight": torch.zeros(1000, 512)}


def same(teacher: Encoder, state: State) -> bool:
    found = teacher.state_dict()
    return all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("whole", [True, False], ids=["whole file", "without layer4 and fc"])
def test_a_named_file_is_taken(tmp_path: Path, whole: bool) -> None:
    state = state_of(1)
    file = saved(tmp_path / "mine.pth", with_the_rest(state) if whole else state)
    teacher, name, digest = load_teacher(BACKBONE, str(file))
    assert same(teacher, state)
    assert (name, digest) == ("mine.pth", hashlib.sha256(file.read_bytes()).hexdigest())
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_option_goes_before_the_environment_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option, environment = saved(tmp_path / "option.pth", state_of(1)), saved(tmp_path / "environment.pth", state_of(2))
    cached = saved(tmp_path / "torch" / "hub" / "checkpoints" / BACKBONE.weights.file, state_of(3))
    assert load_teacher(BACKBONE)[1] == cached.name
    assert same(load_teacher(BACKBONE)[0], state_of(3))
    monkeypatch.setenv("DSKD_TEACHER_WEIGHTS", str(environment))
    assert same(load_teacher(BACKBONE)[0], state_of(2))
    assert same(load_teacher(BACKBONE, str(option))[0], state_of(1))


def test_files_of_old_torchvision_lack_batch_counters_and_are_taken(tmp_path: Path) -> None:
    state = {name: t for name, t in state_of(1).items() if not name.endswith("num_batches_tracked")}
    teacher, _, _ = load_teacher(BACKBONE, str(saved(tmp_path / "old.pth", state)))
    assert same(teacher, state)


def test_random_weights_warn(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _, name, digest = load_teacher(BACKBONE, "random")
    assert "useless for accuracy" in caplog.text
    assert (name, digest) == ("random", "0" * 64)


def test_nothing_found_and_no_network_is_a_missing_part_that_names_the_ways_out() -> None:
    start = time.monotonic()
    with pytest.raises(MissingPart, match=r"--teacher-weights or DSKD_TEACHER_WEIGHTS.*random") as caught:
        load_teacher(BACKBONE)
    assert caught.value.exit_code == 3
    assert BACKBONE.weights.file in str(caught.value)
    assert time.monotonic() - start < 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_a_missing_part(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir(mode=0o500)
    with pytest.raises(MissingPart, match="cannot be downloaded"):
        load_teacher(BACKBONE)


def test_a_cache_that_is_a_file_is_a_missing_part(tmp_path: Path) -> None:
    (tmp_path / "torch").write_text("in the way")
    with pytest.raises(MissingPart, match="cannot be downloaded"):
        load_teacher(BACKBONE)


@pytest.mark.parametrize("name", ["nowhere.pth", "."], ids=["no file", "a folder"])
def test_a_named_file_that_is_none_is_a_wrong_call(tmp_path: Path, name: str) -> None:
    with pytest.raises(CallError, match="there is no such file"):
        load_teacher(BACKBONE, str(tmp_path / name))


def without(name: str) -> object:
    return {key: tensor for key, tensor in state_of(1).items() if key != name}


class Malicious:
    """Unpickling this makes a folder: proof that code in the file ran."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(without("layer3.1.bn2.running_var"), "layer3.1.bn2.running_var", id="a tensor missing"),
        pytest.param({**state_of(1), "conv1.weight": torch.zeros(64, 1, 7, 7)}, "conv1.weight", id="wrong shape"),
        pytest.param({**state_of(1), "conv1.weight": 5}, "weights", id="a number for a tensor"),
        pytest.param({"state_dict": state_of(1)}, "missing or of another shape", id="one level too deep"),
        pytest.param([1, 2, 3], "weights", id="a list"),
        pytest.param(torch.zeros(3), "weights", id="a tensor"),
        pytest.param(None, "weights", id="none"),
    ],
)
def test_what_is_no_state_dict_of_this_backbone_is_refused(tmp_path: Path, content: object, message: str) -> None:
    file = saved(tmp_path / "odd.pth", content)
    with pytest.raises(DskdError, match=message) as caught:
        load_teacher(BACKBONE, str(file))
    assert str(file) in str(caught.value)


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "resnet18.pth", state_of(1))
    with pytest.raises(DskdError, match="wrong backbone"):
        load_teacher(BACKBONES["wide_resnet50_2"], str(file))


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "html"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    file = saved(tmp_path / "damaged.pth", state_of(1))
    whole = file.read_bytes()
    page = b"<html>404 not found</html>"
    file.write_bytes(
        {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"no weights\n" * 50, "html": page}[damage]
    )
    with pytest.raises(DskdError, match="cannot be read"):
        load_teacher(BACKBONE, str(file))


@pytest.mark.parametrize("zipped", [True, False], ids=["torch file", "plain pickle"])
def test_code_in_a_file_is_never_run(tmp_path: Path, zipped: bool) -> None:
    trace, file = tmp_path / "ran", tmp_path / "evil.pth"
    content = {**state_of(1), "fc.bias": Malicious(trace)}
    if zipped:
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DskdError, match="cannot be read"):
        load_teacher(BACKBONE, str(file))
    assert not trace.exists()
