"""Every TensorRT name that the code touches exists in the real bindings of each version, or is asked for first.

The bindings' wheels are small and hold the whole Python API. The libraries that they load, gigabytes that only NVIDIA's
own index has, are stood in for by files whose functions return 0.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from stub_library import write_stub_library

WHEELS = {
    "8.6.1": "tensorrt-bindings",
    "10.3.0": "tensorrt-cu12-bindings",  # JetPack 6.1 and 6.2
    "10.16.1.11": "tensorrt-cu12-bindings",  # JetPack 7.2
    "11.4.0.106": "tensorrt-cu13-bindings",
}
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")
FUNCTIONS = [
    "createInferBuilder_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "getNvOnnxParserVersion",
    "initLibNvInferPlugins",
    "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN11nvuffparser15createUffParserEv",
]

# the class behind a variable's name, and the files where it has that meaning
CLASSES = {
    "builder": "Builder", "config": "IBuilderConfig", "network": "INetworkDefinition", "parser": "OnnxParser",
    "profile": "IOptimizationProfile", "layer": "ILayer", "tensor": "ITensor", "error": "ParserError",
    "cache": "ITimingCache", "runtime": "Runtime", "engine": "ICudaEngine", "inspector": "EngineInspector",
    "context": "IExecutionContext",
}  # fmt: skip
VARIABLES = {
    "export/engine_build.py": "builder config network parser profile tensor cache",
    "export/engine_errors.py": "parser error",
    "export/engine_profile.py": "context",
    "export/weak_typing.py": "network config layer tensor",
    "export/layer_report.py": "network config layer tensor engine inspector",
    "export/build_progress.py": "config",
    "export/engine_install.py": "",
    "export/engine_attempts.py": "",
    "export/implicit_int8.py": "",
    "export/trt.py": "",
    "runtime/inspection/backends/tensorrt.py": "",
    "runtime/inspection/backends/tensorrt_engine.py": "runtime engine context",
}
OLD, MIDDLE, NEW = ["8.6.1"], ["10.3.0", "10.16.1.11"], ["11.4.0.106"]
WEAK = "hasattr(trt.BuilderFlag, 'FP16')"
# names that some version lacks: where they exist, and the question that must be asked before they are touched
GUARDED = {
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": (
        [*OLD, *MIDDLE],
        "hasattr(trt.NetworkDefinitionCreationFlag, 'EXPLICIT_BATCH')",
    ),
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": (
        [*MIDDLE, *NEW],
        "hasattr(trt.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED')",
    ),
    "IProgressMonitor": ([*MIDDLE, *NEW], "hasattr(trt, 'IProgressMonitor')"),
    "IProgressMonitor.__init__": ([*MIDDLE, *NEW], "hasattr(trt, 'IProgressMonitor')"),
    "IBuilderConfig.progress_monitor": ([*MIDDLE, *NEW], "hasattr(trt, 'IProgressMonitor')"),
    "ParserError.node_operator": ([*MIDDLE, *NEW], "hasattr(error, 'node_operator')"),
    "ParserError.node_name": ([*MIDDLE, *NEW], "hasattr(error, 'node_name')"),
    "OnnxParserFlag.ADJUST_FOR_DLA": (
        [MIDDLE[1], *NEW],
        "hasattr(getattr(trt, 'OnnxParserFlag', None), 'ADJUST_FOR_DLA')",
    ),
    "BuilderFlag.FP16": ([*OLD, *MIDDLE], WEAK),
    "BuilderFlag.INT8": ([*OLD, *MIDDLE], WEAK),
    "IBuilderConfig.int8_calibrator": ([*OLD, *MIDDLE], "getattr(trt, CALIBRATORS[method], None)"),
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": ([*OLD, *MIDDLE], WEAK),
    "ILayer.precision": ([*OLD, *MIDDLE], WEAK),
    "ILayer.set_output_type": ([*OLD, *MIDDLE], WEAK),
    "ICudaEngine.device_memory_size": ([*OLD, *MIDDLE], "hasattr(self._engine, 'device_memory_size_v2')"),
    "ICudaEngine.device_memory_size_v2": ([*MIDDLE, *NEW], "hasattr(self._engine, 'device_memory_size_v2')"),
    "ICudaEngine.create_execution_context_without_device_memory": (
        [*OLD, *MIDDLE],
        "getattr(self._trt, 'ExecutionContextAllocationStrategy', None)",
    ),
    "IExecutionContext.set_device_memory": ([*MIDDLE, *NEW], "hasattr(context, 'set_device_memory')"),
}
PROBE = """
import json, sys
import tensorrt_bindings as trt
def exists(name):
    found = trt
    for part in name.split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True
