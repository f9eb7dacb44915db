"""The OpenVINO backend on the real library: answers, precision, silence, and what happens when it cannot serve."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from budget import cases
from conftest import ROOT, Command
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import tiny_bundle

import dskd.runtime.inspection.backends
from dskd.calibration.quantise import observed_tensors, quantise
from dskd.calibration.ranges import observe
from dskd.export.graph.add_graphs import provisional
from dskd.export.graph.bfloat import ROUNDED, rounded_to_bfloat16, to_bfloat16
from dskd.export.graph.transposed import rewrite_transposed
from dskd.runtime.bundle.loading import Bundle, golden_file, hash_files, load_bundle, write_manifest
from dskd.runtime.capture.sources.gstreamer import has_elements
from dskd.runtime.errors import CallError, DskdError, MissingPart, NotExact
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.inspection.backends.base import allowed_cores
from dskd.runtime.inspection.backends.onnx_runtime import OnnxRuntimeBackend
from dskd.runtime.inspection.backends.openvino import OpenVinoBackend
from dskd.runtime.inspection.golden import golden_check
from dskd.runtime.inspection.proved import open_proved

HAS_BF16 = dskd.runtime.inspection.backends._cpu_has_bf16()
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bfloat16")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


def python(*arguments: str, **changed: object) -> subprocess.CompletedProcess[str]:
    options: dict[str, object] = {"capture_output": True, "text": True, "timeout": 120, "cwd": ROOT, **changed}
    return subprocess.run([sys.executable, *arguments], **options)  # type: ignore[call-overload, no-any-return]


def test_every_batch_size_is_answered_like_by_onnxruntime(bundle: Bundle) -> None:
    ours, theirs = OpenVinoBackend(bundle), OnnxRuntimeBackend(bundle, threads=1)
    inputs = bundle.golden().inputs
    for rows in range(1, bundle.manifest.max_batch + 1):
        found, expected = ours.infer(inputs[:rows]), theirs.infer(inputs[:rows])
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(found.maps(), expected.maps(), atol=1e-4)
    for wrong in (inputs[:0], np.repeat(inputs, 2, axis=0), inputs[:1, :, 1:]):
        with pytest.raises(DskdError, match="expected 1 to 4 images"):
            ours.infer(wrong)


@pytest.mark.parametrize("level", [0, 1, 2, 255])
def test_a_dark_frame_is_read_as_it_is(tiny: Bundle, level: int) -> None:
    """anomalib's inferencer takes an image whose largest value is 1 for one that is scaled already: white."""
    image = np.full((1, 32, 32, 3), level, np.uint8)
    np.testing.assert_allclose(OpenVinoBackend(tiny).infer(image).scores, abs(level - 128) / 128, atol=1e-6)


def test_answers_outlive_the_next_batch_or_say_that_they_do_not(tiny: Bundle) -> None:
    backend, inputs = OpenVinoBackend(tiny), tiny.golden().inputs
    first = backend.infer(inputs[:1])
    scores, maps = first.scores.copy(), first.maps()
    kept = maps.copy()
    backend.infer(inputs[1:])
    np.testing.assert_array_equal(first.scores, scores)
    np.testing.assert_array_equal(maps, kept)
    with pytest.raises(DskdError, match="a later batch took the place"):
        first.maps()


def test_float_is_float32_however_the_cpu_would_like_it(bundle: Bundle) -> None:
    backend = OpenVinoBackend(bundle)
    assert backend.name == "openvino-fp32"
    assert golden_check(bundle, backend).map < 1e-4  # bfloat16 is a hundred times further off


def test_a_precision_that_the_bundle_does_not_record_is_refused(tiny: Bundle) -> None:
    with pytest.raises(DskdError, match="holds no thresholds for bf16; make them with dskd calibration"):
        open_backend(tiny, "openvino", precision="bf16")
    for other in ("onnxruntime", "tensorrt"):
        with pytest.raises(CallError, match="does not compute in bf16"):
            open_backend(tiny, other, precision="bf16")


def test_importing_it_tells_nobody_and_writes_nothing(tmp_path: Path) -> None:
    code = """
import sys, threading
from dskd.runtime.inspection.backends.openvino import load_openvino
load_openvino().Core()
assert not [name for name in sys.modules if "telemetry" in name], "telemetry"
assert threading.active_count() == 1
import openvino.tools.ovc
"""
    (tmp_path / "home").mkdir()
    home = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    script = code.rpartition("import openvino.tools.ovc")[0]
    done = python("-c", script, cwd=tmp_path / "home", env=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "home").rglob("*")) == []
    done = python("-c", code, cwd=tmp_path / "home", env=home | {"CI": "1"})
    assert (done.returncode, done.stderr) == (0, ""), "who wants the converter must still get it"


