"""``python -m export.trt``: without a GPU as users run it, with one on a machine that pretends to have it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorrt_rtx
from conftest import ROOT, Command
from engine_graphs import LOOSE, bundle_in_all_precisions, write_planted
from fake_builder import FakeTensorRT, small_network
from jetson_trees import jetson, put
from onnx import helper
from pretended_device import ORIN, Answering, pretend
from tensorrt_fakes import FakeMemory

import dskd.export.trt
from dskd.export import engine_attempts, engine_profile
from dskd.export.build_machine import built_on
from dskd.export.engine_build import build_engine
from dskd.export.engine_profile import LayerTime
from dskd.export.trt import kept_cache, main
from dskd.runtime.bundle.loading import Bundle, golden_file, hash_files, load_bundle, write_manifest
from dskd.runtime.errors import CallError, DskdError, MissingPart
from dskd.runtime.inspection.backends import _engines, tensorrt_engine
from dskd.runtime.inspection.cuda import find_device
from dskd.runtime.inspection.engine import BuiltOn, engine_paths, read_facts, why_unfit
from dskd.train.data import read_input


@pytest.fixture(scope="session")
def all_precisions(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_in_all_precisions(bundle, tmp_path_factory.mktemp("command") / "bundle")


@pytest.fixture
def every(all_precisions: Bundle, tmp_path: Path) -> Bundle:
    """A bundle with graphs for fp32, fp16 and int8 that a test may change."""
    shutil.copytree(all_precisions.path, tmp_path / "bundle", copy_function=os.link)
    return load_bundle(tmp_path / "bundle")


def changed(bundle: Bundle, **graph: object) -> Bundle:
    """The bundle with its fp16 graph's record changed, or what is in its files recorded anew."""
    name = "model.fp16.onnx"
    graphs = {**bundle.manifest.graphs, name: bundle.manifest.graphs[name].model_copy(update=graph)}
    update = {"graphs": graphs, "files": hash_files(bundle.path)}
    write_manifest(bundle.path, bundle.manifest.model_copy(update=update))
    return load_bundle(bundle.path)


# ------------------------------------------------------------------------------------------------- without a GPU


def has_gpu() -> bool:
    try:
        find_device()
    except MissingPart:
        return False
    return True


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_without_a_gpu_two_lines_say_what_is_missing_and_what_can_be_done(every: Bundle, command: Command) -> None:
    done = command("export.trt", "--fp16", DSKD_BUNDLE=str(every.path), timeout=60)
    assert done.returncode == 3
    assert done.stdout == ""
    missing, possible = done.stderr.splitlines()
    assert missing.startswith("error: ")
    assert "NVIDIA driver" in missing
    assert "--check" in possible
    assert not (every.path / "engines").exists()