print(json.dumps([name for name in json.load(sys.stdin) if not exists(name)]))
"""
DERIVED = """
from pathlib import Path
import tensorrt_bindings as trt
from dskd.export.build_progress import Fraction, _monitor
from dskd.export.engine_build import BuildOptions, build_engine
from dskd.export.engine_errors import BuildLog, collecting_logger
from dskd.runtime.errors import MissingPart
log = BuildLog()
logger = collecting_logger(trt, log)
logger.log(trt.ILogger.Severity.ERROR, "bad")
logger.log(trt.ILogger.Severity.INFO, "fine")
assert (log.errors, log.warnings) == (["bad"], [])
if hasattr(trt, "IProgressMonitor"):
    interrupted, seen = [], []
    monitor = _monitor(trt, Fraction(), seen.append, lambda: bool(interrupted))
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0) is True and seen == [0.5]
    interrupted.append(True)
    assert monitor.step_complete("build", 1) is False
try:
    build_engine(trt, Path("no.onnx"), BuildOptions((1, 1, 1)))
except MissingPart as error:  # the library's factory gave nothing, as it does without a driver
    print(error)
"""

CALIBRATORS = """
import sys
from pathlib import Path
import numpy as np
import tensorrt_bindings as trt
from dskd.export.implicit_int8 import CALIBRATORS, make_calibrator
from dskd.runtime.errors import DskdError, MissingPart
from tensorrt_fakes import FakeMemory
pictures = np.random.default_rng(0).integers(0, 256, (5, 2, 3, 3), np.uint8)
for method, name in CALIBRATORS.items():
    memory, cache = FakeMemory(), Path(sys.argv[1]) / method
    def calibrator():
        with memory.active():
            return make_calibrator(trt, method, (pictures[k : k + 2] for k in (0, 2, 4)), memory, cache)
    try:
        first = calibrator()
    except MissingPart as error:
        print(error)
        continue
    assert isinstance(first, getattr(trt, name)) and first.get_batch_size() == 2
    assert first.read_calibration_cache() is None
    for k in (0, 2):
        (address,) = first.get_batch(["image"])
        assert (memory.at(address, (2, 2, 3, 3), np.uint8) == pictures[k : k + 2]).all()
    assert first.get_batch(["image"]) is None  # the last batch is short
    first.write_calibration_cache(memoryview(b"TRT-1-Calibration"))
    assert calibrator().read_calibration_cache() == b"TRT-1-Calibration"
    print(method)
    try:
        make_calibrator(trt, method, iter(()), memory, cache)
    except DskdError as error:
        assert "no picture" in str(error)