def test_it_takes_as_many_threads_as_it_may_use_cores(tiny: Bundle) -> None:
    code = f"""
import os
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
from pathlib import Path
from dskd.runtime.inspection.backends.openvino import OpenVinoBackend
from dskd.runtime.bundle.loading import load_bundle
for threads in (0, 2):
    backend = OpenVinoBackend(load_bundle(Path({str(tiny.path)!r})), threads=threads)
    print(backend._request.get_compiled_model().get_property("INFERENCE_NUM_THREADS"), len(os.sched_getaffinity(0)))
"""
    done = python("-c", code)
    assert (done.stdout.splitlines()[0], done.stderr) == ("1 1", "")


@pytest.mark.parametrize("closed", ["del first; del second", "del second; del first", "in_a_thread()"])
def test_a_signal_after_models_were_closed_reaches_its_handler(tiny: Bundle, closed: str) -> None:
    """OpenVINO frees the stack that it gave to signals: with a core for each model the first signal was the last."""
    code = f"""
import gc, os, signal, threading
from pathlib import Path
from dskd.runtime.inspection.backends.openvino import OpenVinoBackend
from dskd.runtime.bundle.loading import load_bundle
signal.signal(signal.SIGTERM, lambda number, frame: print("handled"))
first, second = [OpenVinoBackend(load_bundle(Path({str(tiny.path)!r}))) for _ in range(2)]
def in_a_thread():
    global first, second
    def let_go():
        global first, second
        del first, second
        gc.collect()
    thread = threading.Thread(target=let_go)
    thread.start()
    thread.join()
{closed}
gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "handled\n", "")


def test_the_command_leaves_the_working_directory_alone(tiny: Bundle, tmp_path: Path) -> None:
    here = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    done = python("-m", "dskd.runtime", "--bundle", str(tiny.path), "--backend", "openvino", **here)
    assert (done.returncode, done.stderr) == (0, "")
    assert "on openvino-fp32: golden check of 2 frames within" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_auto_takes_it_where_it_is_installed(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert open_backend(tiny, "auto").name == "openvino-fp32"
    monkeypatch.setattr(dskd.runtime.inspection.backends, "_onnxruntime_on_gpu", lambda: True)
    assert open_backend(tiny, "auto").name == "onnxruntime-cpu"
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPart, match=r"OpenVINO cannot be imported .*pip install 'dskd-edge\[openvino\]'"):
        open_backend(tiny, "openvino")
    assert capsys.readouterr().err == ""
    assert open_backend(tiny, "auto").name == "onnxruntime-cpu"
    assert capsys.readouterr().err == ""  # what is not installed was not asked for


def test_one_that_fails_its_golden_check_is_passed_over_with_one_line(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = OpenVinoBackend.infer

    def wrong(self: OpenVinoBackend, batch: np.ndarray) -> object:
        output = right(self, batch)
        output.scores += 1
        return output

    monkeypatch.setattr(OpenVinoBackend, "infer", wrong)
    backend, check = open_proved(tiny)
    assert (backend.name, check.images) == ("onnxruntime-cpu", 2)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("openvino-fp32 is not exact enough here on the golden frames of bundle tiny-")
    assert told[0].endswith("; using onnxruntime-cpu instead")
    with pytest.raises(NotExact, match="openvino-fp32 is not exact enough here"):
        open_proved(tiny, "openvino")


def with_golden_maps(bundle: Bundle, folder: Path, graph: str, factor: float) -> Bundle:
    """Answers of ``graph`` that are another's."""
    shutil.copytree(bundle.path, folder)
    for kind in ("scores", "maps"):
        file = folder / golden_file(graph, kind)
        np.save(file, np.load(file) * np.float32(factor))
    write_manifest(folder, bundle.manifest.model_copy(update={"files": hash_files(folder)}))
    return load_bundle(folder)


@needs_bf16
@pytest.mark.parametrize(("factor", "name"), [(1.0, "openvino-bf16"), (1.1, "openvino-fp32")])
def test_bf16_is_used_only_where_it_says_what_its_graph_says(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float, name: str
) -> None:
    recorded = with_golden_maps(bundle, tmp_path / "bundle", ROUNDED, factor)
    backend, check = open_proved(recorded, "openvino")
    assert backend.name == name
    assert (check.map > 1e-4) == (name == "openvino-bf16")  # it did compute in what it says
    told = capsys.readouterr().err.splitlines()
    assert [line.endswith("; using openvino-fp32 instead") for line in told] == [True] * (name[-4:] == "fp32")
    if factor > 1:
        with pytest.raises(NotExact, match="openvino-bf16 is not exact enough here"):
            open_proved(recorded, "openvino", precision="bf16")


