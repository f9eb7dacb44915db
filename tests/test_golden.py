"""The golden check refuses what is wrong in every precision on every backend, and accepts whoever computes right."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from conftest import Member
from half_sums import answers_in_half
from numpy.typing import NDArray
from tiny_bundle import tiny_bundle

from dskd.calibration.quantise import observed_tensors, quantise
from dskd.calibration.ranges import observe
from dskd.export.graph.add_graphs import add_graphs, float_answers
from dskd.export.graph.bfloat import ROUNDED, rounded_to_bfloat16
from dskd.export.graph.transposed import rewrite_transposed
from dskd.runtime.bundle.loading import (
    PROBE_STEP,
    PROBES,
    Bundle,
    golden_file,
    hash_files,
    load_bundle,
    write_manifest,
)
from dskd.runtime.bundle.manifest import Tolerance
from dskd.runtime.errors import DskdError, NotExact
from dskd.runtime.inspection.backends import Candidate, first_that
from dskd.runtime.inspection.backends.base import cpu_words
from dskd.runtime.inspection.backends.onnx_runtime import OnnxRuntimeBackend
from dskd.runtime.inspection.backends.openvino import OpenVinoBackend
from dskd.runtime.inspection.golden import (
    LIMITS,
    PROBE_LIMITS,
    disagreement,
    golden_check,
    probe_disagreement,
)
from dskd.runtime.inspection.proved import open_proved
from dskd.runtime.result import Image

Floats = NDArray[np.float32]
Answers = tuple[Floats, Floats]
HALF, EIGHT, TENSORRT = "model.fp16.onnx", "model.int8.cpu.onnx", "model.int8.onnx"
needs_bf16 = pytest.mark.skipif(
    cpu_words().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"}), reason="the CPU has no bfloat16"
)
BACKENDS: dict[str, Callable[[Bundle], object]] = {
    "onnxruntime fp32": lambda bundle: OnnxRuntimeBackend(bundle, "model.onnx", 1),
    "onnxruntime fp16": lambda bundle: OnnxRuntimeBackend(bundle, HALF, 1),
    "onnxruntime bf16": lambda bundle: OnnxRuntimeBackend(bundle, ROUNDED, 1, rounded(bundle)),
    "onnxruntime int8": lambda bundle: OnnxRuntimeBackend(bundle, EIGHT, 1),
    "onnxruntime int8 of TensorRT": lambda bundle: OnnxRuntimeBackend(bundle, TENSORRT, 1),
    "openvino fp32": lambda bundle: OpenVinoBackend(bundle, "fp32", 1),
    "openvino bf16": lambda bundle: OpenVinoBackend(bundle, "bf16", 1),
    "openvino int8": lambda bundle: OpenVinoBackend(bundle, "int8", 1),
    "openvino int8 and bf16": lambda bundle: OpenVinoBackend(bundle, "int8", 1, "bf16"),
}
EVERY = [pytest.param(name, marks=needs_bf16) if "openvino" in name and "bf16" in name else name for name in BACKENDS]


def rounded(bundle: Bundle) -> bytes:
    return rounded_to_bfloat16(onnx.load(bundle.graph_file(ROUNDED))).SerializeToString()


@pytest.fixture(scope="module")
def every(members: Callable[[str], Member], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small trained bundle with a graph of each precision, as calibration adds them; few pictures do."""
    source, folder = members("stfpm"), tmp_path_factory.mktemp("golden") / "bundle"
    shutil.copytree(source.bundle.path, folder)
    model = onnx.load(folder / "model.onnx")
    rewrite_transposed(model)
    histograms = observe(model, observed_tensors(model), source.bundle.golden().inputs)
    onnx.save(quantise(model, histograms, "minmax", "cpu"), folder / EIGHT)
    onnx.save(quantise(model, histograms, "minmax", "tensorrt"), folder / TENSORRT)
    held_out = [Path(name) for name in source.run.record["held_out"]]  # type: ignore[attr-defined]
    reference = float_answers(source.bundle, held_out)
    return add_graphs(folder, source.bundle.manifest, {EIGHT: "int8", TENSORRT: "int8"}, held_out, reference)[0]


def asked_of(bundle: Bundle) -> Image:
    """All that the golden check shows a backend: golden frames, then probes."""
    probes = bundle.probes()
    return np.concatenate([bundle.golden().inputs, *([] if probes is None else [probes.inputs])])


