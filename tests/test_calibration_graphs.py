"""Half floats, rewritten layers and Q/DQ graphs, on a real exported graph of every method."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorrt_rtx
from conftest import MEMBERS, Member
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dskd.calibration.equalise import equalise, largest_of_channels
from dskd.calibration.quantise import (
    CUT,
    TARGETS,
    Target,
    in_eight_bits,
    observed_tensors,
    quantisable,
    quantise,
    reading_picture,
)
from dskd.calibration.ranges import (
    METHODS,
    Histogram,
    Method,
    observe,
)
from dskd.calibration.sensitivity import sensitivity
from dskd.export.engine_build import BuildOptions, build_engine
from dskd.export.graph.form_parts import NAMES, joined, joined_form, part_file
from dskd.export.graph.half import KEPT, to_half
from dskd.export.graph.half_head import head_in_half
from dskd.export.graph.parts import HEAD, TRUNK, constants_of, feature_names, names_of
from dskd.export.graph.transposed import rewrite_transposed
from dskd.export.graph.variants import FORMS, write_forms
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.golden import LIMITS, disagreement


def without_transposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every transposed convolution can be quantised, as a calibration sees it."""
    rewritten = copy.deepcopy(model)
    rewrite_transposed(rewritten)
    return rewritten


@pytest.fixture(scope="module")
def origin(request: pytest.FixtureRequest, bundle: Bundle, members: Callable[[str], Member]) -> Bundle:
    """The bundle that a test works on: DSKD's, or that of the method it asks for."""
    return members(request.param).bundle if hasattr(request, "param") else bundle


