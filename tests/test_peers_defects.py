"""Defects that were met in other inspection software, each a test of ours.

A frozen batch, a black frame read as white, a lower precision that nobody asked for, a cache in the current directory,
code in a model file, gradients kept while scoring, a download on the way to a model, a map that forgets the frame.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, SMALL
from numpy.typing import NDArray
from tiny_bundle import tiny_bundle
from torch import nn

from dskd.runtime.bundle.loading import Bundle, hash_files, load_bundle, write_manifest
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.backends import BACKENDS, open_backend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.golden import golden_check
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.result import Frame, Verdict
from dskd.train.config import load_config
from dskd.train.evaluate import score
from dskd.train.methods.base import build
from dskd.train.networks.backbones import BACKBONES
from dskd.train.trained_run import TrainedRun
from dskd.train.weights import load_teacher

HERE = "openvino" in BACKENDS and find_spec("openvino") is not None
BACKENDS = ["onnxruntime", pytest.param("openvino", marks=pytest.mark.skipif(not HERE, reason="no OpenVINO here"))]
FLOATS: tuple[Precision, ...] = ("fp32", "fp16")
ROUNDED = 2e-5  # between batch sizes of one graph: the order of sums


def frames(bundle: Bundle, levels: list[int]) -> NDArray[np.uint8]:
    """A plain network input of each level, [N, H, W, 3]."""
    spec = bundle.manifest.input
    return np.stack([np.full((spec.height, spec.width, 3), level, np.uint8) for level in levels])


@pytest.mark.parametrize("precision", FLOATS)
def test_the_batch_is_not_frozen_at_what_the_exporter_traced(bundle: Bundle, precision: Precision) -> None:
    """Every size up to the promised one, on the same pictures: the answers must be those of each picture alone."""
    backend, inputs, most = open_backend(bundle, precision=precision), bundle.golden().inputs, bundle.manifest.max_batch
    model = onnx.load(bundle.file(backend.graph), load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param, f"{value.name} holds a fixed batch"
    alone = [backend.infer(inputs[k : k + 1]) for k in range(most)]
    assert len({float(output.scores[0]) for output in alone}) == most  # pictures that could be mixed up
    for size in range(1, most + 1):
        together = backend.infer(inputs[:size])
        maps = together.maps()
        assert together.scores.shape == (size,)
        for k in range(size):
            np.testing.assert_allclose(together.scores[k], alone[k].scores[0], rtol=ROUNDED)
            np.testing.assert_allclose(maps[k], alone[k].maps()[0], rtol=ROUNDED, atol=ROUNDED)


def test_a_black_frame_is_never_read_as_white(bundle: Bundle) -> None:
    """Elsewhere a frame is divided by 255 only if something in it is over 1, so that a level of 1 is white."""
    backend = open_backend(bundle)
    black, one, two, white = (backend.infer(frames(bundle, [level])).maps()[0] for level in (0, 1, 2, 255))
    far = np.abs(white - black).max()
    assert far > 0
    assert np.abs(one - black).max() < 0.2 * far
    assert np.abs(two - one).max() < 0.2 * far


@pytest.mark.parametrize("level", [0, 1, 2, 254, 255])
def test_lens_cap_and_lights_off_are_no_verdict(bundle: Bundle, level: int) -> None:
    backend = open_backend(bundle)
    everything_passes = Settings(review=1e9, reject=1e9)
    with pytest.raises(DskdError, match="blank"):
        Inspector(bundle, backend, everything_passes).inspect(Frame("cap", "0", 0.0, frames(bundle, [level])[0]))


@pytest.mark.parametrize("name", BACKENDS)
def test_float_means_float32(bundle: Bundle, name: str) -> None:
    """bfloat16 keeps 8 bits of a weight: rounding them like that must show in the golden check, and float32 must not."""
    backend = open_backend(bundle, name, precision="fp32")
    check = golden_check(bundle, backend)
    assert max(check.score, check.map) < 1e-4
    rounded = onnx.load(bundle.file("model.onnx"))
    for tensor in rounded.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()).bfloat16().float().numpy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    golden = bundle.golden()
    import onnxruntime

    session = onnxruntime.InferenceSession(rounded.SerializeToString(), providers=["CPUExecutionProvider"])
    scores, maps = session.run(None, {"image": golden.inputs})
    assert max(np.abs(scores - golden.scores).max(), np.abs(maps - golden.maps).max()) > 1e-4


@pytest.mark.parametrize("name", BACKENDS)
def test_nothing_is_written_beside_the_caller(bundle: Bundle, small_set: Path, tmp_path: Path, name: str) -> None:
    """No cache in the current directory, none in the bundle, in the home folder only the user's; no torch, no camera and no store is loaded."""
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    home.mkdir()
    source = small_set / "test" / "good" / "000.png"
    before = hash_files(bundle.path)
    spy = "import sys; from dskd.runtime.__main__ import main; code = main(sys.argv[1:]); print(*sys.modules); sys.exit(code)"
    arguments = ["--bundle", str(bundle.path), "--source", str(source), "--backend", name, "--json"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    done = subprocess.run(
        [sys.executable, "-c", spy, *arguments], cwd=here, capture_output=True, text=True, timeout=120, check=False,
        env={**environment, "HOME": str(home), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "dskd.runtime.pipeline" in loaded
    assert not loaded & {
        "torch",
        "dskd.runtime.capture.sources.gige",
        "dskd.runtime.capture.sources.gstreamer",
        "dskd.runtime.store",
    }
    assert [*here.rglob("*")] == []
    assert {path.relative_to(home).parts[:2] for path in home.rglob("*") if path.is_file()} == {(".cache", "dskd-edge")}
    assert hash_files(bundle.path) == before


class Planted:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.mark),))