class Replay:
    """Gives the answers of a backend again, changed by ``mutation``: what that did stays in ``before``."""

    def __init__(self, bundle: Bundle, graph: str, answers: Answers, mutation: str = "") -> None:
        self.name, self.graph, self.mutation = "replayed", graph, mutation
        self._inputs, (self._scores, self._maps) = asked_of(bundle), answers
        self._before = [0]

    def infer(self, batch: Image) -> SimpleNamespace:
        rows = [next(k for k, known in enumerate(self._inputs) if np.array_equal(known, image)) for image in batch]
        asked = MOVED.get(self.mutation, lambda rows, before: rows)(rows, self._before)
        self._before = rows
        change = CHANGED.get(self.mutation, lambda scores, maps: (scores, maps))
        scores, maps = change(self._scores[asked], self._maps[asked])
        return SimpleNamespace(scores=scores, maps=lambda: maps)

    def close(self) -> None:
        pass


# Which frames' answers are given for the batch's, and what is done to them.
MOVED: dict[str, Callable[[list[int], list[int]], list[int]]] = {
    "the answer of the picture before": lambda rows, before: (before[-1:] + rows)[: len(rows)],
    "the batch's rows turned round": lambda rows, before: rows[::-1],
    "the batch's first row for all": lambda rows, before: rows[:1] * len(rows),
}
CHANGED: dict[str, Callable[[Floats, Floats], Answers]] = {
    "a constant": lambda scores, maps: (np.full_like(scores, 0.6), np.full_like(maps, 0.6)),
    "a map shifted by eight pixels": lambda scores, maps: (scores, np.roll(maps, 8, 2)),
    "a map shifted by a cell": lambda scores, maps: (scores, np.roll(maps, 4, 1)),
    "all scaled by 1.02": lambda scores, maps: (scores * np.float32(1.02), maps * np.float32(1.02)),
    "all scaled by 0.98": lambda scores, maps: (scores * np.float32(0.98), maps * np.float32(0.98)),
    "all scaled by 1.05": lambda scores, maps: (scores * np.float32(1.05), maps * np.float32(1.05)),
    "scores scaled by 1.02": lambda scores, maps: (scores * np.float32(1.02), maps),
    "scores 1 in 100 less": lambda scores, maps: (scores * np.float32(0.99), maps),
    "one map in a corner is wrong": lambda scores, maps: (scores, with_corner(maps)),
    "no number": lambda scores, maps: (scores * np.float32("nan"), maps),
}


def with_corner(maps: Floats) -> Floats:
    changed = maps.copy()
    changed[0, :8, :8] = 0
    return changed


@pytest.fixture(scope="module")
def answers(every: Bundle) -> Callable[[str, bool], tuple[str, Answers]]:
    """Graph and answers of a backend to golden frames and probes, computed once; or to pictures without their red."""
    known: dict[tuple[str, bool], tuple[str, Answers]] = {}

    def ask(name: str, no_red: bool = False) -> tuple[str, Answers]:
        if (name, no_red) not in known:
            inputs = asked_of(every)
            inputs[..., 2] = 0 if no_red else inputs[..., 2]
            backend = BACKENDS[name](every)
            found = []
            for image in inputs:
                output = backend.infer(image[None])
                found.append((output.scores.copy(), output.maps().copy()))
            scores, maps = zip(*found, strict=True)
            known[name, no_red] = backend.graph, (np.concatenate(scores), np.concatenate(maps))
            backend.close()
        return known[name, no_red]

    return ask


@pytest.mark.parametrize("name", EVERY)
def test_what_computes_right_is_accepted(every: Bundle, answers: Callable[..., tuple[str, Answers]], name: str) -> None:
    graph, right = answers(name)
    assert golden_check(every, Replay(every, graph, right)).images == 8
    backend = BACKENDS[name](every)
    golden_check(every, backend)  # in batches as they come
    golden_check(every, backend, 1)
    backend.close()