every_method = pytest.mark.parametrize("origin", MEMBERS, indirect=True, scope="module")


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
        power = int(np.log2(60000 / max(histogram[name].high, 1e-6)))  # of two: rounding a factor is not what is tested
        for node in pushed.graph.node:
            if node.name.startswith(HEAD):
                node.input[:] = [f"{name}_1" if given_name == name else given_name for given_name in node.input]
        at = next(k for k, node in enumerate(pushed.graph.node) if name in node.output) + 1
        for k, (source, share) in enumerate(
            ((name, power // 2), (f"{name}_0", power - power // 2))
        ):  # one may not be a half
            factor = numpy_helper.from_array(np.float32(2.0**share), f"{name}_factor_{k}")
            push = helper.make_node("Mul", [source, factor.name], [f"{name}_{k}"], name=f"{TRUNK}push/{name}_{k}")
            pushed.graph.initializer.append(factor)
            pushed.graph.node.insert(at + k, push)
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
    cut = any(node.op_type == "Clip" and node.name.startswith(TRUNK) for node in plain.graph.node)
    assert len(changed) > len(before) / (6 if cut else 3)  # fewer where ReLU6, the head or an injection reads many
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


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("origin", "method"),
    [
        *[("dskd", method) for method in METHODS],
        *[pytest.param(*each.values, "minmax", marks=each.marks) for each in MEMBERS if each.values != ("dskd",)],
    ],
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
def test_the_graph_for_a_cpu_cuts_off_by_rounding(model: onnx.ModelProto, histograms: dict[str, Histogram]) -> None:
    """What goes into an activation has the step and zero of what comes out, so that engines leave the activation out."""
    quantised = quantise(without_transposed(model), histograms, "minmax", "cpu")
    constants = constants_of(quantised)
    producer = {output: node for node in quantised.graph.node for output in node.output}

    def rounded(node: onnx.NodeProto) -> list[float]:
        return [float(numpy_helper.to_array(constants[name])) for name in node.input[1:3]]

    pairs = [
        (rounded(producer[node.input[0]]), rounded(reader))
        for node in quantised.graph.node
        if node.op_type in CUT and node.name.startswith(TRUNK) and node.input[0] in producer
        if producer[node.input[0]].op_type == "DequantizeLinear"
        for reader in quantised.graph.node
        if reader.op_type == "QuantizeLinear" and reader.input[0] == node.output[0]
    ]
    assert len(pairs) > 8
    assert all(before == after and before[1] == 0 for before, after in pairs)


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
    assert first.intersection(("/path/teacher/conv1/Conv", "/path/teacher/_conv_stem/Conv"))
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


@pytest.mark.thorough
@pytest.mark.parametrize("origin", ["dskd, slim"], indirect=True, scope="module")  # a session for each layer
def test_sensitivity_ranks_a_layer_that_cannot_be_rounded_first(
    model: onnx.ModelProto, inputs: NDArray[np.uint8], histograms: dict[str, Histogram]
) -> None:
    plain = without_transposed(model)
    ruined = dict(histograms)
    victim = next(n for n in plain.graph.node if n.name.endswith("layer2.1/conv1/Conv"))
    ruined[victim.input[0]] = Histogram.empty()
    ruined[victim.input[0]].add(np.array([1e6], np.float32))  # everything real falls into one level
    before = plain.SerializeToString()
    found = sensitivity(plain, ruined, "minmax", inputs[:2])
    assert next(iter(found)) == victim.name
    assert plain.SerializeToString() == before
    assert list(found.values()) == sorted(found.values(), reverse=True)


# Other forms for builders that fail on the usual one


@pytest.fixture(scope="module")
def for_tensorrt(model: onnx.ModelProto, histograms: dict[str, Histogram]) -> onnx.ModelProto:
    return quantise(without_transposed(model), histograms, "minmax", "tensorrt")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_int8_graph_says_the_same(
    for_tensorrt: onnx.ModelProto, inputs: NDArray[np.uint8], form: str
) -> None:
    changed = FORMS[form](for_tensorrt)
    scores, maps = answers(for_tensorrt, inputs)
    assert disagreement(*answers(changed, inputs), scores, maps, LIMITS["int8"]) == ""
    kinds = {node.op_type for node in changed.graph.node}
    assert ("DepthToSpace" in kinds) == ("transposed" not in form)
    assert ("ConvTranspose" in kinds) == ("transposed" in form)
    scales = [constants_of(changed)[n.input[1]] for n in changed.graph.node if n.op_type.endswith("eLinear")]
    wanted = TensorProto.FLOAT if "float32" in form else TensorProto.FLOAT16
    assert {scale.data_type for scale in scales} == {wanted}


def test_transposed_convolutions_in_half_are_exact(for_tensorrt: onnx.ModelProto, inputs: NDArray[np.uint8]) -> None:
    changed = FORMS["transposed convolutions in half"](for_tensorrt)
    assert relative(answers(changed, inputs[:2])[1], answers(for_tensorrt, inputs[:2])[1]) < 1e-3


@pytest.mark.thorough
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("origin", ["dskd", "dskd, lite"], indirect=True, scope="module")
def test_tensorrt_builds_every_form(for_tensorrt: onnx.ModelProto, form: str, tmp_path: Path) -> None:
    onnx.save(FORMS[form](for_tensorrt), tmp_path / "form.onnx")
    assert build_engine(tensorrt_rtx, tmp_path / "form.onnx", BuildOptions((1, 1, 4))).plan


def test_forms_in_a_bundle_are_joined_without_onnx(
    for_tensorrt: onnx.ModelProto, inputs: NDArray[np.uint8], tmp_path: Path
) -> None:
    onnx.save(for_tensorrt, tmp_path / "model.int8.onnx")
    write_forms(tmp_path, "model.int8.onnx")
    usual = (tmp_path / "model.int8.onnx").read_bytes()
    for form, change in FORMS.items():
        part = (tmp_path / part_file(form)).read_bytes()
        assert len(part) < len(usual) / 2
        made, expected = onnx.load_from_string(joined(part, usual)), change(for_tensorrt)
        onnx.checker.check_model(made, full_check=True)
        assert list(made.graph.node) == list(expected.graph.node)
        assert constants_of(made) == constants_of(expected)
    np.testing.assert_array_equal(answers(made, inputs[:1])[1], answers(expected, inputs[:1])[1])
    with pytest.raises(ValueError, match="longer than the file"):
        joined(part[:-3], usual)


def test_a_form_that_was_damaged_is_refused_in_one_line(tmp_path: Path) -> None:
    names = {part_file(NAMES[0]): "", "model.int8.onnx": ""}
    damaged: Any = SimpleNamespace(manifest=SimpleNamespace(files=names), file=tmp_path.joinpath)
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff" * 20)
    with pytest.raises(DskdError, match=r"0\.part: is no part of an ONNX graph \(a number does not end\); calibrate"):
        joined_form(damaged, "model.int8.onnx", NAMES[0])
    assert joined_form(damaged, "model.int8.onnx", NAMES[1]) is None  # a bundle of before


def test_the_heads_constants_in_half_are_within_the_golden_bound(
    model: onnx.ModelProto, inputs: NDArray[np.uint8]
) -> None:
    """By onnxruntime, which sums in float32."""
    half = to_half(model)
    changed = head_in_half(half)
    scores, maps = answers(half, inputs)
    assert disagreement(*answers(changed, inputs), scores, maps, LIMITS["fp16"]) == ""
    sizes = [sum(numpy_helper.to_array(t).nbytes for t in one.graph.initializer) for one in (half, changed)]
    products = [n for n in changed.graph.node if n.op_type == "MatMul" and n.output[0].endswith("_half")]
    assert products
    spared = sum(numpy_helper.to_array(constants_of(changed)[n.input[1]]).nbytes for n in products)
    assert sizes[0] - sizes[1] == spared  # as much as they take now
