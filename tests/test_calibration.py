"""Half floats, ranges, Q/DQ graphs and the calibration command, on a real exported graph."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import FAMILY, Command, Member
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calibration import judged
from calibration.compare import answer_files
from calibration.equalise import equalise, largest_of_channels
from calibration.graph_parts import HEAD, TRUNK, constants_of, feature_names, names_of
from calibration.half import KEPT, to_half
from calibration.images import FEWEST, k_centre
from calibration.judged import judge_all
from calibration.observed import RECIPE, Observed, read_observed, write_observed
from calibration.pictures import Labelled
from calibration.quantise import (
    TARGETS,
    Target,
    in_eight_bits,
    observed_tensors,
    quantisable,
    quantise,
    reading_picture,
    without_transposed,
)
from calibration.ranges import (
    METHODS,
    SMALLEST,
    Histogram,
    Method,
    observe,
    range_of,
)
from calibration.sensitivity import sensitivity
from runtime.backends import open_backend
from runtime.bundle import Bundle, load_bundle
from runtime.errors import DskdError
from runtime.images import write_image
from runtime.inspector import golden_check
from train import metrics
from train.data import find_images
from train.trained_run import TrainedRun


@pytest.fixture(scope="module")
def origin(request: pytest.FixtureRequest, bundle: Bundle, members: Callable[[str], Member]) -> Bundle:
    """The bundle that a test works on: DSKD's, or that of the method it asks for."""
    return members(request.param).bundle if hasattr(request, "param") else bundle


every_method = pytest.mark.parametrize("origin", FAMILY, indirect=True, scope="module")


@pytest.fixture(scope="module")
def model(origin: Bundle) -> onnx.ModelProto:
    return onnx.load(origin.file("model.onnx"))


@pytest.fixture(scope="module")
def inputs(origin: Bundle) -> NDArray[np.uint8]:
    return origin.golden().inputs


@pytest.fixture(scope="module")
def histograms(model: onnx.ModelProto, inputs: NDArray[np.uint8]) -> dict[str, Histogram]:
    plain = without_transposed(model)
    return observe(plain, observed_tensors(plain), inputs)


def answers(model: onnx.ModelProto, inputs: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    score, anomaly_map = session.run(["score", "anomaly_map"], {"image": inputs})
    return score, anomaly_map


def relative(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).mean() / expected.std())


# Half precision


@every_method
def test_half_keeps_the_head_in_float_and_halves_the_weights(model: onnx.ModelProto, inputs: NDArray[np.uint8]) -> None:
    half = to_half(model)
    read = {name for node in half.graph.node if node.name.startswith(TRUNK) for name in node.input}
    kernels = [tensor for tensor in half.graph.initializer if tensor.name in read and len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in kernels} == {TensorProto.FLOAT16}
    typed = onnx.shape_inference.infer_shapes(half, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*typed.value_info, *typed.output]}
    for node in half.graph.node:
        if node.name.startswith(HEAD) and node.op_type != "Constant":
            assert TensorProto.FLOAT16 not in {types.get(name) for name in node.output}, node.name
        halved = node.name.startswith(TRUNK) and not any(part in node.name for part in KEPT)
        if halved and node.op_type in ("Conv", "ConvTranspose", "Add", "Relu"):
            assert {types[name] for name in node.output} == {TensorProto.FLOAT16}, node.name
    assert [value.type for value in half.graph.output] == [value.type for value in model.graph.output]
    score, anomaly_map = answers(half, inputs)
    expected_score, expected_map = answers(model, inputs)
    assert relative(score, expected_score) < 0.05
    assert relative(anomaly_map, expected_map) < 0.02


@every_method
def test_half_stays_finite_with_activations_at_the_edge(model: onnx.ModelProto, inputs: NDArray[np.uint8]) -> None:
    """Features near the largest half float overflow when squared in half precision; the head squares them in float."""
    pushed = onnx.ModelProto()
    pushed.CopyFrom(model)
    names = feature_names(pushed)
    histogram = observe(pushed, names, inputs)
    for name in names:
        factor = np.float32(60000 / max(histogram[name].high, 1e-6))
        scaled, constant = f"{name}_pushed", f"{name}_factor"
        pushed.graph.initializer.append(numpy_helper.from_array(factor, constant))
        for node in pushed.graph.node:
            if node.name.startswith(HEAD):
                node.input[:] = [scaled if given_name == name else given_name for given_name in node.input]
        at = next(k for k, node in enumerate(pushed.graph.node) if name in node.output) + 1
        pushed.graph.node.insert(at, helper.make_node("Mul", [name, constant], [scaled], name=f"{TRUNK}push/{name}"))
    score, anomaly_map = answers(to_half(pushed), inputs)
    expected_score, _ = answers(pushed, inputs)
    assert np.isfinite(anomaly_map).all()
    assert relative(score, expected_score) < 0.05


