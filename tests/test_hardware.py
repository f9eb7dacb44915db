"""``python -m benchmarks hardware``: without a GPU what it can; every other step with stand-ins for what it would find."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from libcuda_stub import build_stub
from tiny_bundle import tiny_bundle

from dskd.benchmarks import hardware, hardware_rig, hardware_steps
from dskd.benchmarks.hardware_rig import Rig
from dskd.benchmarks.hardware_steps import STEPS
from dskd.runtime.errors import CallError, DskdError, MissingPart
from dskd.runtime.inspection.backends import tensorrt, tensorrt_engine
from dskd.runtime.inspection.backends.onnx_runtime import OnnxRuntimeBackend
from dskd.runtime.inspection.engine import engine_paths


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    tiny_bundle(tmp_path / "bundle")
    return Rig(tmp_path)


class Engine(OnnxRuntimeBackend):
    """Answers for an engine of the tiny bundle."""

    largest = 3

    def warm_up(self) -> None:
        pass


@pytest.fixture
def on_a_device(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A GPU, and an engine that is right."""
    for module in (hardware_steps, hardware_rig):
        monkeypatch.setattr(module, "find_device", lambda: SimpleNamespace(name="Orin", multiprocessors=8))
    monkeypatch.setattr(hardware_steps, "engine_of", lambda bundle, precision: Engine(bundle, "model.onnx", 1))
    monkeypatch.setattr(hardware_steps, "median", lambda call, seconds: call() and 0.5)
    plan, _ = engine_paths(rig.bundle, "fp32")
    plan.parent.mkdir()
    plan.write_bytes(b"plan")
    return rig


def saying(answers: Callable[[tuple[object, ...]], str]) -> Any:
    """``Rig.run`` that runs nothing; ``seen`` are its calls."""

    def run(self: Rig, *words: object, environment: object = None) -> Any:
        seen.append(words)
        return SimpleNamespace(stdout=answers(words))

    seen: list[tuple[object, ...]] = []
    run.seen = seen  # type: ignore[attr-defined]
    return run


# ------------------------------------------------------------------------------------------------------- the command


def test_what_is_missing_is_said_and_the_rest_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_bundle(tmp_path / "tiny")
    words = ["--bundle", str(tmp_path / "tiny"), "--out", str(tmp_path / "out"), "--only", "agreement,installed"]
    assert hardware.main(words) == 3
    result = json.loads((tmp_path / "out/hardware.json").read_text())
    states = {step["name"]: (step["state"], step["why"]) for step in result["steps"]}
    assert states == {"agreement": ("missing", "no engine was built"), "installed": ("done", "")}
    page = (tmp_path / "out/hardware.md").read_text()
    assert "| agreement | engine against onnxruntime on the same graph | missing |" in page
    assert "* onnxruntime: 1." in page
    assert not (tmp_path / "tiny/engines").exists()
    assert "agreement  missing" in capsys.readouterr().out
    with pytest.raises(CallError, match="there is no such step"):
        hardware.main([*words[:-1], "speed"])


@pytest.mark.parametrize(
    ("program", "state", "why"),
    [
        ("kill -9 $$", "failed", "it said nothing (exit code -9"),
        ("echo 'error: engine|broken' >&2; exit 1", "failed", "engine|broken (exit code 1"),
        ("echo 'error: no GPU; go elsewhere' >&2; exit 3", "missing", "no GPU"),
        ("sleep 60", "failed", "took more than"),
        ("echo '{\"a\": 1}'", "done", ""),
    ],
)
def test_a_step_that_crashes_or_hangs_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, state: str, why: str
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{program.replace('sleep', 'exec sleep')}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setitem(
        STEPS, "installed", hardware_steps.Step(hardware_steps.installed, "", 0.5 if "sleep" in program else 30)
    )
    found = hardware.take("installed", tmp_path, 100.0)
    assert (found.state, found.why.startswith(why)) == (state, True), found
    assert "engine|broken" not in hardware.page({}, "b", [found])  # it would be two cells
    assert hardware.take("builds", tmp_path, 5.0).state == "no time"


# ----------------------------------------------------------------------------------------------------------- its steps


def test_the_memory_tests_run_from_a_checkout(on_a_device: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rig, "run", saying(lambda words: "...\n7 passed"))
    assert STEPS["memory"].run(on_a_device) == {"said": "7 passed"}
    monkeypatch.setattr(hardware_steps, "TESTS", on_a_device.work / "nowhere")
    with pytest.raises(MissingPart, match="in a checkout only"):
        STEPS["memory"].run(on_a_device)


def test_builds_of_each_precision_are_told(on_a_device: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"build_seconds": 9.0, "form": ""}
    run = saying(lambda words: json.dumps({"facts": facts, "megabytes": 1.5}))
    monkeypatch.setattr(Rig, "run", run)
    assert STEPS["builds"].run(on_a_device) == {"fp32": {"seconds": 9.0, "megabytes": 1.5, "form": ""}}
    assert "--verbose" in run.seen[0]

    def fails(self: Rig, *words: object, environment: object = None) -> None:
        raise DskdError("no matching rules found")

    monkeypatch.setattr(Rig, "run", fails)
    with pytest.raises(DskdError, match=r"no precision builds here: .*no matching rules"):
        STEPS["builds"].run(on_a_device)


