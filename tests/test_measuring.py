"""The benchmarks themselves: what they write, and whether they can tell a slower build from the same one."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from jetson_trees import jetson
from tiny_bundle import tiny_bundle

from benchmarks import (
    coldstart,
    compare,
    contenders,
    energy,
    latency,
    memory,
    parity,
    peers,
    report,
    throughput,
    trtexec,
    yardstick,
)
from benchmarks.__main__ import NAMES, main
from benchmarks.environment import describe
from benchmarks.intervals import RESOLUTION, Launches, changed, judge, paired_ratio
from benchmarks.plots import draw
from benchmarks.results import STORED, Floor, Results, ratio, read_results, row
from benchmarks.saturated import Camera, Saturated, counted
from runtime.backends import open_backend
from runtime.bundle import Bundle
from runtime.decision import Settings
from runtime.errors import CallError, DskdError, MissingPart
from runtime.result import Frame

QUICK = ["--backend", "onnxruntime", "--threads", "1", "--size", "64x64", "--json"]
SHORT = [*QUICK, "--launches", "2", "--rounds", "2", "--seconds", "0.02"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def planted(monkeypatch: pytest.MonkeyPatch, kind: str, amount: float) -> None:
    words = (sys.executable, str(ROOT / "tests" / "planted_worker.py"), kind, str(amount))
    monkeypatch.setattr(contenders, "WORKER", words)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@contextmanager
def one_core() -> Iterator[None]:
    """This process and those that it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# On generated samples


def samples(seed: int, scale: float = 1.0, machine: float = 1.0) -> tuple[Launches, Launches]:
    """Medians of 3 launches of 7 rounds, and the yardstick's: both slowed alike by a noisy, drifting machine."""
    random = np.random.default_rng(seed)
    busy = machine * np.exp(np.abs(random.normal(0, 0.2, (3, 7))) + np.linspace(0, 0.3, 21).reshape(3, 7))
    launch = np.exp(random.normal(0, 0.005, (3, 1)))
    own = 20 * scale * launch * busy * np.exp(random.normal(0, 0.015, (3, 7)))
    return own.tolist(), (5 * busy * np.exp(random.normal(0, 0.015, (3, 7)))).tolist()


def test_a_machine_that_got_slower_is_not_taken_for_a_slower_build() -> None:
    """Generated samples: the second run on a machine that takes 1.6 times as long for everything."""
    for seed in range(40):
        (before, stick), (after, later) = samples(seed), samples(seed + 1000, machine=1.6)
        assert judge(changed(before, after, stick, later)) == "not distinguishable"


def test_ten_per_cent_are_found_either_way() -> None:
    """Generated samples."""
    for seed in range(40):
        (before, stick), (after, later) = samples(seed), samples(seed + 1000, scale=1.1)
        assert judge(changed(before, after, stick, later)) == "slower"
        assert judge(changed(after, before, later, stick)) == "faster"


def test_an_interval_holds_the_true_ratio_and_says_nothing_below_the_resolution() -> None:
    """Generated samples: of 95 % intervals some miss, half of them would not be intervals."""
    held = 0
    for seed in range(60):
        (before, stick), (after, later) = samples(seed), samples(seed + 1000, scale=1 + RESOLUTION / 2)
        found = changed(before, after, stick, later)
        held += found.low <= 1 + RESOLUTION / 2 <= found.high
        assert judge(found) == "not distinguishable"
    assert held >= 45
    with pytest.raises(ValueError, match="do not fit"):
        paired_ratio([[1.0, 2.0]], [[1.0]])


def test_growth_is_that_of_the_least_that_is_held() -> None:
    jagged = [100 + (k % 7) for k in range(100)]
    assert memory.growth(jagged) == 0
    assert memory.growth([held + 0.1 * k for k, held in enumerate(jagged)]) == pytest.approx(5, abs=0.5)


def test_cameras_are_counted_between_two_batches() -> None:
    cameras = [Camera(name, [], Settings(1, 1)) for name in ("left", "right")]
    for batch in range(20):
        for camera in cameras:
            camera.judgements.append(0.1 * batch)
            camera.waits.append(0.1)
    found = counted(cameras, stopped=1.85)
    assert found["rate"] == pytest.approx(20.0)
    assert found["counts"] == [15, 15]