def test_a_weight_too_large_for_half_is_refused_by_name(model: onnx.ModelProto) -> None:
    huge = onnx.ModelProto()
    huge.CopyFrom(model)
    weight = next(t for t in huge.graph.initializer if t.name.endswith("conv2.weight"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(1e5), weight.name))
    with pytest.raises(ValueError, match=r"conv2\.weight holds values over 65504"):
        to_half(huge)


def test_a_foreign_graph_is_refused() -> None:
    graph = helper.make_graph([], "g", [], [])
    with pytest.raises(ValueError, match="was not written by"):
        names_of(helper.make_model(graph), TRUNK)


# Transposed convolutions


@every_method
def test_transposed_convolutions_are_rewritten_exactly(
    origin: Bundle, model: onnx.ModelProto, inputs: NDArray[np.uint8]
) -> None:
    plain = without_transposed(model)
    onnx.checker.check_model(plain, full_check=True)
    decoded = origin.manifest.method != "stfpm"  # the one method without a decoder
    assert ("ConvTranspose" in {node.op_type for node in model.graph.node}) == decoded
    assert "ConvTranspose" not in {node.op_type for node in plain.graph.node}
    for found, expected in zip(answers(plain, inputs), answers(model, inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_overlapping_transposed_convolution_is_refused(model: onnx.ModelProto) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    node = next(node for node in changed.graph.node if node.op_type == "ConvTranspose")
    next(a for a in node.attribute if a.name == "strides").ints[:] = [1, 1]
    with pytest.raises(ValueError, match="overlaps"):
        without_transposed(changed)


# Ranges


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=200), st.integers(1, 5))
def test_a_histogram_counts_every_value_once_however_it_comes(values: list[float], pieces: int) -> None:
    array = np.array(values, np.float32)
    histogram = Histogram.empty()
    for piece in np.array_split(array, min(pieces, len(array))):
        histogram.add(piece)
    if np.abs(array).min() > SMALLEST:
        assert histogram.counts.sum() == len(array)
    assert histogram.low == min(0, float(array.min()))
    assert histogram.high == max(0, float(array.max()))
    for method in METHODS:
        low, high = range_of(histogram, method)
        assert histogram.low <= low <= 0 <= high <= histogram.high


def histogram_of(values: NDArray[np.float32]) -> Histogram:
    histogram = Histogram.empty()
    histogram.add(values)
    return histogram


def test_methods_differ_where_a_few_values_lie_far_out() -> None:
    values = np.abs(np.random.default_rng(0).standard_normal(200_000)).astype(np.float32)
    values[:3] = 100
    limits = {method: range_of(histogram_of(values), method)[1] for method in METHODS}
    assert limits["minmax"] == 100
    assert limits["percentile"] == pytest.approx(np.quantile(values, 0.9999), rel=0.05)
    assert 2 < limits["entropy"] < 20  # three values in 200,000 carry no information
    assert 20 < limits["mse"] < 100  # but a large squared error


def test_least_squares_beats_every_other_method_at_its_own_measure() -> None:
    values = np.random.default_rng(1).exponential(1, 100_000).astype(np.float32)

    def loss(limit: float) -> float:
        step = limit / 127
        return float(((values - np.minimum(np.rint(values / step), 127) * step) ** 2).mean())

    losses = {method: loss(range_of(histogram_of(values), method)[1]) for method in METHODS}
    assert losses["mse"] <= min(losses.values()) * 1.02


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(DskdError, match="no finite number"):
        Histogram.empty().add(np.array([1, np.nan], np.float32))


def test_what_was_observed_comes_back_for_its_own_key_only(tmp_path: Path) -> None:
    file, kept = tmp_path / "o.json", {"a": histogram_of(np.arange(100, dtype=np.float32)), "b": Histogram.empty()}
    write_observed(file, Observed(["a1", "b2"], {"x": np.array([0.25, 3.0])}, kept), "key")
    found = read_observed(file, "key")
    assert found is not None
    assert found.chosen == ["a1", "b2"]
    np.testing.assert_array_equal(found.largest["x"], [0.25, 3.0])
    for name, histogram in kept.items():
        again = found.histograms[name]
        assert (again.low, again.high, again.limit) == (histogram.low, histogram.high, histogram.limit)
        np.testing.assert_array_equal(again.counts, histogram.counts)
    assert read_observed(file, "other") is None
    for damaged in (file.read_text().replace(f'"recipe":{RECIPE}', '"recipe":1'), "{", "[]", '{"recipe": 3}'):
        file.write_text(damaged)
        assert read_observed(file, "key") is None