def test_a_model_file_is_never_code(tmp_path: Path) -> None:
    """Code hidden in a bundle whose every hash is right: it is refused, and it did not run."""
    bundle, mark = tiny_bundle(tmp_path / "b"), tmp_path / "ran"
    planted = np.empty(2, object)
    planted[:] = [Planted(mark), Planted(mark)]
    np.save(bundle.path / "golden" / "scores.npy", planted, allow_pickle=True)
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"files": hash_files(bundle.path)}))
    with pytest.raises(DskdError, match=r"scores\.npy: cannot be read"):
        golden_check(load_bundle(bundle.path), open_backend(bundle))
    assert not mark.exists()
    pickle.loads(pickle.dumps(Planted(mark)))
    assert mark.exists()


def test_scoring_keeps_no_gradients(trained_run: TrainedRun) -> None:
    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.graph, self.tracked = trained_run.graph("teacher").requires_grad_(True), []

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found: tuple[torch.Tensor, torch.Tensor] = self.graph(image)
            self.tracked += [tensor.requires_grad for tensor in found]
            return found

    watching = Watching()
    image = np.zeros((1, 64, 96, 3), np.uint8)
    watching(torch.from_numpy(image))
    score(watching, image, torch.device("cpu"))
    assert watching.tracked == [True, True, False, False]


def test_no_method_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """STFPM elsewhere cannot be built without the internet."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = load_config(None, [*SMALL, "method=stfpm"])
    method = build(config, load_teacher(BACKBONES[config.backbone], "random")[0])
    assert method.readings()
    with pytest.raises(AssertionError, match="a connection was made"):
        socket.create_connection(("127.0.0.1", 9))


@pytest.mark.parametrize("scale", [1, 3, 8])
def test_regions_are_in_the_frames_own_pixels(tmp_path: Path, scale: int) -> None:
    """Elsewhere the map is 256x256 whatever the frame, and the caller has to know."""
    bundle = tiny_bundle(tmp_path / "b")  # 32 x 32
    image = np.random.default_rng(0).integers(118, 139, (32 * scale, 32 * scale, 3)).astype(np.uint8)
    cv2.rectangle(image, (8 * scale, 4 * scale), (12 * scale - 1, 6 * scale - 1), (255, 255, 255), -1)
    looks = Inspector(bundle, open_backend(bundle), replace(Settings(review=0.3, reject=0.5)))
    found = looks.inspect(Frame("t", "0", 0.0, image))
    assert found.verdict is Verdict.REJECT
    (region,) = found.regions
    assert region.box == (8 * scale, 4 * scale, 4 * scale, 2 * scale)
    assert region.area == 8 * scale**2
