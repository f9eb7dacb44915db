"""The engine builder with TensorRT-RTX, which really parses and builds without a GPU; fakes where a device is needed."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import tensorrt_rtx
from conftest import ROOT
from engine_graphs import LARGEST_TOP, bundle_in_all_precisions, write_int8, write_planted
from fake_builder import DataType, FakeTensorRT, Layer, Tensor, small_network
from hypothesis import given
from hypothesis import strategies as st

from dskd.export.build_progress import Fraction, _bar, _interrupts, _monitor, watching
from dskd.export.engine_build import BuildOptions, build_engine
from dskd.export.engine_errors import BuildLog, collecting_logger
from dskd.export.layer_report import engine_layers
from dskd.export.weak_typing import float_regions
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import DskdError, MissingPart

ONE = BuildOptions((1, 1, 1))
PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="session")
def every(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with graphs for fp32, fp16 and int8."""
    return bundle_in_all_precisions(bundle, tmp_path_factory.mktemp("every") / "bundle")


@pytest.fixture(scope="session")
def graphs(every: Bundle) -> dict[str, Path]:
    return {"fp32": every.path / "model.onnx", **{p: every.path / f"model.{p}.onnx" for p in PRECISIONS[1:]}}


# ------------------------------------------------------------------------------------------------- it builds


@pytest.mark.parametrize("batch", [(1, 1, 1), (1, 4, 8)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_builds_the_bundle(
    every: Bundle, graphs: dict[str, Path], precision: str, batch: tuple[int, int, int]
) -> None:
    built = build_engine(tensorrt_rtx, graphs[precision], BuildOptions(batch))
    weights = every.manifest.graphs["model.onnx"].parameters * {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    assert 0.9 * weights < len(built.plan) < 2.2 * weights
    kinds = [layer.type for layer in built.report.layers]
    operators = [node.op_type for node in onnx.load(graphs[precision]).graph.node]
    assert kinds.count("CONVOLUTION") == operators.count("Conv") > 20
    assert kinds.count("DECONVOLUTION") == operators.count("ConvTranspose")
    assert ("QUANTIZE" in kinds) == (precision == "int8")
    halves = sum("HALF" in layer.outputs for layer in built.report.layers)
    assert (halves > 50) == (precision == "fp16")
    assert built.seconds > 0


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("batch", [(1, 1, 1), (1, 4, 8)])
@pytest.mark.parametrize("name", ["model.onnx", "model.fp16.onnx", "model.int8.onnx"])
def test_tensorrt_builds_every_method(calibrated_member: Bundle, name: str, batch: tuple[int, int, int]) -> None:
    file = calibrated_member.graph_file(name)
    kinds = [layer.type for layer in build_engine(tensorrt_rtx, file, BuildOptions(batch)).report.layers]
    operators = [node.op_type for node in onnx.load(file).graph.node]
    assert kinds.count("CONVOLUTION") == operators.count("Conv") > 20
    assert ("QUANTIZE" in kinds) == ("int8" in name)


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops")
def test_every_option_is_taken(graphs: dict[str, Path], tmp_path: Path) -> None:
    cache = tmp_path / "sub" / "timing.cache"
    options = BuildOptions((1, 1, 2), workspace=64, opt_level=0, timing_cache=cache, detailed=True)
    assert build_engine(tensorrt_rtx, graphs["fp16"], options).plan
    assert cache.is_file()
    cache.write_bytes(b"no timing cache")
    assert build_engine(tensorrt_rtx, graphs["fp16"], options).plan


def test_the_report_names_layers_of_the_graph(graphs: dict[str, Path]) -> None:
    report = build_engine(tensorrt_rtx, graphs["fp32"], ONE).report
    names = {layer.name for layer in report.layers}
    assert "/path/teacher/conv1/Conv" in names
    told = json.loads(report.to_json(None))
    assert told["layers"][0].keys() == {"name", "type", "outputs", "device"}
    assert (told["on_dla"], told["switches"], told["engine"]) == (0, 0, None)
    assert told["on_gpu"] == len(told["layers"])


@pytest.mark.thorough
def test_half_precision_becomes_few_kernels(bundle: Bundle, tmp_path: Path) -> None:
    """TensorRT-RTX prints the engine's layers where there is no GPU too. Of INT8 it says nothing about full TensorRT, which
    takes rounding and ReLU into a convolution where RTX does not.
    """
    file = bundle.file("model.fp16.onnx")
    log = tmp_path / "log"
    build_engine(tensorrt_rtx, file, BuildOptions((1, 1, 4), detailed=True, verbose=log))
    printed = log.read_text().partition("[V] Layers:\n")[2].partition("\n\n")[0].splitlines()
    kinds = Counter(re.search(r"LayerType: (\w+)", line)[1] for line in printed)  # type: ignore[index]
    nodes = Counter(node.op_type for node in onnx.load(file).graph.node)
    assert (kinds["correlation"], kinds["deconv"]) == (nodes["Conv"], nodes["ConvTranspose"])
    # Input, pools, products, what stands between them, and the score: bias, ReLU and sums are inside (docs/decisions.md).
    assert len(printed) - kinds["correlation"] - kinds["deconv"] <= 25
    assert sum("{ Name: image," in line for line in printed) == 1  # cast, transposition and scaling are one kernel
    alone = [line for line in printed if re.match(r"Name: __myl_(Cast|Move|Tran|Repl)+_", line)]
    assert all("/to_usual/" in line and "_half/Cast]" in line for line in alone)  # the vector that meets what is usual
    assert len(alone) <= 1


def test_the_engine_inspector_is_asked() -> None:
    inspector = SimpleNamespace(get_engine_information=lambda form: json.dumps({"asked": form}))
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    trt = SimpleNamespace(
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine={b"plan": engine}.get),
        LayerInformationFormat=SimpleNamespace(JSON="JSON"),
    )
    assert engine_layers(trt, b"plan", None) == {"asked": "JSON"}
    with pytest.raises(DskdError, match="cannot load the engine that it has just built"):
        engine_layers(trt, b"other", None)


# ------------------------------------------------------------------------------------------------- it is refused


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        ("Det", ""),
        ("Unique", ""),
        ("Frobnicate", "Plugin not found"),
        ("Resize", "Antialiasing is not supported"),
    ],
)
def test_a_planted_operator_is_named(graphs: dict[str, Path], tmp_path: Path, operator: str, reason: str) -> None:
    file = write_planted(graphs["fp32"], tmp_path / "planted.onnx", operator)
    with pytest.raises(DskdError, match=rf"planted\.onnx.*operator {operator} of node planted") as caught:
        build_engine(tensorrt_rtx, file, ONE)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_parses_but_does_not_build_is_explained(graphs: dict[str, Path], tmp_path: Path) -> None:
    file = write_planted(graphs["fp32"], tmp_path / "planted.onnx", "TopK")
    with pytest.raises(DskdError, match=rf"K exceeds the maximum value allowed \({LARGEST_TOP}\)"):
        build_engine(tensorrt_rtx, file, ONE)


