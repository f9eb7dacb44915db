"""What the benchmarks write and read: results, pages, other programs' output, peers' installations."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from jetson_trees import jetson
from tiny_bundle import tiny_bundle

from dskd.benchmarks import (
    compare,
    floor,
    yardstick,
)
from dskd.benchmarks.__main__ import LAB, NAMES, main
from dskd.benchmarks.contenders import Contestant
from dskd.benchmarks.environment import describe
from dskd.benchmarks.lab.documents import report
from dskd.benchmarks.lab.peers import peers, trtexec
from dskd.benchmarks.plots import draw
from dskd.benchmarks.results import Floor, Results, ratio, read_results, row, table
from dskd.runtime.bundle.loading import Bundle
from dskd.runtime.errors import CallError, DskdError, MissingPart
from dskd.runtime.inspection.cuda import Device

QUICK = ["--backend", "onnxruntime", "--threads", "1", "--size", "64x64", "--json"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


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
    assert "| backend1 | 2 |" in text
    assert "frame to verdict (ms)" in text
    assert "`cpu.json`" in text
    assert r"a\|b" in text
    assert "GPU" not in report.machine(results_of(), set())  # none was there
    assert "50%" in text.replace(" ", "")
    assert (page.parent / "figures" / "performance-cpu.svg").is_file()
    assert len({line.count("|") for line in text.splitlines() if line.startswith("| backend")}) <= 2
    again = page.read_text(), (page.parent / "figures" / "performance-cpu.svg").read_bytes()
    assert report.main([str(file), "--out", str(page)]) == 0
    assert again == (page.read_text(), (page.parent / "figures" / "performance-cpu.svg").read_bytes())


def test_a_page_tells_clocks_what_really_ran_and_what_befell_it(tmp_path: Path) -> None:
    found = results_of()
    found.environment.update({"gpu_clock_mhz": 612.0, "memory_clock_mhz": 2133.0, "hottest_celsius": 51.5})
    found.backends["backend1"] = "openvino-int8+bf16"
    found.remarks.append("backend1: throttled, 2 times oc1")
    text = report.page([found], [None], [Path("cpu.json")])
    for fact in ("612.0 MHz of the GPU", "2133.0 MHz of its memory", "51.5 °C at most"):
        assert fact in text
    assert "backend1 is openvino-int8+bf16" in text
    assert "Note: backend1: throttled" in text
    assert "Left out" not in text
    shown = table(found)
    assert "backend1: openvino-int8+bf16" in shown
    assert "note: backend1: throttled" in shown
    assert "left out" not in shown


def test_a_page_says_a_machine_and_what_was_left_out_once() -> None:
    text = report.page([results_of(), results_of()], [None, None], [Path("one.json"), Path("two.json")])
    assert text.count("The machine and versions of above") == 1
    assert text.count("Left out: ") == len(results_of().notes)
    assert "`one.json`" in text
    assert "`two.json`" in text


def test_contenders_stand_in_the_order_of_their_numbers() -> None:
    found = results_of()
    for name in ("cameras 16", "cameras 8"):
        found.rows.append(row("throughput", name, "rate", "1/s", [4.0]))
        found.rows.append(row("throughput", name, "wait", "ms", [5.0] * 30))
    text = report.figures_table(found, "throughput")
    assert text.index("cameras 8") < text.index("cameras 16")


def test_results_of_before_are_reported_as_they_are(tmp_path: Path) -> None:
    """The file has neither backends nor remarks, and one row for all frames' decisions."""
    old = results_of().model_dump(exclude={"backends", "remarks"})
    old["rows"][0]["what"] = "decision"
    (tmp_path / "old.json").write_text(json.dumps(old))
    text = report.page([read_results(tmp_path / "old.json")], [None], [Path("old.json")])
    assert "decision (ms)" in text
    assert "Ran as" not in text
    assert "..., passed" not in text  # said only where there are such rows


def test_a_gpu_with_memory_of_its_own_gets_no_floor(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def device(integrated: bool) -> Device:
        return Device(0, "gpu", "9.0", 1 << 30, integrated)

    monkeypatch.setattr(floor, "find_device", lambda: device(False))
    assert floor.on_a_card("tensorrt-fp16")
    assert floor.on_a_card("onnxruntime-cuda")
    assert not floor.on_a_card("onnxruntime-cpu")
    chosen = [Contestant(small.path, "tensorrt", "fp16", 0)]
    found = floor.floors(small, chosen, {"tensorrt fp16": "tensorrt-fp16"}, {"tensorrt fp16": 1.0})
    assert (found.floors, len(found.notes)) == ([], 1)
    assert "memory of its own" in found.notes[0]
    monkeypatch.setattr(floor, "find_device", lambda: device(True))
    assert not floor.on_a_card("tensorrt-fp16")


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
        assert name in {**NAMES, **LAB}
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert f"python -m benchmarks {name}" in capsys.readouterr().out