@pytest.mark.parametrize("mutation", [*MOVED, *CHANGED, "a colour is missing"])
@pytest.mark.parametrize("name", EVERY)
def test_what_is_wrong_is_refused(
    every: Bundle, answers: Callable[..., tuple[str, Answers]], name: str, mutation: str
) -> None:
    graph, found = answers(name, mutation == "a colour is missing")
    with pytest.raises(NotExact, match="is not exact enough here"):
        golden_check(every, Replay(every, graph, found, mutation))


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("graph", ["model.onnx", HALF, ROUNDED, EIGHT, TENSORRT])
def test_a_scale_that_is_missing_is_refused(every: Bundle, graph: str, layer: int) -> None:
    """One minus the cosine is nought, as if student and teacher agreed everywhere."""
    model = onnx.load(every.graph_file(graph))
    model = rounded_to_bfloat16(model) if graph == ROUNDED else model
    distances = [node for node in model.graph.node if node.name.startswith("/anomaly_map/distances/Sub")]
    assert len(distances) == 3
    distances[layer].input[0] = distances[layer].input[1]
    with pytest.raises(NotExact):
        golden_check(every, OnnxRuntimeBackend(every, graph, 1, model.SerializeToString()))


def test_half_precision_that_sums_in_half_is_accepted(every: Bundle) -> None:
    """As some tactics of TensorRT do; a few frames, because it is slow here."""
    golden = every.golden(HALF)
    probes = every.probes(HALF)
    assert probes is not None
    model, few = onnx.load(every.graph_file(HALF)), np.concatenate([golden.inputs[:2], probes.inputs[2:]])
    scores, maps = answers_in_half(model, few)
    assert np.abs(maps[:2] - golden.maps[:2]).max() > 1e-5  # it does compute otherwise
    assert disagreement(scores[:2], maps[:2], golden.scores[:2], golden.maps[:2], LIMITS["fp16"]) == ""
    gain, noise = PROBE_LIMITS["fp16"]
    sparse = maps[2:, ::PROBE_STEP, ::PROBE_STEP]
    assert probe_disagreement(sparse, probes.maps[2:], gain / 2, noise / 2) == ""  # with room for other devices


def test_scores_of_any_size_are_judged_alike(every: Bundle) -> None:
    """Distances in what is usual have no upper end: parts before a light that hardly vary reach a thousand."""
    golden = every.golden()
    for factor in np.float32([1e-3, 1, 1e4]):
        scores, maps = golden.scores * factor, golden.maps * factor
        judge = partial(disagreement, expected_scores=scores, expected_maps=maps, limits=LIMITS["fp32"])
        assert judge(scores * np.float32(1 + 5e-6), maps * np.float32(1 + 5e-6)) == ""
        assert "as a whole" in judge(scores * np.float32(1.002), maps * np.float32(1.002))