def test_that_answer_loads_nothing_heavy(every: Bundle) -> None:
    script = (
        "import sys; import dskd.runtime.inspection.cuda.device; dskd.runtime.inspection.cuda.device.DRIVER = 'libabsent.so.1'\n"
        "from dskd.export.trt import main\n"
        f"assert main(['--fp16', '--bundle', {str(every.path)!r}]) == 3\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "onnx", "onnxruntime", "onnxsim", "tensorrt", "tensorrt_rtx", "tqdm", "scipy", "cv2"} | {
        "dskd.train"
    }
    loaded = set(done.stdout.split())
    assert "dskd.export.trt" in loaded
    assert not heavy & loaded


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "choose one of --fp16, --int8, --best and --fp32"),
        (["--fp16", "--int8"], "not allowed with argument --fp16"),
        (["--fp16", "--gpu-fallback"], "add --dla-core"),
        (["--fp32", "--dla-core", "0"], "the DLA computes in FP16 and INT8 only"),
        (["--int8", "--dla-core", "0"], "the DLA takes no Q/DQ nodes"),
        (["--fp16", "--dla-core", "-1"], "cores count from 0"),
        (["--fp16", "--workspace", "0"], "--workspace 0 must lie between"),
        (["--fp16", "--opt-level", "6"], "invalid choice"),
        (["--fp16", "--check", "--dla-core", "0"], "--check does not go with"),
        (["--fp16", "--check", "--timing-cache", "x"], "--check does not go with"),
        (["--fp16", "--batch", "4"], "write MIN:OPT:MAX, as in 1:1:4"),
        (["--fp16", "--batch", "1:2:3:4"], "write MIN:OPT:MAX"),
        (["--fp16", "--batch", "1:a:4"], "write MIN:OPT:MAX"),
        (["--fp16", "--batch", "0:1:2"], "MIN <= OPT <= MAX"),
        (["--fp16", "--batch", "2:1:4"], "MIN <= OPT <= MAX"),
        (["--fp16", "--batch", "1:4:8"], "the bundle was exported for at most 4"),
        (["--fp16", "--dla-core", "0", "--batch", "1:1:4"], "a DLA takes one size only"),
        (["--fp16", "--bundle", "/nowhere"], "no bundle there"),
        (["--int8", "--calibrate", "good"], "--calibrate FOLDER and --plan FILE belong together, with --int8"),
        (["--fp16", "--calibrate", "good", "--plan", "x"], "belong together, with --int8"),
    ],
)
def test_a_wrong_call_is_said_before_anything_is_missed(every: Bundle, options: list[str], complaint: str) -> None:
    with pytest.raises(CallError) as caught:
        main(["--bundle", str(every.path), *options])
    assert complaint in str(caught.value)


def test_a_bundle_without_the_graph_is_said_before_a_gpu_is_missed(bundle: Bundle) -> None:
    with pytest.raises(DskdError, match=r"holds no model\.int8\.onnx; .*dskd calibration") as caught:
        main(["--int8", "--bundle", str(bundle.path)])
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_check_builds_without_a_gpu(every: Bundle, command: Command, tmp_path: Path, precision: str) -> None:
    layers = tmp_path / "layers.json"
    done = command("export.trt", f"--{precision}", "--check", "--bundle", every.path, "--layers", layers, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["parsed"], told["built"], told["batch"]) == (True, True, [1, 1, 4])
    assert told["tensorrt_rtx"] == tensorrt_rtx.__version__
    assert told["megabytes"] > 10
    assert len(json.loads(layers.read_text())["layers"]) == told["layers"] > 100
    assert not (every.path / "engines").exists()


def test_check_for_people(every: Bundle, command: Command) -> None:
    done = command("export.trt", "--best", "--check", "--bundle", every.path, "--batch", "1:1:2")
    assert done.returncode == 0, done.stderr
    assert "model.int8.onnx: TensorRT-RTX" in done.stdout
    assert "batch 1:1:2" in done.stdout
    assert done.stderr == ""