@pytest.fixture(scope="module")
def eight_bits(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle with an INT8 graph for CPUs, as calibration writes it; how well it judges is not asked here."""
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    shutil.copytree(bundle.path, folder)
    model = onnx.load(folder / "model.onnx")
    rewrite_transposed(model)
    histograms = observe(model, observed_tensors(model), bundle.golden().inputs)
    onnx.save(quantise(model, histograms, "minmax", "cpu"), folder / "model.int8.cpu.onnx")
    graphs = bundle.manifest.graphs | {"model.int8.cpu.onnx": provisional(bundle.manifest.graphs["model.onnx"], "int8")}
    write_manifest(folder, bundle.manifest.model_copy(update={"graphs": graphs, "files": hash_files(folder)}))
    return load_bundle(folder)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names of x86's kernels")
def test_int8_runs_in_eight_bits(eight_bits: Bundle) -> None:
    backend = OpenVinoBackend(eight_bits, "int8")
    expected = OnnxRuntimeBackend(eight_bits, "model.int8.cpu.onnx", 1).infer(eight_bits.golden().inputs[:1])
    found = backend.infer(eight_bits.golden().inputs[:1])
    assert np.corrcoef(found.maps().ravel(), expected.maps().ravel())[0, 1] > 0.9
    run = backend._request.get_compiled_model().get_runtime_model().get_ops()
    kernels = [str(op.get_rt_info()["primitiveType"].value) for op in run if op.get_rt_info()["layerType"].value == "Convolution"]  # fmt: skip
    assert len(kernels) > 20
    assert [name for name in kernels if not name.endswith("_I8")] == []


@needs_bf16
def test_int8_says_in_what_the_rest_is_computed(eight_bits: Bundle) -> None:
    assert open_backend(eight_bits, "openvino", precision="int8").name == "openvino-int8+bf16"
    assert OpenVinoBackend(eight_bits, "int8").name == "openvino-int8"


@needs_bf16
def test_bf16_is_what_calibration_says_it_is(bundle: Bundle) -> None:
    """The thresholds of bf16 are found without hardware for it; here is some."""
    inputs = bundle.golden().inputs
    rounded = rounded_to_bfloat16(onnx.load(bundle.file("model.onnx"))).SerializeToString()
    emulated = OnnxRuntimeBackend(bundle, ROUNDED, 1, rounded).infer(inputs[:4])
    exact, real = OpenVinoBackend(bundle).infer(inputs[:4]), OpenVinoBackend(bundle, "bf16")
    error = np.abs(emulated.maps() - exact.maps()).max()
    found = real.infer(inputs[:4])
    assert error > 1e-4
    assert error / 3 < np.abs(found.maps() - exact.maps()).max() < 3 * error
    assert open_proved(bundle, "openvino")[0].name == "openvino-bf16"


@settings(max_examples=cases(300))
@given(st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_rounding_to_bfloat16_is_torchs(value: float) -> None:
    expected = torch.tensor(value, dtype=torch.float32).bfloat16().float().item()
    assert to_bfloat16(np.array([value], np.float32))[0] == expected


def test_a_second_start_reads_what_the_first_one_compiled(eight_bits: Bundle, tmp_path: Path) -> None:
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "dskd-edge"
    first = OpenVinoBackend(eight_bits, "int8").infer(eight_bits.golden().inputs[:2])
    (blob,) = cache.glob("*.openvino")
    shutil.copytree(eight_bits.path, tmp_path / "bundle", ignore=shutil.ignore_patterns("*.onnx"))
    without = Bundle(tmp_path / "bundle", eight_bits.manifest)
    second = OpenVinoBackend(without, "int8").infer(eight_bits.golden().inputs[:2])  # has no graph to compile
    np.testing.assert_array_equal(first.scores, second.scores)
    whole = blob.read_bytes()
    for damaged in (whole[:-1], whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:], b""):
        blob.write_bytes(damaged)
        with pytest.raises(DskdError):  # not believed, so the graph is asked for
            OpenVinoBackend(without, "int8")
    assert OpenVinoBackend(eight_bits, "int8").infer(eight_bits.golden().inputs[:2]).scores == pytest.approx(
        first.scores
    )
    OpenVinoBackend(without, "int8")  # and compiled, it is kept again
    OpenVinoBackend(eight_bits, "int8", threads=allowed_cores() + 1)
    assert len(list(cache.glob("*.openvino"))) == 2
    load_bundle(eight_bits.path)  # nothing was written there


def test_a_start_after_a_good_one_proves_one_frame(tiny: Bundle, command: Command) -> None:
    def told(*more: str) -> str:
        done = command("runtime", "--bundle", tiny.path, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "golden check of 2 frames" in told()
    assert "golden check of 1 frame " in told()
    assert "golden check of 2 frames" in told("--backend", "onnxruntime")


@pytest.mark.skipif(not has_elements("appsink"), reason="needs GStreamer")
def test_a_camera_that_was_there_first_does_no_harm(tiny: Bundle) -> None:
    """Exceptions that OpenVINO throws and catches inside crossed into the unwinder that GStreamer brings."""
    code = f"""
from pathlib import Path
from dskd.runtime.capture.sources.gstreamer import gstreamer
gstreamer()
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.bundle.loading import load_bundle
print(open_backend(load_bundle(Path({str(tiny.path)!r})), "openvino").name)
"""
    done = python("-c", code)
    assert (done.returncode, done.stdout) == (0, "openvino-fp32\n"), done.stderr