"""


class Touched(ast.NodeVisitor):
    """Collects what a file takes of the module ``trt``, of variables that hold parts of it, and of its objects."""

    def __init__(self, variables: str) -> None:
        self.prefixes = {"trt": "", **{name: f"{CLASSES[name]}." for name in variables.split()}}
        self.names: set[str] = set()

    def dotted(self, node: ast.AST) -> str:
        """``trt.A.B`` as "A.B", ``builder.x`` and ``self._builder.x`` as "Builder.x"; empty where it is neither."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            names.insert(0, node.id)
        if names[:1] == ["self"]:
            names.pop(0)
        first = names[0].lstrip("_") if names else ""
        if first not in self.prefixes or len(names) < 2:
            return ""
        is_object = first in CLASSES  # what its attributes hold in turn is another class's
        return self.prefixes[first] + ".".join(names[1:2] if is_object else names[1:])

    def visit_Assign(self, node: ast.Assign) -> None:
        """``mode = trt.TensorIOMode``, also several at once: the variable stands for that part from here on."""
        targets, values = node.targets[0], node.value
        if isinstance(targets, ast.Name):
            pairs = [(targets, values)]
        else:
            pairs = list(zip(getattr(targets, "elts", []), getattr(values, "elts", []), strict=False))
        for target, value in pairs:
            if isinstance(target, ast.Name) and (name := self.dotted(value)) and name[0].isupper():
                self.prefixes[target.id] = f"{name}."
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Any use of a name."""
        if (name := self.dotted(node)) and "__version__" not in name:
            self.names.add(name)
        self.generic_visit(node)


def touched() -> set[str]:
    """Names of TensorRT that the code takes an attribute of."""
    names = set()
    for file, variables in VARIABLES.items():
        visitor = Touched(variables)
        visitor.visit(ast.parse((ROOT / file).read_text()))
        names |= visitor.names
    return names


def questions() -> str:
    """Every question of those files whether something is there, as Python writes it."""
    nodes = (node for file in VARIABLES for node in ast.walk(ast.parse((ROOT / file).read_text())))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    return "\n".join(ast.unparse(call) for call in calls if ast.unparse(call.func) in ("hasattr", "getattr"))


@pytest.fixture(scope="session")
def bindings(request: pytest.FixtureRequest) -> Path:
    """A folder with the unpacked bindings of each version and the libraries they ask for. Fails without an index."""
    folder = request.config.cache.mkdir(f"trt_bindings_{sys.version_info.major}{sys.version_info.minor}")
    for major in (8, 10, 11):
        for name in LIBRARIES:
            write_stub_library(folder / f"lib{name}.so.{major}", FUNCTIONS)
    for version, wheel in WHEELS.items():
        if (folder / version).is_dir() or not published(version):
            continue
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--only-binary", ":all:", "--dest", folder, f"{wheel}=={version}"], check=True)
        with zipfile.ZipFile(next(folder.glob(f"{wheel.replace('-', '_')}-{version}-*.whl"))) as archive:
            archive.extractall(folder / f"{version}.part")
        os.rename(folder / f"{version}.part", folder / version)
    return folder


def published(version: str) -> bool:
    return version != "8.6.1" or sys.version_info < (3, 12)


def run(bindings: Path, version: str, script: str, text: str = "", argument: str = "") -> str:
    if not published(version):
        pytest.skip(f"NVIDIA made no bindings of TensorRT {version} for this Python")
    places = [str(bindings / version), str(ROOT), str(ROOT / "tests")]
    paths = {"LD_LIBRARY_PATH": str(bindings), "PYTHONPATH": os.pathsep.join(places)}
    words = [sys.executable, "-c", script, argument]
    done = subprocess.run(
        words, input=text, env={**os.environ, **paths}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("version", WHEELS)
def test_what_the_code_touches_exists_or_is_guarded(bindings: Path, version: str) -> None:
    missing = json.loads(run(bindings, version, PROBE, json.dumps(sorted(touched()))))
    assert missing == sorted(name for name, (where, _) in GUARDED.items() if version not in where)


def test_every_guarded_name_is_touched_and_asked_for() -> None:
    assert set(GUARDED) <= touched()
    asked = questions()
    assert [name for name, (_, question) in GUARDED.items() if question not in asked] == []


def test_no_file_that_uses_tensorrt_is_left_out() -> None:
    rooms = [*(ROOT / "export").glob("*.py"), *(ROOT / "runtime").rglob("*.py")]
    users = {str(file.relative_to(ROOT)) for file in rooms if re.search(r"\btrt\b[.,:]", file.read_text())}
    assert users - {"runtime/dskd.py", "runtime/inspection/engine.py"} <= set(VARIABLES)


def test_the_walk_finds_names_of_every_kind() -> None:
    source = "mode, kind = self._trt.TensorIOMode, trt.DataType\nmode.INPUT\nself._engine.num_io_tensors\ntrt.A.B()"
    visitor = Touched("engine")
    visitor.visit(ast.parse(source))
    expected = {"TensorIOMode", "DataType", "TensorIOMode.INPUT", "ICudaEngine.num_io_tensors", "A", "A.B"}
    assert visitor.names == expected
    assert len(touched()) > 60


@pytest.mark.parametrize("version", WHEELS)
def test_logger_monitor_and_a_builder_that_cannot_start(bindings: Path, version: str) -> None:
    said = run(bindings, version, DERIVED)
    assert said.startswith(f"TensorRT {version} does not start")


@pytest.mark.parametrize("version", WHEELS)
def test_calibrators_feed_pictures_and_keep_their_cache(bindings: Path, version: str, tmp_path: Path) -> None:
    said = run(bindings, version, CALIBRATORS, argument=str(tmp_path)).splitlines()
    if version in NEW:
        assert len(said) == 2
        assert all("model.int8.onnx needs none" in line for line in said)
    else:
        assert said == ["entropy", "minmax"]
