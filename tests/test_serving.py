"""What Triton and DeepStream are given: Triton's own protobuf reads it, onnxruntime runs it, an INI reader finds the keys."""

from __future__ import annotations

import importlib.util
import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from engine_graphs import bundle_in_all_precisions

from dskd.export.graph.float_input import with_float_input
from dskd.export.serving import main
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import CallError, MissingPart
from dskd.runtime.inspection.engine import GRAPHS, engine_paths


@pytest.fixture(scope="module")
def every(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_in_all_precisions(bundle, tmp_path_factory.mktemp("serving") / "bundle")


def read_config(text: str) -> dict[str, Any]:
    """The few forms of protobuf's text that are written here: name: value, name { }, name [ { }, { } ]."""
    tokens = re.findall(r'"[^"]*"|[{}\[\],:]|[^\s{}\[\],:]+', re.sub(r"#.*", "", text))

    def fields() -> dict[str, Any]:
        found: dict[str, Any] = {}
        while tokens and tokens[0] != "}":
            if tokens[0] == ",":
                tokens.pop(0)
                continue
            name = tokens.pop(0)
            if tokens[0] == ":":
                tokens.pop(0)
            found[name] = value()
        return found

    def value() -> Any:
        token = tokens.pop(0)
        if token == "{":
            found = fields()
            assert tokens.pop(0) == "}"
            return found
        if token == "[":
            items = []
            while tokens[0] != "]":
                if tokens[0] == ",":
                    tokens.pop(0)
                else:
                    items.append(value())
            tokens.pop(0)
            return items
        return token.strip('"')

    return fields()


def test_tritons_repository_says_what_the_graph_is(every: Bundle, tmp_path: Path) -> None:
    assert main(["--bundle", str(every.path), "--triton", str(tmp_path), "--precision", "fp16"]) == 0
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert (folder / "1/model.onnx").read_bytes() == every.file("model.fp16.onnx").read_bytes()
    config = read_config((folder / "config.pbtxt").read_text())
    spec, graph = every.manifest.input, onnx.load(folder / "1/model.onnx").graph
    assert (config["name"], config["platform"]) == (folder.name, "onnxruntime_onnx")
    assert config["max_batch_size"] == str(every.manifest.max_batch)
    (image,) = config["input"]
    assert (image["name"], image["data_type"]) == (graph.input[0].name, "TYPE_UINT8")
    assert image["dims"] == [str(spec.height), str(spec.width), "3"]
    assert [output["name"] for output in config["output"]] == [output.name for output in graph.output]
    assert (config["output"][0]["dims"], config["output"][0]["reshape"]) == (["1"], {"shape": []})
    assert config["output"][1]["dims"] == [str(spec.height), str(spec.width)]


def test_tritons_own_protobuf_takes_it(every: Bundle, tmp_path: Path) -> None:
    package = importlib.util.find_spec("tritonclient")
    text_format = pytest.importorskip("google.protobuf.text_format")
    if package is None or package.submodule_search_locations is None:
        pytest.skip("tritonclient is not installed")
    file = Path(package.submodule_search_locations[0]) / "grpc/model_config_pb2.py"  # alone: grpc itself is not needed
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None
    assert spec.loader is not None
    protobuf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(protobuf)
    main(["--bundle", str(every.path), "--triton", str(tmp_path)])
    config = text_format.Parse(next(tmp_path.glob("*/config.pbtxt")).read_text(), protobuf.ModelConfig())
    assert protobuf.DataType.Name(config.input[0].data_type) == "TYPE_UINT8"
    assert (list(config.output[0].dims), list(config.output[0].reshape.shape)) == ([1], [])
    assert config.output[0].HasField("reshape")
    assert config.HasField("dynamic_batching")


def test_a_plan_replaces_the_graph(every: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--bundle", str(every.path), "--triton", str(tmp_path), "--precision", "fp16"]
    with pytest.raises(MissingPart, match=r"there is no engine; build it: dskd export.trt --fp16"):
        main([*words, "--plan"])
    main(words)
    plan, _ = engine_paths(every, "fp16")
    plan.parent.mkdir()
    plan.write_bytes(b"plan")
    monkeypatch.setattr("dskd.export.serving.read_facts", lambda file: type("Facts", (), {"batch": (1, 1, 2)}))
    main([*words, "--plan"])
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert [file.name for file in (folder / "1").iterdir()] == ["model.plan"]
    config = read_config((folder / "config.pbtxt").read_text())
    assert (config["platform"], config["max_batch_size"]) == ("tensorrt_plan", "2")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_graph_with_a_float_input_says_exactly_the_same(bundle: Bundle, every: Bundle, precision: str) -> None:
    model = onnx.load((every if precision == "int8" else bundle).file(GRAPHS[precision]))  # type: ignore[index]
    inputs = every.golden().inputs[:2]

    def run(graph: onnx.ModelProto, images: Any) -> list[Any]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(None, {"image": images}))

    planes = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)).astype(np.float32)
    for expected, found in zip(run(model, inputs), run(with_float_input(model), planes), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_nvinfers_keys_are_those_of_the_graph(bundle: Bundle, tmp_path: Path) -> None:
    assert main(["--bundle", str(bundle.path), "--deepstream", str(tmp_path / "ds"), "--precision", "fp16"]) == 0
    reader = ConfigParser()
    reader.read(tmp_path / "ds/nvinfer.txt")
    keys, spec = reader["property"], bundle.manifest.input
    graph = onnx.load(tmp_path / "ds" / keys["onnx-file"]).graph
    shape = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim[1:]]
    assert keys["infer-dims"] == ";".join(map(str, shape)) == f"3;{spec.height};{spec.width}"
    assert keys["output-blob-names"].split(";") == [output.name for output in graph.output]
    assert (keys["network-type"], keys["output-tensor-meta"], keys["network-mode"]) == ("100", "1", "2")
    assert (keys["model-color-format"], keys["net-scale-factor"], keys["maintain-aspect-ratio"]) == ("1", "1.0", "0")


@pytest.mark.parametrize(
    ("words", "said"), [([], "choose --triton"), (["--deepstream", "x", "--plan"], "--plan goes with --triton")]
)
def test_a_wrong_call(words: list[str], said: str) -> None:
    with pytest.raises(CallError, match=said):
        main(words)