def test_zero_points_are_refused(bundle: Bundle, graphs: dict[str, Path], tmp_path: Path) -> None:
    file = write_int8(graphs["fp32"], tmp_path / "asymmetric.onnx", bundle.golden().inputs[:2], symmetric=False)
    with pytest.raises(DskdError, match=r"QuantizeLinear of node .*Non-zero zero point is not supported"):
        build_engine(tensorrt_rtx, file, ONE)


@pytest.mark.parametrize("batch", [(4, 1, 8), (1, 8, 4), (-1, 1, 1)])
def test_a_contradictory_profile_is_refused(graphs: dict[str, Path], batch: tuple[int, int, int]) -> None:
    with pytest.raises(DskdError, match=":".join(map(str, batch))):
        build_engine(tensorrt_rtx, graphs["fp32"], BuildOptions(batch))


def test_a_broken_file_is_named(graphs: dict[str, Path], tmp_path: Path) -> None:
    contents = {
        "half.onnx": graphs["fp32"].read_bytes()[:100_000],
        "text.onnx": b"hello world" * 50,
        "empty.onnx": b"",
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DskdError, match=name) as caught:
            build_engine(tensorrt_rtx, tmp_path / name, ONE)
        assert "export the bundle again" in str(caught.value)
    for missing in (tmp_path, tmp_path / "absent.onnx"):
        with pytest.raises(DskdError, match="TensorRT cannot read it"):
            build_engine(tensorrt_rtx, missing, ONE)


# ------------------------------------------------------------------------------------------------- progress