# On real runs of a real worker


@pytest.mark.alone
@pytest.mark.slow
def test_two_runs_of_one_build_cannot_be_told_apart_and_ten_per_cent_can(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real runs of a real network. In processor time, on one core, in short turns: of a test machine other programs may
    take half of any second, and one core more than another."""
    options = ["--bundle", str(bundle.path), *QUICK, "--precision", "fp32", "--no-floor"]
    options += ["--launches", "9", "--rounds", "10", "--seconds", "0.03"]

    def measured(name: str, share: float = 0.0) -> str:
        with monkeypatch.context() as patched, one_core():
            if share:
                planted(patched, "slow", share)
            assert latency.main([*options, "--out", str(tmp_path / name)]) == 0
        return str(tmp_path / name)

    def judgement(after: str, share: float, wanted: int) -> tuple[int, list[tuple[str, float]]]:
        """A 95 % interval misses now and then, and is wide where the machine is busy: four attempts, each anew."""
        for attempt in range(4):
            if attempt or not before:
                before[:] = [measured("before.json")]
            files = *before, measured(f"{after}.json", share)
            capsys.readouterr()
            ended = compare.main([*files, "--only", "frame to verdict, CPU", "--json"])
            found = [(r["judgement"], r["median"]) for r in json.loads(capsys.readouterr().out)["ratios"]]
            if ended == wanted:
                break
        return ended, found

    before: list[str] = []
    equal, slower = judgement("equal", 0.0, wanted=0), judgement("slower", 0.1, wanted=1)
    assert (equal[0], [judged for judged, _ in equal[1]]) == (0, ["not distinguishable"])
    assert (slower[0], [judged for judged, _ in slower[1]]) == (1, ["slower"])
    assert 1.05 < slower[1][0][1] < 1.2


def test_latency_tells_every_stage_and_writes_json_table_and_picture(
    small: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "latency.json"
    words = ["--bundle", str(small.path), *SHORT, "--no-floor", "--out", str(file)]
    assert latency.main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(file.read_text())
    rows = {found["what"]: found for found in printed["rows"] if found["name"] == "onnxruntime fp32"}
    stages = {"read", "preprocess", "inference", "decision", STORED, "frame to verdict", "bare network"}
    assert stages <= set(rows)
    for found in rows.values():
        assert {"name", "unit", "median", "p10", "p90", "n"} <= set(found)
        assert found["p10"] <= found["median"] <= found["p90"] <= found["p99"] <= found["max"]
        assert [len(launch) for launch in found["rounds"]] == [2, 2]
    inside = sum(rows[stage]["median"] for stage in ("preprocess", "inference", "decision"))
    assert inside <= 1.5 * rows["frame to verdict"]["median"]
    assert {"of", "to", "median", "low", "high"} <= set(printed["ratios"][0])
    assert {"cpu", "cores", "versions", "python"} <= set(printed["environment"])
    assert "<svg" in file.with_suffix(".svg").read_text()
    assert latency.main([word for word in words if word != "--json"]) == 0
    assert "frame to verdict" in capsys.readouterr().out


def test_cameras_that_always_have_a_frame_are_served_alike(small: Bundle) -> None:
    picture = np.random.default_rng(0).integers(90, 160, (40, 40, 3), dtype=np.uint8)
    frames = [Frame("", "", 0.0, picture)]
    saturated = Saturated(small, lambda: open_backend(small, threads=1), frames, Settings(9, 9))
    try:
        for cameras in (1, 8, 9):
            found = saturated.run(cameras, 0.1)
            assert len(found["counts"]) == cameras  # type: ignore[arg-type]
            assert max(found["counts"]) - min(found["counts"]) <= 1  # type: ignore[call-overload]
            assert found["rate"] > 0  # type: ignore[operator]
    finally:
        saturated.close()


def test_every_sweep_has_its_rows_and_ratios(small: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--bundle", str(small.path), *SHORT, "--batches", "1,4,8", "--cameras", "1,8"]
    assert throughput.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    fairness = {each["name"]: each["median"] for each in found["rows"] if each["what"] == "fairness"}
    assert set(fairness) == {f"onnxruntime fp32, cameras {n}" for n in (1, 8)}
    rates = {each["name"] for each in found["rows"] if each["what"] == "rate"}
    assert {f"onnxruntime fp32, batch {n}" for n in (1, 4)} <= rates  # the bundle takes no batch of 8
    assert "onnxruntime fp32, batch 8" not in rates
    assert any("cameras 8" in each["of"] and "cameras 1" in each["to"] for each in found["ratios"])
    with pytest.raises(CallError, match="--cameras"):
        throughput.main([*words, "--cameras", "0,8"])


def test_memory_is_flat_and_a_leak_is_found(
    small: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--bundle", str(small.path), *QUICK, "--frames", "4000"]
    assert memory.main(words) == 0
    rows = {each["what"]: each for each in json.loads(capsys.readouterr().out)["rows"]}
    assert 10 < rows["pss"]["median"] <= rows["rss"]["median"] <= rows["peak"]["max"]
    assert rows["left behind by a frame"]["median"] < 100  # bytes
    assert rows["bytes read of the frame"]["median"] == 64 * 64 * 3 / 1e3
    planted(monkeypatch, "leak", 2000)
    with pytest.raises(DskdError, match="memory grew by"):
        memory.main(words)


def test_cold_start_is_that_of_the_shipped_command(
    small: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert coldstart.main(["--bundle", str(small.path), *SHORT]) == 0
    rows = {each["what"]: each for each in json.loads(capsys.readouterr().out)["rows"]}
    assert rows[coldstart.FIRST]["median"] > 0
    assert rows[coldstart.PEAK]["median"] > 10
    with pytest.raises(DskdError, match=r"exit code 2.*no bundle there"):
        coldstart.started([sys.executable, "-m", "runtime", "--bundle", str(tmp_path / "none")])


def test_parity_is_the_distance_from_the_trained_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tiny_bundle(tmp_path / "tiny", golden_error=5e-5)
    assert parity.main(["--bundle", str(made.path), *QUICK]) == 0
    rows = {each["what"]: each for each in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["score difference"]["max"] == pytest.approx(5e-5, rel=0.1)
    assert rows["score difference"]["max"] < rows["score difference allowed"]["median"]


def test_energy_is_watts_over_inspections(small: Bundle, tmp_path: Path) -> None:
    options = energy.parser().parse_args(["--bundle", str(small.path), *QUICK, "--seconds", "0.6"])
    results = energy.run(options, contenders.blank([]), jetson(tmp_path / "nx", "nx", "jp6"))
    rows = {(each.name, each.what): each.median for each in results.rows}
    name, watts = "onnxruntime fp32", 19.0 * 0.4  # VDD_IN of the tree
    assert rows[name, "power"] == rows["at rest", "power"] == pytest.approx(watts)
    assert rows[name, "joules an inspection"] * rows[name, "rate"] == pytest.approx(watts)
    assert rows[name, "joules over rest an inspection"] == pytest.approx(0, abs=1e-9)
    assert rows[name, "inspections a second and watt"] == pytest.approx(rows[name, "rate"] / watts)
    with pytest.raises(MissingPart, match="no power rails"):
        energy.run(options, contenders.blank([]), jetson(tmp_path / "bare", "nx", "jp6").__class__(tmp_path / "none"))


def test_a_worker_that_cannot_work_says_why(small: Bundle) -> None:
    with pytest.raises(DskdError, match=r"model\.int8"):
        latency.main(["--bundle", str(small.path), *SHORT, "--precision", "int8"])
    with pytest.raises(CallError, match="--backend abacus"):
        latency.main(["--bundle", str(small.path), *SHORT, "--backend", "abacus"])
    with pytest.raises(CallError, match="--rounds 0"):
        latency.main(["--bundle", str(small.path), *SHORT, "--rounds", "0"])


@pytest.mark.slow
def test_the_probe_is_nearly_all_multiply_accumulate_in_every_precision(tmp_path: Path) -> None:
    import onnx

    from benchmarks.floor import copy_bandwidth
    from benchmarks.probe import MACS, write_probe
    from export.graph_cost import graph_cost
    from runtime.backends import open_backend

    probe = write_probe(tmp_path / "probe")
    found = graph_cost(onnx.load(probe.file("model.onnx")))
    assert found.macs == MACS
    assert found.activations == 64 * 64 * (3 + 13 * 256)  # each map is written once and read once
    golden = probe.golden()
    for precision in ("fp32", "fp16", "int8"):
        backend = open_backend(probe, "onnxruntime", 1, precision)  # type: ignore[arg-type]
        answer = backend.infer(golden.inputs[:1])
        assert np.abs(answer.maps() - golden.maps[:1]).max() < 0.1 * golden.maps.max()
        backend.close()
    assert copy_bandwidth(1, 1 << 20) > 1e6


@pytest.mark.slow
def test_all_is_one_file_with_a_floor_and_says_what_it_left_out(
    small: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--bundle", str(small.path), *QUICK, "--launches", "1", "--rounds", "1", "--seconds", "0.02"]
    assert main(["all", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["benchmark"] for each in found["rows"]} == {"latency", "throughput", "memory", "coldstart", "parity"}
    assert any("no power rails" in note for note in found["notes"])


# Files, pages and other programs' output


def results_of(rows: int = 2) -> Results:
    found = Results(environment={"cpu": "a|b", "cores": 2, "versions": {"numpy": "2"}}, command=["latency"])
    for k in range(rows):
        found.rows.append(
            row("latency", f"backend{k}", "frame to verdict", "ms", [1.0 + k, 2.0], rounds=[[1.0 + k, 2.0]])
        )
    found.ratios.append(ratio(found.rows[0], found.rows[-1]))
    found.floors.append(
        Floor(name="b", macs=1e9, bytes=1e8, peak_macs=1e11, bandwidth=1e10, floor_ms=10, measured_ms=20)
    )
    found.yardsticks["latency"] = [[1.0, 1.0]]
    return found


def test_a_page_is_made_of_results_and_of_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "cpu.json"
    results_of().write(file)
    page = tmp_path / "docs" / "performance.md"
    assert report.main([str(file), "--out", str(page)]) == 0
    text = page.read_text()
    assert "| backend1 | frame to verdict | ms |" in text
    assert r"a\|b" in text
    assert "| GPU |" not in text  # none was there
    assert "50%" in text.replace(" ", "")
    assert (page.parent / "figures" / "performance-cpu.svg").is_file()
    assert len({line.count("|") for line in text.splitlines() if line.startswith("| backend")}) <= 2
    again = page.read_text(), (page.parent / "figures" / "performance-cpu.svg").read_bytes()
    assert report.main([str(file), "--out", str(page)]) == 0
    assert again == (page.read_text(), (page.parent / "figures" / "performance-cpu.svg").read_bytes())


def test_results_of_another_yardstick_are_not_compared(tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    results_of().write(before)
    results_of().model_copy(update={"yardstick": yardstick.NAME}).write(after)
    assert compare.main([str(after), str(after)]) == 0
    with pytest.raises(CallError, match="different yardsticks"):
        compare.main([str(before), str(after)])


def test_the_yardstick_is_the_network_that_its_file_holds() -> None:
    assert yardstick.FILE.read_bytes() == yardstick.graph().SerializeToString(deterministic=True)
    wall, processors = yardstick.measured()
    assert 0 < processors < 2 * wall  # on one core


def test_files_that_are_no_results_are_refused_in_one_line(tmp_path: Path) -> None:
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"environment": {}, "command": [], "rows": [{}]}')):
        file = tmp_path / name
        file.write_text(text)
        with pytest.raises(CallError, match="no results file"):
            read_results(file)
    with pytest.raises(CallError, match="cannot be read"):
        read_results(tmp_path)
    bare, other = tmp_path / "bare.json", tmp_path / "other.json"
    Results(environment={}, command=[]).write(bare)
    results_of().write(other)
    with pytest.raises(CallError, match="no figure in common"):
        compare.main([str(bare), str(other)])
    assert not draw(read_results(bare), tmp_path / "none.svg")


RECORDED = """[11/21/2026-10:15:02] [I] Starting inference
[11/21/2026-10:15:07] [I] === Performance summary ===
[11/21/2026-10:15:07] [I] Throughput: 412.35 qps
[11/21/2026-10:15:07] [I] Latency: min = 2.3711 ms, max = 3.01562 ms, mean = 2.41 ms, median = 2.40234 ms, percentile(99%) = 2.7 ms
[11/21/2026-10:15:07] [I] Enqueue Time: min = 0.0098 ms, max = 0.09 ms, mean = 0.0124 ms, median = 0.0117 ms, percentile(99%) = 0.03 ms
[11/21/2026-10:15:07] [I] H2D Latency: min = 0.0107 ms, max = 0.0625 ms, mean = 0.0145 ms, median = 0.0142 ms, percentile(99%) = 0.02 ms
[11/21/2026-10:15:07] [I] GPU Compute Time: min = 2.34 ms, max = 2.98 ms, mean = 2.38 ms, median = 2.37109 ms, percentile(99%) = 2.6 ms
[11/21/2026-10:15:07] [I] D2H Latency: min = 0.0029 ms, max = 0.03 ms, mean = 0.0048 ms, median = 0.0046 ms, percentile(99%) = 0.01 ms
"""


def test_trtexec_is_read_by_its_words() -> None:
    """On an output written after the documentation: it has not been run here."""
    assert trtexec.parse(RECORDED) == {"frame to verdict": 2.40234, "bare network": 2.37109, "rate": 412.35}
    with pytest.raises(DskdError, match="Engine could not be created"):
        trtexec.parse("[11/21/2026-10:15:02] [E] Engine could not be created from engine data")
    with pytest.raises(DskdError, match="no performance summary"):
        trtexec.parse("")


def test_trtexec_needs_an_engine_and_the_tool(small: Bundle, tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match=r"export\.trt --fp16"):
        trtexec.words(small, "fp16", 1.0)
    with pytest.raises(MissingPart, match="trtexec is not installed"):
        trtexec.turn(small, "fp16", 1.0, jetson(tmp_path, "nx", "jp6"))


def test_peers_are_installed_once_and_asked_for_by_name(small: Bundle, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    wanted = hashlib.sha256(peers.REQUIREMENTS.read_bytes()).hexdigest()
    (tmp_path / "requirements.sha256").write_text(wanted)
    assert peers.environment(tmp_path) == python
    pinned = [line for line in peers.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert all("==" in line for line in pinned)
    with pytest.raises(CallError, match="--models padim"):
        peers.main(["--bundle", str(small.path), *QUICK, "--models", "padim"])
    with pytest.raises(MissingPart, match=r"export\.trt"):
        peers.main(["--bundle", str(small.path), *QUICK, "--trtexec"])


@pytest.mark.slow
def test_anomalib_runs_beside_us_on_the_same_frames(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    folder = os.environ.get("DSKD_PEERS")
    if not folder:
        pytest.skip("DSKD_PEERS names no folder that python -m benchmarks peers filled: anomalib did not run")
    words = ["--bundle", str(bundle.path), *SHORT, "--precision", "fp32", "--peers-venv", folder, "--starts", "1"]
    assert peers.main([*words, "--inferencers", "torch,openvino"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = {each["name"] for each in found["rows"] if each["what"] == "frame to verdict"}
    assert names == {"onnxruntime fp32", "anomalib rd, torch", "anomalib rd, openvino"}
    assert {each["benchmark"] for each in found["ratios"]} == {"peers rd", "start rd"}
    assert "anomalib" in found["environment"]["peers"]


def test_a_jetson_is_described_with_mode_and_jetpack(tmp_path: Path) -> None:
    found = describe(jetson(tmp_path, "nano", "jp6"))
    assert found["power_mode"] == "MAXN_SUPER"
    assert found["jetpack"] == "6.2.1"
    assert "Orin Nano" in str(found["model"])
    assert "power_mode" not in describe()


def test_every_measurement_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "latency",
        "throughput",
        "memory",
        "coldstart",
        "parity",
        "energy",
        "peers",
        "all",
        "compare",
        "report",
    ):
        assert name in NAMES
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert f"python -m benchmarks {name}" in capsys.readouterr().out