# equalising


@every_method
def test_equalising_changes_ranges_and_no_answer(
    origin: Bundle, model: onnx.ModelProto, inputs: NDArray[np.uint8]
) -> None:
    plain = without_transposed(model)
    before = largest_of_channels(plain, inputs)
    even = onnx.ModelProto()
    even.CopyFrom(plain)
    equalise(even, before)
    onnx.checker.check_model(even, full_check=True)
    for expected, found in zip(answers(plain, inputs), answers(even, inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    after = largest_of_channels(even, inputs)
    assert set(after) == set(before)
    spread = {name: (_spread(before[name]), _spread(after[name])) for name in before}
    compared = set(feature_names(plain)) | {plain.graph.node[0].output[0]}
    changed = {name for name in before if not np.allclose(before[name], after[name], rtol=1e-3)}
    assert len(changed) > len(before) / 3  # fewer where the head or an injection reads many
    assert not changed & compared  # the head reads them: they stay as they are
    assert np.median([new / old for name, (old, new) in spread.items() if name in changed]) < 0.9


def _spread(largest: NDArray[np.float64]) -> float:
    """How far a channel in the middle lies under the largest one."""
    alive = largest[largest > 0]
    return float(alive.max() / np.median(alive))


def test_channels_that_never_speak_are_left_alone(model: onnx.ModelProto, inputs: NDArray[np.uint8]) -> None:
    plain = without_transposed(model)
    silent = {name: np.zeros_like(values) for name, values in largest_of_channels(plain, inputs).items()}
    before = plain.SerializeToString()
    equalise(plain, silent)
    assert plain.SerializeToString() == before


# Q/DQ graphs


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("origin", "method"),
    [*[("dskd", method) for method in METHODS], *[(name, "minmax") for name in FAMILY if name != "dskd"]],
    indirect=["origin"], scope="module",
)  # fmt: skip
def test_quantised_graphs_say_nearly_the_same(
    model: onnx.ModelProto, inputs: NDArray[np.uint8], histograms: dict[str, Histogram], target: Target, method: Method
) -> None:
    quantised = quantise(without_transposed(model), histograms, method, target)
    _, anomaly_map = answers(quantised, inputs)
    _, expected = answers(model, inputs)
    assert np.corrcoef(anomaly_map.ravel(), expected.ravel())[0, 1] > 0.8


@every_method
def test_the_graph_for_tensorrt_holds_what_its_parser_takes(
    model: onnx.ModelProto, histograms: dict[str, Histogram]
) -> None:
    quantised = quantise(without_transposed(model), histograms, "minmax", "tensorrt")
    constants = constants_of(quantised)
    pairs = [node for node in quantised.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero = numpy_helper.to_array(constants[node.input[2]])
        assert zero.dtype == np.int8
        assert not zero.any()
    producer = {output: node for node in quantised.graph.node for output in node.output}
    features = set(feature_names(model))
    for node in quantised.graph.node:
        if node.op_type == "Add" and node.name.startswith(TRUNK):
            kinds = sorted(producer[name].op_type for name in node.input if name in producer)
            assert kinds != ["DequantizeLinear", "DequantizeLinear"], node.name
        if node.name.startswith(HEAD):
            assert "DequantizeLinear" not in {producer[name].op_type for name in node.input if name in producer}

    rounded = set(in_eight_bits(quantised))
    plain = without_transposed(model)
    first = reading_picture(plain)  # stays in half precision
    assert "/path/teacher/conv1/Conv" in first
    assert {name for name in quantisable(plain) if name.endswith("Conv")} - rounded == first
    assert features


def test_a_dead_channel_keeps_a_positive_scale(model: onnx.ModelProto, histograms: dict[str, Histogram]) -> None:
    """Its weights are rounding dust, as in ImageNet's ResNet18; their scale must not vanish in half precision."""
    dusty = without_transposed(model)
    weight = next(t for t in dusty.graph.initializer if t.name == "path.teacher.conv1.weight")
    values = numpy_helper.to_array(weight).copy()
    values[0] = 1e-12
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    quantised = quantise(dusty, histograms, "minmax", "tensorrt")
    constants = constants_of(quantised)
    scales = [constants[node.input[1]] for node in quantised.graph.node if node.op_type == "DequantizeLinear"]
    assert all((numpy_helper.to_array(scale) > 0).all() for scale in scales)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("excluded", "still_rounded"), [("layer2.0/conv1/Conv", True), ("layer1.0/conv1/Conv", False)])
def test_excluded_layers_read_what_was_not_rounded(
    model: onnx.ModelProto, histograms: dict[str, Histogram], target: Target, excluded: str, still_rounded: bool
) -> None:
    """layer2.0's shortcut reads the same tensor in eight bits, and the quantiser would hand its rounded form to both;
    layer1.0's sum is all that is left to round the tensor for, and that spares nothing.
    """
    plain = without_transposed(model)
    layer = next(node for node in plain.graph.node if node.name.endswith(excluded))
    for names in ([], [layer.name]):
        quantised = quantise(plain, histograms, "minmax", target, names)
        producer = {output: node.op_type for node in quantised.graph.node for output in node.output}
        found = next(node for node in quantised.graph.node if node.name == layer.name)
        rounded = {node.input[0] for node in quantised.graph.node if node.op_type == "QuantizeLinear"}
        assert (producer[found.input[0]] == "DequantizeLinear") == (not names)
        assert (layer.name in in_eight_bits(quantised)) == (not names)
        assert (layer.input[0] in rounded) == (not names or still_rounded)


def test_sensitivity_ranks_a_layer_that_cannot_be_rounded_first(
    model: onnx.ModelProto, inputs: NDArray[np.uint8], histograms: dict[str, Histogram]
) -> None:
    plain = without_transposed(model)
    ruined = dict(histograms)
    victim = next(n for n in plain.graph.node if n.name.endswith("layer2.1/conv1/Conv"))
    ruined[victim.input[0]] = histogram_of(np.array([1e6], np.float32))  # everything real falls into one level
    before = plain.SerializeToString()
    found = sensitivity(plain, ruined, "minmax", inputs[:2])
    assert next(iter(found)) == victim.name
    assert plain.SerializeToString() == before
    assert list(found.values()) == sorted(found.values(), reverse=True)


# Choosing images


def test_k_centre_takes_the_odd_ones_first() -> None:
    features = np.zeros((50, 3), np.float32)
    features[7], features[31] = [10, 0, 0], [0, 9, 0]
    chosen = k_centre(features + np.random.default_rng(0).normal(0, 0.01, features.shape).astype(np.float32), 4)
    assert {7, 31} <= set(chosen)
    assert len(set(chosen)) == 4


# Test pictures


def test_a_graph_is_judged_once_for_the_same_test_pictures(bundle: Bundle, small_set: Path, tmp_path: Path) -> None:
    labelled = Labelled(find_images(small_set).test, bundle.manifest.input)
    first = judge_all(bundle, labelled, tmp_path)
    maps = answer_files(bundle, "model.onnx", labelled.paths, "")
    masks = np.stack(list(labelled.masks()))
    assert first["model.onnx"].scores == [float(score) for score in maps.scores]
    assert first["model.onnx"].figures == {
        "image_auroc": metrics.auroc(labelled.defective, maps.scores),
        "pixel_auroc": metrics.auroc(masks.ravel(), maps.maps.ravel()),
        "pro": metrics.pro(masks, maps.maps),
    }
    file = tmp_path / judged.CACHE
    kept = json.loads(file.read_text())
    for told in kept.values():
        told["figures"]["pro"] = -1.0
    file.write_text(json.dumps(kept))
    assert {found.figures["pro"] for found in judge_all(bundle, labelled, tmp_path).values()} == {-1.0}
    fewer = Labelled(labelled.items[1:], labelled.spec)
    assert len(judge_all(bundle, fewer, tmp_path)["model.onnx"].scores) == len(fewer.items)
    for damaged in ("{", "[]", '{"a": {"scores": 1}}'):
        file.write_text(damaged)
        assert judge_all(bundle, labelled, tmp_path) == first


# The command


@pytest.fixture(scope="module")
def calibrated(
    trained_run: TrainedRun, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, command: Command
) -> Path:
    """A bundle that the command calibrated, with pictures named by option (the small run has too few of its own)."""
    folder = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(bundle.path, folder / "bundle")
    good = folder / "good"
    good.mkdir()
    for k, name in enumerate(trained_run.record["training"] + trained_run.record["held_out"]):  # type: ignore[operator]
        for copy in range(2):
            shutil.copy(name, good / f"{k}_{copy}.png")
    done = command(
        "calibration", "--bundle", folder / "bundle", "--images", good, "--held-out", good, "--labelled",
        trained_run.record["data"], "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {row["graph"] for row in report["rows"]} == {
        "model.onnx", "model.onnx@bf16", "model.fp16.onnx", "model.int8.onnx", "model.int8.cpu.onnx"
    }  # fmt: skip
    assert {"image_auroc", "pixel_auroc", "pro"} == set(report["rows"][0]["labelled"])
    assert 50 < report["peak_memory_mb"] < 1000
    return folder


def test_a_calibrated_bundle_loads_with_thresholds_for_each_precision(calibrated: Path) -> None:
    bundle = load_bundle(calibrated / "bundle")
    thresholds = {name: graph.thresholds.reject.score for name, graph in bundle.manifest.graphs.items()}
    assert len(set(thresholds.values())) == 5
    for precision in ("fp32", "fp16", "int8"):
        backend = open_backend(bundle, "onnxruntime", precision=precision)  # type: ignore[arg-type]
        golden_check(bundle, backend)
        backend.close()
    for name in ("report.json", "report.md", "report.html", "observed.json", "images.json"):
        assert f"calibration/{name}" in bundle.manifest.files
    hashes = json.loads((calibrated / "bundle" / "calibration" / "images.json").read_text())
    path, expected = next(iter(hashes.items()))
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == expected


def test_a_rerun_from_the_cache_is_bit_identical(calibrated: Path, command: Command, tmp_path: Path) -> None:
    shutil.copytree(calibrated / "bundle", tmp_path / "bundle")
    arguments = ("--images", calibrated / "good", "--held-out", calibrated / "good")
    done = command("calibration", "--bundle", tmp_path / "bundle", *arguments)
    assert done.returncode == 0, done.stderr
    for name in ("model.int8.onnx", "model.int8.cpu.onnx", "calibration/observed.json"):
        assert (tmp_path / "bundle" / name).read_bytes() == (calibrated / "bundle" / name).read_bytes(), name


@pytest.mark.slow
def test_256_images_are_calibrated_in_less_than_a_gigabyte(bundle: Bundle, tmp_path: Path, command: Command) -> None:
    """Networks of the size that ships; smaller pictures spare time, and it is copies of the graph that fill memory."""
    shutil.copytree(bundle.path, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "model.onnx").stat().st_size > 70e6
    rng = np.random.default_rng(0)
    for folder, count in (("good", 256), ("held_out", 8)):
        (tmp_path / folder).mkdir()
        for k in range(count):
            write_image(tmp_path / folder / f"{k}.png", rng.integers(0, 256, (24, 32, 3), np.uint8))
    done = command(
        "calibration", "--bundle", tmp_path / "bundle", "--images", tmp_path / "good", "--held-out",
        tmp_path / "held_out", "--target", "tensorrt", "--json", timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["images"] == "256 of 256"
    assert 100 < told["peak_memory_mb"] < 1000


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--count", "0"], 2, "--count must be at least 1"),
        (["--exclude", "nonsense"], 2, "no layer's name holds it"),
        (["--images", "nowhere"], 2, "nowhere is not a folder"),
        (["--tolerance", "-1"], 2, "--tolerance over 0"),
        (["--method", "guess"], 2, "invalid choice"),
    ],
)
def test_a_wrong_call_is_one_line(
    calibrated: Path, command: Command, options: list[str], code: int, message: str
) -> None:
    good = ["--images", calibrated / "good"] if "--images" not in options else []
    done = command("calibration", "--bundle", calibrated / "bundle", "--held-out", calibrated / "good", *good, *options)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_too_few_images_are_refused_and_the_bundle_stays(calibrated: Path, command: Command, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((calibrated / "good").iterdir())[: FEWEST - 1]:
        shutil.copy(path, few)
    before = load_bundle(calibrated / "bundle").id
    done = command("calibration", "--bundle", calibrated / "bundle", "--images", few, "--held-out", few)
    assert done.returncode == 1
    assert f"only {FEWEST - 1} usable images" in done.stderr
    assert load_bundle(calibrated / "bundle").id == before


def test_verify_says_how_far_each_precision_is(calibrated: Path, trained_run: TrainedRun, command: Command) -> None:
    done = command(
        "export.verify", "--bundle", calibrated / "bundle", "--run", trained_run.folder, "--images", 4, "--json"
    )
    assert done.returncode == 0, done.stderr
    lower = [pair for pair in json.loads(done.stdout)["pairs"] if pair["from"] == "onnx"]
    assert [pair["to"] for pair in lower] == ["bf16", "fp16", "int8", "int8.cpu"]
    _, half, *eight_bits = (pair["max_abs_diff_map"] for pair in lower)
    assert 0 < half < min(eight_bits)


def test_without_the_run_pictures_must_be_named(calibrated: Path, command: Command) -> None:
    done = command("calibration", "--bundle", calibrated / "bundle")
    assert done.returncode == 2
    assert "name good ones with --images" in done.stderr