def test_progress_of_a_real_build_rises_to_the_end(graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[float] = []
    monkeypatch.setattr(
        "dskd.export.build_progress._monitor",
        lambda trt, fraction, show, interrupted: _monitor(trt, fraction, shown.append, interrupted),
    )
    build_engine(tensorrt_rtx, graphs["fp16"], ONE)
    assert len(shown) > 10
    assert shown == sorted(shown)
    assert 0 <= shown[0] < 0.5
    assert shown[-1] == 1.0


@given(st.lists(st.tuples(st.sampled_from("spf"), st.sampled_from("abc"), st.sampled_from("abc"), st.integers(0, 9))))
def test_fraction_never_falls_whatever_is_reported(events: list[tuple[str, str, str, int]]) -> None:
    fraction, last = Fraction(), 0.0
    for kind, name, parent, number in events:
        if kind == "s":
            fraction.start(name, parent if parent < name else None, number)
        elif kind == "p":
            fraction.step(name, number)
        else:
            fraction.finish(name)
        assert last <= fraction.value <= 1.0
        last = fraction.value


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
import tensorrt_rtx
from dskd.export.build_progress import Fraction
from dskd.export.engine_build import BuildOptions, build_engine
{before}
steps = []
def interrupt(self, name, step):
    steps.append(step)
    if len(steps) == 3:
        os.kill(os.getpid(), signal.SIGINT)
Fraction.step = interrupt
before = signal.getsignal(signal.SIGINT)
try:
    build_engine(tensorrt_rtx, Path(sys.argv[1]), BuildOptions((1, 1, 1)))
except KeyboardInterrupt:
    print(len(steps), signal.getsignal(signal.SIGINT) is before)
"""


AFTER_OPENVINO = """
import gc
from dskd.runtime.inspection.backends.openvino import OpenVinoBackend
from dskd.runtime.bundle.loading import load_bundle
opened = [OpenVinoBackend(load_bundle(Path(sys.argv[1]).parent)) for _ in range(2)]
while opened:
    del opened[0]
    gc.collect()
"""


@pytest.mark.parametrize("before", ["", AFTER_OPENVINO], ids=["alone", "after OpenVINO"])
def test_ctrl_c_stops_a_build(graphs: dict[str, Path], before: str) -> None:
    """In a process of its own, as a user has it. OpenVINO gives signals a stack and takes it away with its core: let go
    before the build, as each backend once did with its own, the signal ended the process with a segmentation fault.
    """
    script = INTERRUPTED.replace("{before}", before)
    done = subprocess.run(
        [sys.executable, "-c", script, str(graphs["fp32"])], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    steps, restored = done.stdout.split()
    assert 3 <= int(steps) < 100  # the first phase alone has more
    assert restored == "True"


def test_ctrl_c_reaches_a_build_that_reports_from_another_thread() -> None:
    """Python runs its handlers in the main thread only, and that is inside TensorRT."""
    answers = []

    def build() -> None:
        with _interrupts() as interrupted:

            def report() -> None:
                answers.append(interrupted())
                os.kill(os.getpid(), signal.SIGINT)
                end = time.monotonic() + 10
                while not interrupted() and time.monotonic() < end:
                    time.sleep(0.001)
                answers.append(interrupted())

            thread = threading.Thread(target=report)
            thread.start()
            thread.join()

    with pytest.raises(KeyboardInterrupt):
        build()
    assert answers == [False, True]


def test_ctrl_c_is_heard_though_nobody_asks_again_before_the_build_ends() -> None:
    before = signal.getsignal(signal.SIGINT), len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt), _interrupts():
        os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), len(os.listdir("/proc/self/fd"))) == before


def test_ctrl_c_ends_the_process_where_tensorrt_cannot_be_stopped() -> None:
    script = (
        "import os, signal, types; from dskd.export.build_progress import watching\n"
        "with watching(types.SimpleNamespace(), None, 'building'): os.kill(os.getpid(), signal.SIGINT)\n"
        "print('went on')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stdout == ""
    assert done.stderr == "building ... (minutes on a Jetson)\n"


def test_a_terminal_shows_a_bar_with_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with _bar("building m.onnx") as show:
        show(0.25)
        show(1.0)
    assert re.search(r"building m\.onnx: 100%\|.*\| 00:00<00:00", terminal.getvalue())


def test_without_tqdm_there_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with watching(tensorrt_rtx, SimpleNamespace(), "building"):
        pass
    assert capsys.readouterr().err == "building ... (minutes on a Jetson)\n"


# ------------------------------------------------------------------------------------------------- types without types


def test_types_are_read_from_the_casts_as_tensorrt_itself_infers_them(graphs: dict[str, Path]) -> None:
    """The walk knows casts only; TensorRT-RTX, whose networks are typed, knows every tensor."""
    logger = collecting_logger(tensorrt_rtx, BuildLog())
    builder = tensorrt_rtx.Builder(logger)
    for precision in ("fp32", "fp16"):
        network = builder.create_network(0)
        assert tensorrt_rtx.OnnxParser(network, logger).parse_from_file(str(graphs[precision]))
        layers = [network.get_layer(k) for k in range(network.num_layers)]
        true = {layer.name: layer.get_output(0).dtype.name for layer in layers}
        found = float_regions(network)
        assert len(found) > 100
        assert set(found.values()) == ({"FLOAT"} if precision == "fp32" else {"FLOAT", "HALF"})
        assert {name: true[name] for name in found} == found


def test_8_6_is_told_of_the_batch_and_keeps_half_and_float_apart() -> None:
    trt = FakeTensorRT("8.6.1", small_network(half=True))
    build_engine(trt, Path("model.fp16.onnx"), ONE)
    assert trt.seen["flags"] == 1 << trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    assert trt.config.flags == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert {layer.name for layer in trt.layers if layer.precision == DataType.FLOAT} == {"head", "score"}
    assert {layer.name for layer in trt.layers if layer.output_types} == {"head", "score"}


def test_8_6_takes_quantised_and_plain_graphs() -> None:
    layers = small_network(half=False)
    layers.insert(2, Layer("q", "QUANTIZE", [Tensor("a")], [Tensor("q", DataType.INT8)]))
    trt = FakeTensorRT("8.6.1", layers)
    build_engine(trt, Path("model.int8.onnx"), ONE)
    assert trt.config.flags == {"INT8"}
    trt = FakeTensorRT("8.6.1", small_network(half=False))
    build_engine(trt, Path("model.onnx"), ONE)
    assert trt.config.flags == set()
    assert not any(layer.precision for layer in trt.layers)


@pytest.mark.parametrize(("version", "flags"), [("10.3.0", 0b11), ("11.4.0", 0b10)])
def test_newer_versions_are_strongly_typed(version: str, flags: int) -> None:
    trt = FakeTensorRT(version, small_network(half=True))
    build_engine(trt, Path("model.fp16.onnx"), BuildOptions((1, 2, 4), workspace=64))
    assert trt.seen == {
        "flags": flags, "workspace": 64 << 20, "profile": tuple((n, 64, 96, 3) for n in (1, 2, 4)),
    }  # fmt: skip
    assert trt.config.flags == set()


# ------------------------------------------------------------------------------------------------- DLA


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("10.3.0", {"GPU_FALLBACK", "FP16", "OBEY_PRECISION_CONSTRAINTS"}),
        ("11.4.1", {"GPU_FALLBACK"}),
    ],
)
def test_dla_gets_what_its_version_wants_and_the_report_counts(version: str, flags: set[str]) -> None:
    trt = FakeTensorRT(version, small_network(half=True), dla_cores=2)
    built = build_engine(trt, Path("model.fp16.onnx"), BuildOptions((1, 1, 1), dla_core=1, gpu_fallback=True))
    assert trt.config.flags == flags
    told = [flag.name for flag in trt.seen.get("parser flags", [])]
    assert told == (["ADJUST_FOR_DLA"] if version == "11.4.1" else [])
    assert (trt.config.DLA_core, trt.config.default_device_type) == (1, trt.DeviceType.DLA)
    report = built.report
    assert [layer.name for layer in report.layers if layer.device == "DLA"] == ["trunk", "relu"]
    assert (report.on_dla, report.on_gpu) == (2, 5)
    assert report.switches == 2  # a goes in, b comes out; to two readers, but once


def test_a_dla_core_that_is_not_there_is_missing() -> None:
    with pytest.raises(MissingPart, match=r"DLA core 2: TensorRT 10.3.0 finds 2"):
        build_engine(FakeTensorRT(dla_cores=2), Path("m.onnx"), BuildOptions((1, 1, 1), dla_core=2))


# ------------------------------------------------------------------------------------------------- timing cache


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(None, b"measured", id="none yet"),
        pytest.param(b"mine ", b"mine measured", id="this device's"),
        pytest.param(b"other ", b"measured", id="another device's"),
        pytest.param(b"broken", b"measured", id="broken"),
    ],
)
def test_the_timing_cache_is_read_where_it_fits_and_written(tmp_path: Path, before: bytes | None, after: bytes) -> None:
    file = tmp_path / "timing.cache"
    if before:
        file.write_bytes(before)
    trt = FakeTensorRT()
    trt.config.good_cache = b"mine "
    build_engine(trt, Path("m.onnx"), BuildOptions((1, 1, 1), timing_cache=file))
    assert file.read_bytes() == after
    assert [f.name for f in tmp_path.iterdir()] == ["timing.cache"]


def test_a_failed_build_leaves_the_timing_cache(tmp_path: Path) -> None:
    file = tmp_path / "timing.cache"
    file.write_bytes(b"mine ")
    with pytest.raises(DskdError):
        build_engine(FakeTensorRT(plan=None), Path("m.onnx"), BuildOptions((1, 1, 1), timing_cache=file))
    assert file.read_bytes() == b"mine "