def without_channels(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """``count`` neighbouring channels of a student's second layer give nothing but their bias."""
    model = copy.deepcopy(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producer = {output: node for node in model.graph.node for output in node.output}
    name = next(n for n in model.graph.node if n.name.endswith("encoder_student/layer1/layer1.0/conv1/Conv")).input[1]
    while name not in constants:  # Q/DQ stands between
        name = producer[name].input[0]
    values = onnx.numpy_helper.to_array(constants[name]).copy()
    first = np.abs(values.astype(float)).sum((1, 2, 3)).argmax() // count * count
    values[first : first + count] = 0
    constants[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    return model


@pytest.mark.parametrize(
    ("graph", "count"),
    [("model.onnx", 1), (HALF, 1), ("model.onnx", 32), (HALF, 32), (ROUNDED, 32), (EIGHT, 32), (TENSORRT, 32)],
)
def test_missing_channels_are_refused(every: Bundle, graph: str, count: int) -> None:
    """One of a layer's 64 where rounding is less than what it adds, a block of an eight-bit or bfloat16 layout elsewhere:
    docs/calibration.md has figures of both.
    """
    model = without_channels(onnx.load(every.graph_file(graph)), count)
    model = rounded_to_bfloat16(model) if graph == ROUNDED else model
    with pytest.raises(NotExact):
        golden_check(every, OnnxRuntimeBackend(every, graph, 1, model.SerializeToString()))


def test_a_limit_is_not_printed_larger_than_it_is(every: Bundle) -> None:
    golden = every.golden(EIGHT)
    found = disagreement(golden.scores, golden.maps * np.float32(1.02005), golden.scores, golden.maps, LIMITS["int8"])
    assert found == "maps off as a whole by 2.1 %, at most 2 % allowed"


def test_tensorrts_graph_is_run_as_it_says(every: Bundle) -> None:
    """onnxruntime rounds biases to eight bits where it may, and does not ask whether they fit."""
    literally = every.golden(TENSORRT)
    fused = OnnxRuntimeBackend(every, TENSORRT, 1).infer(literally.inputs[:4]).maps()
    assert np.corrcoef(fused.ravel(), literally.maps[:4].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), ()])
def test_scores_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    golden = bundle.golden()

    class Shaped(Replay):
        def infer(self, batch: Image) -> SimpleNamespace:
            output = super().infer(batch)
            return SimpleNamespace(scores=np.resize(output.scores, shape), maps=output.maps)

    with pytest.raises(DskdError, match=r"answers 1 frames with scores \["):
        golden_check(bundle, Shaped(bundle, "model.onnx", (golden.scores, golden.maps)))


# ------------------------------------------------------------------------------------------------- older bundles


@pytest.fixture
def older(every: Bundle, tmp_path: Path) -> Bundle:
    """As commit 86fd172 wrote it: tolerances, and the trained model's answers for all graphs."""
    shutil.copytree(every.path, tmp_path / "older")
    graphs = {
        name: graph.model_copy(update={"tolerance": Tolerance(score=1e-3, map=1e-3) if name == "model.onnx" else Tolerance(score=9, map=9)})
        for name, graph in every.manifest.graphs.items()
    }  # fmt: skip
    for name in graphs:
        (tmp_path / "older" / golden_file(name, "probe_maps")).unlink()
        if name != "model.onnx":
            for kind in ("scores", "maps"):
                (tmp_path / "older" / golden_file(name, kind)).unlink()
    (tmp_path / "older" / PROBES).unlink()
    files = hash_files(tmp_path / "older")
    write_manifest(tmp_path / "older", every.manifest.model_copy(update={"graphs": graphs, "files": files}))
    return load_bundle(tmp_path / "older")


@pytest.mark.parametrize("name", ["onnxruntime fp32", "onnxruntime fp16", "onnxruntime int8", "openvino int8"])
def test_an_older_bundle_is_proved_by_what_it_has(
    older: Bundle, answers: Callable[..., tuple[str, Answers]], name: str
) -> None:
    graph, right = answers(name)
    assert not older.golden(graph).own or graph == "model.onnx"
    golden_check(older, Replay(older, graph, right))
    with pytest.raises(NotExact):  # with its wide tolerance too
        golden_check(older, Replay(older, graph, right, "a constant"))
    if graph == "model.onnx":  # whose answers the trained model's are
        with pytest.raises(NotExact):
            golden_check(older, Replay(older, graph, right, "scores scaled by 1.02"))


def test_a_graph_without_answers_and_tolerance_is_refused(older: Bundle) -> None:
    graphs = older.manifest.graphs | {EIGHT: older.manifest.graphs[EIGHT].model_copy(update={"tolerance": None})}
    bare = replace(older, manifest=older.manifest.model_copy(update={"graphs": graphs}))
    with pytest.raises(
        DskdError, match=r"holds no golden answers of model.int8.cpu.onnx; make them with dskd calibration"
    ):
        golden_check(bare, OnnxRuntimeBackend(bare, EIGHT, 1))


# ------------------------------------------------------------------------------------------------- what is said


def test_one_calm_line_says_what_is_used_instead(
    every: Bundle, answers: Callable[..., tuple[str, Answers]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, right = answers("onnxruntime fp32")

    def opened(mutation: str, name: str) -> Candidate:
        backend = Replay(every, "model.onnx", right, mutation)
        backend.name = name
        return Candidate(name, lambda: backend)  # type: ignore[arg-type,return-value]

    tried = [opened("all scaled by 1.05", "first"), opened("", "second")]
    backend, _ = first_that(partial(golden_check, every), tried)  # type: ignore[arg-type]
    assert backend.name == "second"
    assert capsys.readouterr().err == (
        f"first is not exact enough here on the golden frames of bundle {every.id} (maps off as a whole by 5 %, at most 0.1 % allowed); "
        "using second instead\n"
    )


def test_it_is_said_once(every: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = OpenVinoBackend.infer

    def wrong(self: OpenVinoBackend, batch: Image) -> object:
        output = right(self, batch)
        output.scores = output.scores * np.float32(1.05)
        return output

    monkeypatch.setattr(OpenVinoBackend, "infer", wrong)
    said = []
    for _ in range(2):
        backend, _ = open_proved(every, quick=True)
        assert backend.name == "onnxruntime-cpu"
        backend.close()
        said.append(capsys.readouterr().err.splitlines())
    assert said[0]
    assert all(line.endswith("using onnxruntime-cpu instead") for line in said[0])
    assert said[1] == []
    with pytest.raises(NotExact, match="openvino-fp32 is not exact enough here"):  # who asks for it hears it again
        open_proved(every, "openvino", precision="fp32", quick=True)
