"""Who is measured and where results go: what is left out is said, and nothing is measured in vain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_bundle import tiny_bundle

from dskd.benchmarks import all as everything
from dskd.benchmarks import contenders, latency, throughput
from dskd.benchmarks.__main__ import main
from dskd.benchmarks.contenders import Contestant, contestants
from dskd.benchmarks.lab.documents import report
from dskd.benchmarks.lab.station import soak
from dskd.benchmarks.processes import Worker
from dskd.benchmarks.results import Results, read_results
from dskd.runtime.bundle.loading import Bundle, load_bundle, write_manifest
from dskd.runtime.bundle.manifest import Precision
from dskd.runtime.errors import CallError, DskdError, MissingPart

QUICK = ["--backend", "onnxruntime", "--threads", "1", "--size", "64x64", "--launches", "1", "--rounds", "1"]
QUICK += ["--seconds", "0.02", "--json"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def test_the_engines_that_are_built_are_measured_and_others_named(
    small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Contestant.worker

    def worker(self: Contestant, source: str, *more: object) -> Worker:
        if (self.backend, self.precision) == ("tensorrt", "fp32"):
            raise MissingPart("engines/model.fp32.plan: there is no engine; build it: python -m export.trt --fp32")
        if self.backend == "tensorrt":
            return real(Contestant(self.bundle, "onnxruntime", "fp32", 1), source, *more)
        raise MissingPart(f"{self.backend}: no GPU here")

    monkeypatch.setattr(Contestant, "worker", worker)
    results = contenders.blank([])
    options = latency.parser().parse_args(["--precision", "fp32,int8"])
    found = contestants(small, options, results)
    assert [each.name for each in found] == ["tensorrt int8"]
    assert [note.partition(":")[0] for note in results.notes if "no engine" in note] == ["tensorrt fp32"]
    assert len([note for note in results.notes if "no GPU here" in note]) == len(contenders.BACKENDS) - 1  # each once


def test_results_name_the_work_and_no_secret(small: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    words = ["latency", "--bundle", str(small.path), *QUICK, "--no-floor", f"--out={out}"]
    blank = contenders.blank(["latency", "--source", "rtsp://operator:hunter2@10.0.0.5/cam?token=abc", f"--out={out}"])
    assert blank.command == ["latency", "--source", "rtsp://10.0.0.5/cam?...", "--out=a.json"]
    assert main(words) == 0
    found = read_results(out)
    assert found.environment["bundle"] == small.id
    assert (found.environment["size"], found.environment["threads"]) == ("64x64", "1")


@pytest.mark.parametrize(
    ("out", "message"),
    [("pic.svg", "name it .json"), (".", "is no file"), ("pipe", "is no file"), ("file/a.json", "name another folder")],
)
def test_an_out_that_takes_no_results_is_refused_before_anything_is_measured(
    small: Bundle, tmp_path: Path, out: str, message: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CallError, match=message):
        main(["latency", "--bundle", str(small.path), *QUICK, "--out", str(tmp_path / out)])


def test_what_cannot_be_written_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = latency.parser().parse_args(["--out", str(tmp_path / "a.json")])
    results = Results(environment={}, command=[], notes=["a note"])

    def full(*_: object) -> None:
        raise DskdError("the disk is full")

    monkeypatch.setattr(Results, "write", full)
    with pytest.raises(DskdError, match="the disk is full"):
        contenders.finish(results, options)
    assert "left out: a note" in capsys.readouterr().out


def test_batches_that_the_bundle_does_not_take_are_named(small: Bundle) -> None:
    results = contenders.blank([])
    options = throughput.parser().parse_args(
        ["--bundle", str(small.path), *QUICK, "--batches", "1,8,16", "--cameras", "1"]
    )
    throughput.run(options, results)
    assert "batch 8, 16: the bundle takes 4 at most; export it with a larger --batch" in results.notes


def test_all_hands_on_what_was_given_also_where_it_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = dict[str, object]()

    def run(options: object, results: Results) -> Results:
        seen.update(vars(options))
        return results

    monkeypatch.setattr(everything, "PARTS", (throughput,))
    monkeypatch.setattr(throughput, "run", run)
    everything.main(["--launches", "3", "--rounds", "7", "--json"])
    assert (seen["launches"], seen["rounds"], seen["seconds"]) == (3, 7, 2.0)


def test_the_measurement_keeps_standard_output(small: Bundle) -> None:
    with pytest.raises(CallError, match="name a file"):
        main(["latency", "--bundle", str(small.path), *QUICK, "--sink", "jsonl://-"])


def test_wrong_calls_are_wrong_calls_and_a_killed_worker_is_named(small: Bundle) -> None:
    contestant = Contestant(small.path, "onnxruntime", "fp32", 1)
    with pytest.raises(CallError, match="nosuch"):
        contestant.worker("nosuch://x")
    with contestant.worker(contenders.golden_source(small)) as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(DskdError, match="onnxruntime fp32: was ended by signal 9"):
            worker.ask("inspect", seconds=0.1)
    precision: Precision = "bf16"
    with pytest.raises(CallError, match="bf16"):
        Contestant(small.path, "onnxruntime", precision, 1).worker(contenders.golden_source(small))


def test_a_soak_takes_a_bundle_of_single_pictures(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"max_batch": 1}))
    assert soak.rate(load_bundle(bundle.path)) > 0


def test_two_results_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Results(environment={}, command=[]).write(tmp_path / folder / "latency.json")
    files = [str(tmp_path / folder / "latency.json") for folder in ("a", "b")]
    with pytest.raises(CallError, match="rename one"):
        report.main([*files, "--out", str(tmp_path / "page.md")])


def test_a_terminated_measurement_leaves_nothing(small: Bundle, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dskd.benchmarks", "latency", "--bundle", str(small.path), *QUICK, "--seconds", "60"]
    process = subprocess.Popen(
        words, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not list(tmp_path.glob("dskd-bench-*/*/*.db")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 143
    assert not list(tmp_path.iterdir())