def test_an_engine_is_compared_on_the_same_graph(on_a_device: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    right = STEPS["agreement"].run(on_a_device)["fp32"]
    assert (right["score off"], right["map off of its spread"], right["verdicts that change"]) == (0, 0, 0)
    assert right["factor"] == pytest.approx(1)
    infer = Engine.infer

    def doubled(self: Engine, batch: Any) -> Any:
        output = infer(self, batch)
        maps = output.maps() * np.float32(2)
        return SimpleNamespace(scores=output.scores * np.float32(2), maps=lambda: maps)

    monkeypatch.setattr(Engine, "infer", doubled)
    wrong = STEPS["agreement"].run(on_a_device)["fp32"]
    assert wrong["factor"] == pytest.approx(2)
    assert wrong["score off"] == pytest.approx(1)


def test_layers_left_alone_are_counted(rig: Rig) -> None:
    names = ["conv1 + relu", "encoder/QuantizeLinear_3", "Reformatting CopyNode for Input", "DequantizeLinear + Conv_5"]
    made = {"Layers": [{"Name": name, "LayerType": "CaskConvolution"} for name in names]}
    (rig.work / "int8.layers.json").write_text(json.dumps({"engine": made, "layers": [{"type": "CONVOLUTION"}]}))
    found = STEPS["layers"].run(rig)["int8"]
    assert (found["entries"], found["alone"], found["parsed"]) == (4, 2, {"CONVOLUTION": 1})
    (rig.work / "int8.layers.json").write_text(json.dumps({"engine": {"Layers": names}}))  # without detail: names alone
    assert STEPS["layers"].run(rig)["int8"]["alone"] == 2


def test_trtexec_is_asked(on_a_device: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = on_a_device.work / "bin/trtexec"
    tool.parent.mkdir()
    line = "[I] GPU Compute Time: min = 1.0 ms, max = 2.0 ms, mean = 1.5 ms, median = 1.4 ms, percentile(99%) = 2 ms"
    tool.write_text(f"#!/bin/sh\necho '{line}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    assert STEPS["trtexec"].run(on_a_device) == {"fp32": 1.4}
    tool.write_text("#!/bin/sh\nexit 1\n")
    assert STEPS["trtexec"].run(on_a_device) == {"fp32": "no figure (exit code 1)"}


def test_calls_are_timed_warm_and_from_the_first(on_a_device: Rig) -> None:
    assert STEPS["latency"].run(on_a_device) == {"fp32": 0.5}
    found = STEPS["calls"].run(on_a_device)
    assert list(found) == ["fp32, 1", "fp32, 2", "fp32, 3"]
    assert all(len(times) == 5 for times in found.values())


def test_a_poisoned_context_is_recognised(tmp_path: Path) -> None:
    """By the real cuda-bindings on the driver's stub; what poisons it is the stub itself."""
    script = (
        "import ctypes; from pathlib import Path; from dskd.benchmarks import hardware_steps as steps\n"
        "steps.write_nowhere = lambda memory: ctypes.CDLL('libcuda.so.1').stub_poison(CODE)\n"
        "print(steps.STEPS['poison'].run(steps.Rig(Path('.'))))"
    )

    def run(code: int) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", script.replace("CODE", str(code))]
        paths = {"LD_LIBRARY_PATH": str(build_stub(tmp_path)), "PATH": "/usr/bin:/bin"}
        return subprocess.run(words, env=paths, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in run(700).stdout
    assert "a poisoned context is not recognised" in run(400).stderr


def test_forms_of_the_int8_graph_are_built_and_timed(on_a_device: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from dskd.export import engine_build

    built: list[Path] = []

    def build(trt: Any, file: Path, options: Any) -> Any:
        built.append(file)
        if len(built) == 2:
            raise DskdError("no matching rules found")
        return SimpleNamespace(plan=b"plan", seconds=3.0)

    monkeypatch.setattr(hardware_steps, "GRAPHS", {"int8": "model.onnx"})
    monkeypatch.setattr(engine_build, "build_engine", build)
    monkeypatch.setattr(tensorrt_engine, "load_tensorrt", lambda: None)
    monkeypatch.setattr(tensorrt, "TensorRtBackend", lambda bundle, precision, plan: Engine(bundle, "model.onnx", 1))
    found = STEPS["forms"].run(on_a_device)
    assert found["as it is"] == {"ms": 0.5, "seconds": 3.0}
    assert found["scales in float32"] == "failed: no matching rules found"
    assert len(found) == 4


def test_training_is_told_beside_the_cpus(on_a_device: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(words: tuple[object, ...]) -> str:
        if "--out" in words:
            out = Path(str(words[words.index("--out") + 1]))
            out.mkdir()
            (out / "log.csv").write_text("step,seconds,loss\n1,2.0,0.9\n2,4.0,0.7\n")
        return ""

    monkeypatch.setattr(Rig, "run", saying(answer))
    found = STEPS["training"].run(on_a_device)
    assert {device: found[device]["loss"] for device in found} == {"cuda": 0.7, "cpu": 0.7}


@pytest.mark.thorough
@pytest.mark.slow
def test_a_station_is_killed_and_comes_back(rig: Rig) -> None:
    found = STEPS["station"].run(rig)
    assert found["inspections"][1] > found["inspections"][0] > 0
    assert found["backend"].startswith(("onnxruntime", "openvino"))