def test_check_names_an_operator_that_tensorrt_lacks(every: Bundle, command: Command) -> None:
    planted = every.path / "model.fp16.onnx"
    planted.unlink()  # it is linked to another test's
    write_planted(every.path / "model.onnx", planted, "Det")
    changed(every)
    done = command("export.trt", "--fp16", "--check", "--bundle", every.path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "operator Det of node planted" in done.stderr


def test_check_without_tensorrt_rtx_says_how_to_get_it(every: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingPart, match=r"pip install 'tensorrt-rtx>=1\.7\.1'"):
        main(["--fp16", "--check", "--bundle", str(every.path)])


# ------------------------------------------------------------------------------------------------- on a device

Told = Callable[..., dict[str, Any]]


@pytest.fixture
def told(every: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs the command on the pretended device; gives what --json says."""
    pretend(monkeypatch.setattr)
    monkeypatch.setattr(Answering, "plans", [])
    monkeypatch.setattr(Answering, "closed", 0)

    def call(*options: str) -> dict[str, Any]:
        assert main(["--bundle", str(every.path), "--json", *(options or ["--fp16"])]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return call


def pair(bundle: Bundle) -> tuple[bytes, bytes]:
    plan, file = engine_paths(bundle, "fp16")
    return plan.read_bytes(), file.read_bytes()


def test_an_engine_is_built_proved_and_installed(every: Bundle, told: Told) -> None:
    said = told()
    assert (said["built"], said["reason"], said["dla"]) == (True, "there is no engine yet", None)
    plan, file = engine_paths(every, "fp16")
    facts = read_facts(file)
    assert said["plan"] == str(plan)
    assert said["facts"] == json.loads(file.read_text())
    assert why_unfit(facts, plan, every, ORIN, tensorrt_rtx.__version__) is None
    assert (facts.batch, facts.bundle, facts.gpu) == ((1, 1, 4), every.id, "Orin")
    assert 0 < facts.score_difference < LOOSE
    assert Answering.plans == [plan.read_bytes()]  # what was proved is what was installed
    assert Answering.closed == 1
    assert {f.name for f in plan.parent.iterdir()} == {plan.name, file.name, ".lock"}
    load_bundle(every.path)  # engines are no foreign files


def test_measurements_are_kept_between_builds_of_one_device(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[Path | None]()

    def build(trt: Any, file: Path, options: Any) -> Any:
        given.append(options.timing_cache)
        return build_engine(trt, file, replace(options, timing_cache=None))

    monkeypatch.setattr(engine_attempts, "build_engine", build)
    told()
    told("--fp16", "--batch", "1:2:4", "--timing-cache", "named")
    assert given == [kept_cache(ORIN), Path("named")]
    assert kept_cache(ORIN) != kept_cache(replace(ORIN, multiprocessors=16))
    assert str(kept_cache(ORIN)).startswith(os.environ["XDG_CACHE_HOME"])


def test_a_fitting_engine_is_kept(every: Bundle, told: Told) -> None:
    told()
    before = pair(every)
    said = told("--fp16", "--timing-cache", str(every.path.parent / "cache"))
    assert (said["built"], said["reason"]) == (False, "")
    assert pair(every) == before
    assert len(Answering.plans) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--batch", "1:2:4"], "the engine takes batches of 1:1:4"),
        (["--workspace", "64"], "options that an engine's facts do not hold"),
        (["--opt-level", "1"], "options that an engine's facts do not hold"),
    ],
)
def test_other_options_build_anew(told: Told, options: list[str], reason: str) -> None:
    told()
    said = told("--fp16", *options)
    assert said["built"]
    assert reason in said["reason"]


def test_another_device_or_tensorrt_builds_anew(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    told()
    monkeypatch.setattr(dskd.export.trt, "find_device", lambda: replace(ORIN, name="Thor", compute_capability="11.0"))
    assert "built for GPU Orin, here is Thor" in told()["reason"]
    monkeypatch.setattr(tensorrt_rtx, "__version__", "99.0")
    assert "here is 99.0" in told()["reason"]
    assert not told()["built"]


def test_another_orin_builds_anew(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are called Orin; an engine for 16 multiprocessors is none for 8."""
    assert told()["facts"]["multiprocessors"] == 8
    monkeypatch.setattr(dskd.export.trt, "find_device", lambda: replace(ORIN, multiprocessors=16))
    assert "built for multiprocessors 8, here is 16" in told()["reason"]


def test_what_an_engine_was_built_on_is_in_its_facts(tmp_path: Path) -> None:
    assert built_on(tmp_path) == BuiltOn()
    jetson(tmp_path, "nano", "jp6", "25W")
    put(
        tmp_path,
        "/proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
    )
    assert built_on(tmp_path) == BuiltOn(l4t="36.4.4", driver="540.4.0", power_mode="25W")


def test_another_graph_builds_anew(every: Bundle, told: Told) -> None:
    told()
    half = every.path / "model.fp16.onnx"
    model = onnx.load(half)
    half.unlink()  # it is linked to another test's
    onnx.save(helper.set_model_props(model, {"made": "anew"}) or model, half)
    changed(every)
    assert "built for graph" in told()["reason"]


def test_new_thresholds_keep_the_engine(every: Bundle, told: Told) -> None:
    told()
    thresholds = every.manifest.graphs["model.fp16.onnx"].thresholds
    review = thresholds.review.model_copy(update={"score": thresholds.review.score * 0.9})
    changed(every, thresholds=thresholds.model_copy(update={"review": review}))
    assert not told()["built"]


@pytest.mark.parametrize("damage", ["plan", "facts", "no plan", "no facts"])
def test_a_damaged_pair_is_built_anew(every: Bundle, told: Told, damage: str) -> None:
    told()
    plan, file = engine_paths(every, "fp16")
    victim = plan if "plan" in damage else file
    victim.unlink() if "no" in damage else victim.write_bytes(victim.read_bytes()[:-9])
    said = told()
    assert said["built"]
    assert said["reason"]
    assert why_unfit(read_facts(file), plan, every, ORIN, tensorrt_rtx.__version__) is None


@pytest.mark.parametrize("offset", [2 * LOOSE, float("nan")])
def test_an_engine_that_disagrees_is_not_accepted(
    every: Bundle, told: Told, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    told()
    before = pair(every)
    monkeypatch.setattr(Answering, "offset", offset)
    with pytest.raises(
        DskdError, match=r"new engine is not accepted and nothing was replaced: .*is not exact enough here"
    ) as caught:
        told("--fp16", "--batch", "1:2:4")
    assert caught.value.exit_code == 1
    assert pair(every) == before
    assert Answering.closed == 2
    assert len(list((every.path / "engines").iterdir())) == 3


def test_golden_answers_are_the_graphs_own(every: Bundle, told: Told) -> None:
    file = every.path / golden_file("model.fp16.onnx", "maps")
    other = np.load(file) * np.float32(1.01)
    file.unlink()  # a hard link of the fixture's
    np.save(file, other)
    changed(every)
    with pytest.raises(DskdError, match=r"is not accepted and nothing was replaced: .*maps off as a whole by"):
        told()


def test_a_missing_memory_package_is_missed_before_building(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(device: object) -> None:
        raise MissingPart("neither cuda-bindings nor pycuda is installed")

    monkeypatch.setattr(dskd.export.trt, "open_memory", absent)
    monkeypatch.setattr(engine_attempts, "build_engine", lambda *arguments: pytest.fail("built for nothing"))
    with pytest.raises(MissingPart, match="pycuda"):
        told()


def test_the_whole_log_is_written_for_a_bug_report(told: Told, tmp_path: Path) -> None:
    told("--fp16")
    said = told("--fp16", "--verbose", str(tmp_path / "log"))
    assert said["built"]
    text = (tmp_path / "log").read_text()
    assert len(text.splitlines()) > 100
    assert "[V] " in text


def test_layers_and_times_of_a_standing_engine(told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told("--fp16")
    times = [LayerTime("conv", 0.3, 1.0)]
    monkeypatch.setattr(engine_profile, "profile_layers", lambda *given: times)
    said = told("--fp16", "--layers", str(tmp_path / "layers.json"), "--profile")
    assert not said["built"]
    assert json.loads((tmp_path / "layers.json").read_text()) == {"engine": {"Layers": []}}
    assert said["profile"] == [{"name": "conv", "ms": 0.3, "share": 1.0}]


def test_nvidias_own_call_is_printed(every: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--workspace", "256", "--opt-level", "4", "--timing-cache", "c", "--batch", "1:2:4"]
    assert main(["--int8", "--bundle", str(every.path), "--trtexec", *options]) == 0
    words = shlex.split(capsys.readouterr().out)
    height, width = every.manifest.input.height, every.manifest.input.width
    assert words[:2] == ["trtexec", f"--onnx={every.path}/model.int8.onnx"]
    assert f"--optShapes=image:2x{height}x{width}x3" in words
    assert {
        "--stronglyTyped",
        "--noTF32",
        "--memPoolSize=workspace:256M",
        "--builderOptimizationLevel=4",
        "--timingCacheFile=c",
        "--verbose",
    } <= set(words)
    main(["--fp16", "--bundle", str(every.path), "--trtexec", "--dla-core", "1", "--gpu-fallback"])
    words = shlex.split(capsys.readouterr().out)
    assert {"--fp16", "--useDLACore=1", "--allowGPUFallback"} <= set(words)
    assert "--stronglyTyped" not in words


def test_layers_are_reported_with_what_the_engine_made_of_them(told: Told, tmp_path: Path) -> None:
    told("--fp16", "--layers", str(tmp_path / "layers.json"))
    report = json.loads((tmp_path / "layers.json").read_text())
    assert report["engine"] == {"Layers": []}
    assert {"CONVOLUTION", "DECONVOLUTION"} <= {layer["type"] for layer in report["layers"]}


def test_best_builds_int8_and_half_and_takes_the_faster(
    every: Bundle, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the runtime opens the faster one first, as measured."""
    times = {"tensorrt-int8": 3.0, "tensorrt-fp16": 2.0}
    monkeypatch.setattr(engine_attempts, "time_of_a_call", lambda backend, inputs, rows: times[backend.name])
    said = told("--best")
    assert said["facts"]["precision"] == "fp16"
    assert [(one["precision"], one["latency_ms"]) for one in said["tried"]] == [("int8", 3.0), ("fp16", 2.0)]
    assert _engines(every, None) == ["fp16", "int8"]
    times["tensorrt-int8"] = 1.0
    said = told("--best")  # both stand, and are measured again
    assert (said["built"], said["facts"]["precision"]) == (False, "int8")
    assert _engines(every, None) == ["int8", "fp16"]
    assert read_facts(engine_paths(every, "int8")[1]).latency_ms == 1.0


def test_best_without_an_int8_graph_is_half(every: Bundle, told: Told) -> None:
    (every.path / "model.int8.onnx").unlink()
    graphs = {name: graph for name, graph in every.manifest.graphs.items() if "int8" not in name}
    write_manifest(every.path, every.manifest.model_copy(update={"graphs": graphs, "files": hash_files(every.path)}))
    said = told("--best")
    assert said["facts"]["precision"] == "fp16"
    assert [one["precision"] for one in said["tried"]] == ["fp16"]


def builder_that_refuses(*refused: str) -> Any:
    """``build_engine``, of a TensorRT that fails on files of which a word is in the path or in the graph."""

    def build(trt: Any, file: Path, options: Any) -> Any:
        text = file.name + " ".join(node.op_type for node in onnx.load(file).graph.node)
        if any(word in text for word in refused):
            raise DskdError(f"{file.name}: TensorRT cannot build it (no matching rules found)")
        return build_engine(trt, file, options)

    return build


@pytest.mark.parametrize(
    ("refused", "left"), [(["int8"], "fp16"), (["int8", "fp16"], "fp32"), (["int8", "fp16", "model.onnx"], "")]
)
def test_best_goes_on_with_what_works_and_says_so(
    told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: list[str], left: str
) -> None:
    monkeypatch.setattr(engine_attempts, "build_engine", builder_that_refuses(*refused))
    if not left:
        with pytest.raises(DskdError, match="no matching rules found"):
            told("--best")
    else:
        said = told("--best")
        assert said["facts"]["precision"] == left
        failed = [one["precision"] for one in said["tried"] if "failed" in one]
        assert failed == [name for name in ("int8", "fp16") if name in refused]


def test_another_form_of_the_int8_graph_is_built_where_the_usual_one_is_refused(
    every: Bundle, told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = list[Path]()

    def build(trt: Any, file: Path, options: Any) -> Any:
        files.append(file)
        if len(files) < 3:
            raise DskdError("Could not infer output types for operation: dequantize")
        return build_engine(trt, file, options)

    monkeypatch.setattr(engine_attempts, "build_engine", build)
    said = told("--int8")
    assert said["facts"]["form"] == "transposed convolutions in half"
    assert files[0] == every.path / "model.int8.onnx"
    assert {f.name for f in (every.path / "engines").iterdir()} == {"model.int8.plan", "model.int8.json", ".lock"}
    assert not told("--int8")["built"]
    main(["--int8", "--bundle", str(every.path)])
    assert "the same graph with transposed convolutions in half did" in capsys.readouterr().out


def test_without_onnx_the_usual_form_is_all_there_is(
    every: Bundle, told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine_attempts, "build_engine", builder_that_refuses("int8"))
    monkeypatch.setitem(sys.modules, "dskd.export.graph.variants", None)
    with pytest.raises(DskdError, match="no matching rules"):
        told("--int8")
    assert "pip install onnx" in capsys.readouterr().err


def test_a_dla_core_that_is_not_there(every: Bundle, told: Told) -> None:
    with pytest.raises(MissingPart, match=r"DLA core 0: TensorRT .* finds 0"):
        told("--fp16", "--dla-core", "0")


def test_dla_placement_is_told(
    every: Bundle, told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trt = FakeTensorRT("10.3.0", small_network(half=True), dla_cores=1)
    monkeypatch.setattr(tensorrt_engine, "load_tensorrt", lambda: trt)
    options = ["--fp16", "--dla-core", "0", "--gpu-fallback"]
    said = told(*options)
    assert said["dla"] == {"on_dla": 2, "on_gpu": 5, "switches": 2}
    assert (said["facts"]["dla_core"], said["facts"]["batch"]) == (0, [1, 1, 1])
    assert not told(*options)["built"]
    assert told("--fp16", "--batch", "1:1:1")["reason"] == "the engine runs on a DLA core"
    main(["--bundle", str(every.path), *options])
    assert "DLA core 0: 2 layers on the DLA, 5 on the GPU, 2 switches between them" in capsys.readouterr().out


def test_what_people_read(
    every: Bundle, told: Told, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSKD_BUNDLE", str(every.path))
    main(["--fp16"])
    first = capsys.readouterr().out
    assert "there is no engine yet" in first
    assert "batch 1:1:4  Orin (8.7)  TensorRT 1.7" in first
    assert "golden frames: score within" in first
    assert "next: dskd runtime --backend tensorrt --precision fp16\n" in first
    main(["--fp16"])
    assert "fits already, nothing was built" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- kills


def killed(bundle: Bundle, moment: str, *options: str) -> None:
    words = [
        sys.executable,
        str(ROOT / "tests" / "pretended_device.py"),
        "--fp16",
        "--bundle",
        str(bundle.path),
        *options,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PRETEND_KILL": moment, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_kill_during_the_proof_keeps_the_old_engine(every: Bundle, told: Told) -> None:
    told()
    before = pair(every)
    killed(every, "proof", "--batch", "1:2:4")
    assert pair(every) == before
    leftovers = [f for f in (every.path / "engines").iterdir() if f.suffix == ".tmp"]
    assert len(leftovers) == 1
    load_bundle(every.path)
    assert not told()["built"]
    assert told("--fp16", "--batch", "1:2:4")["built"]
    assert not leftovers[0].exists()


def test_a_kill_between_plan_and_facts_is_seen(every: Bundle, told: Told) -> None:
    told()
    before = pair(every)
    killed(every, "facts", "--batch", "1:2:4")
    plan, file = engine_paths(every, "fp16")
    assert plan.read_bytes() != before[0]
    assert file.read_bytes() == before[1]
    assert "its facts say" in str(why_unfit(read_facts(file), plan, every, ORIN, tensorrt_rtx.__version__))
    said = told()
    assert said["built"]
    assert "its facts say" in said["reason"]


def test_two_builds_of_one_bundle_do_not_mix(every: Bundle, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    build = engine_attempts.build_engine

    def build_while_another_tries(*arguments: Any) -> Any:
        with pytest.raises(CallError, match="another process is writing there"):
            main(["--fp16", "--bundle", str(every.path)])
        return build(*arguments)

    monkeypatch.setattr(engine_attempts, "build_engine", build_while_another_tries)
    assert told()["built"]


# --------------------------------------------------------------------------------- INT8 by TensorRT's own calibration


class Calibrating(FakeTensorRT):
    """TensorRT 8.6 with a calibrator: a build asks for all batches, as the real one does, and writes the ranges."""

    IInt8EntropyCalibrator2 = type("IInt8EntropyCalibrator2", (), {})

    def __init__(self, memory: FakeMemory) -> None:
        super().__init__("8.6.1", layers=small_network(half=False), dla_cores=2)
        self.memory, self.pictures = memory, list[np.ndarray]()

    def _build(self, network: Any, config: Any) -> bytes | None:
        calibrator = config.int8_calibrator
        if calibrator.read_calibration_cache() is None:
            while (found := calibrator.get_batch(["image"])) is not None:
                shape = (calibrator.get_batch_size(), *self.seen["profile"][1][1:])
                self.pictures.append(self.memory.at(found[0], shape, np.uint8).copy())
            calibrator.write_calibration_cache(b"TRT-8601-EntropyCalibration2")
        return super()._build(network, config)


def test_int8_ranges_that_tensorrt_finds_itself(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The way of JetPack 5 and of the DLA; the bundle needs no calibrated graph and stays as it is."""
    memory = FakeMemory(ORIN)
    memory.close = lambda: None  # type: ignore[attr-defined]
    trt = Calibrating(memory)
    monkeypatch.setattr(dskd.export.trt, "find_device", lambda: ORIN)
    monkeypatch.setattr(dskd.export.trt, "open_memory", lambda device: memory)
    monkeypatch.setattr(tensorrt_engine, "load_tensorrt", lambda: trt)
    before = sorted(bundle.path.rglob("*"))
    plan, good = tmp_path / "own.plan", pictures / "train" / "good"
    words = ["--bundle", str(bundle.path), "--int8", "--calibrate", str(good), "--plan", str(plan), "--batch", "1:2:4"]
    assert main([*words, "--dla-core", "0", "--batch", "1:1:1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"plan": str(plan), "cache": f"{plan}.cache", "megabytes": 0.0, "proved": False}
    assert plan.read_bytes() == b"plan"
    assert (tmp_path / "own.plan.cache").read_bytes() == b"TRT-8601-EntropyCalibration2"
    assert {"INT8", "FP16"} <= trt.config.flags
    assert len(trt.pictures) == len(list(good.glob("*.png")))
    assert np.array_equal(trt.pictures[0][0], read_input(sorted(good.glob("*.png"))[0], bundle.manifest.input))
    trt.pictures.clear()
    assert main(words) == 0  # the ranges are known now
    assert trt.pictures == []
    assert "compared with nothing" in capsys.readouterr().out
    assert sorted(bundle.path.rglob("*")) == before
    with pytest.raises(CallError, match="holds no pictures"):
        main([*words[:3], "--calibrate", str(tmp_path / "none"), "--plan", str(plan)])


def test_a_tensorrt_without_calibrators_names_what_needs_none(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = FakeMemory(ORIN)
    memory.close = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setattr(dskd.export.trt, "find_device", lambda: ORIN)
    monkeypatch.setattr(dskd.export.trt, "open_memory", lambda device: memory)
    monkeypatch.setattr(tensorrt_engine, "load_tensorrt", lambda: FakeTensorRT("11.4.0"))
    words = ["--calibrate", str(pictures / "train" / "good"), "--plan", str(tmp_path / "x")]
    with pytest.raises(
        MissingPart, match=r"TensorRT 11\.4\.0 has no IInt8EntropyCalibrator2; .*model\.int8\.onnx needs none"
    ):
        main(["--bundle", str(bundle.path), "--int8", *words])
