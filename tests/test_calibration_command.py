"""``python -m calibration`` on a trained bundle: its files, its caches, its refusals."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, Member

from dskd.calibration import judged
from dskd.calibration.__main__ import main
from dskd.calibration.compare import answer_files
from dskd.calibration.images import FEWEST
from dskd.calibration.judged import judge_all
from dskd.calibration.pictures import Labelled
from dskd.runtime.backends import open_backend
from dskd.runtime.bundle import Bundle, load_bundle
from dskd.runtime.errors import exit_with_code
from dskd.runtime.images import write_image
from dskd.runtime.inspector import golden_check
from dskd.train import metrics
from dskd.train.data import find_images


@pytest.fixture(scope="module")
def dskd(members: Callable[[str], Member]) -> Member:
    """What the command does is the same for all."""
    return members("dskd")


@pytest.fixture(scope="module")
def calibrated(dskd: Member, tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    """A bundle that the command calibrated, with pictures named by option (the small run has too few of its own)."""
    folder = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(dskd.bundle.path, folder / "bundle")
    good = folder / "good"
    good.mkdir()
    record = dskd.run.record
    for k, name in enumerate(record["training"] + record["held_out"]):  # type: ignore[operator]
        for copy in range(2):
            shutil.copy(name, good / f"{k}_{copy}.png")
    done = command(
        "calibration", "--bundle", folder / "bundle", "--images", good, "--held-out", good, "--labelled",
        record["data"], "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {row["graph"] for row in report["rows"]} == {
        "model.onnx", "model.onnx@bf16", "model.fp16.onnx", "model.int8.onnx", "model.int8.cpu.onnx"
    }  # fmt: skip
    assert {"image_auroc", "pixel_auroc", "pro"} == set(report["rows"][0]["labelled"])
    assert 50 < report["peak_memory_mb"] < 1000
    return folder


def test_a_calibrated_bundle_loads_with_thresholds_for_each_precision(calibrated: Path) -> None:
    bundle = load_bundle(calibrated / "bundle")
    thresholds = {name: graph.thresholds.reject.score for name, graph in bundle.manifest.graphs.items()}
    assert len(set(thresholds.values())) == 5
    for precision in ("fp32", "fp16", "int8"):
        backend = open_backend(bundle, "onnxruntime", precision=precision)  # type: ignore[arg-type]
        golden_check(bundle, backend)
        backend.close()
    for name in ("report.json", "report.md", "report.html", "observed.json", "images.json"):
        assert f"calibration/{name}" in bundle.manifest.files
    hashes = json.loads((calibrated / "bundle" / "calibration" / "images.json").read_text())
    path, expected = next(iter(hashes.items()))
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == expected


@pytest.mark.thorough
def test_a_rerun_from_the_cache_is_bit_identical(calibrated: Path, command: Command, tmp_path: Path) -> None:
    shutil.copytree(calibrated / "bundle", tmp_path / "bundle")
    arguments = ("--images", calibrated / "good", "--held-out", calibrated / "good")
    done = command("calibration", "--bundle", tmp_path / "bundle", *arguments)
    assert done.returncode == 0, done.stderr
    for name in ("model.int8.onnx", "model.int8.cpu.onnx", "calibration/observed.json"):
        assert (tmp_path / "bundle" / name).read_bytes() == (calibrated / "bundle" / name).read_bytes(), name


@pytest.mark.slow
def test_every_method_is_calibrated_and_stays_golden(calibrated_member: Bundle) -> None:
    manifest = calibrated_member.manifest
    assert {graph.precision for graph in manifest.graphs.values()} == {"fp32", "bf16", "fp16", "int8"}
    for backend, precisions in (("onnxruntime", ("fp32", "fp16", "int8")), ("openvino", ("fp32", "int8"))):
        for precision in precisions:
            opened = open_backend(calibrated_member, backend, precision=precision)  # type: ignore[arg-type]
            golden_check(calibrated_member, opened)
            opened.close()
    limits = {graph.thresholds.reject.score for graph in manifest.graphs.values()}
    assert len(limits) == len(manifest.graphs) == 5
    report = json.loads(calibrated_member.file("calibration/report.json").read_text())
    assert {row["graph"] for row in report["rows"]} == set(manifest.graphs)
    assert report["sensitivity"]
    assert calibrated_member.file("calibration/report.html").stat().st_size > 1000


@pytest.mark.thorough
@pytest.mark.slow
def test_256_images_are_calibrated_in_less_than_a_gigabyte(
    full_width: Member, tmp_path: Path, command: Command
) -> None:
    """Networks of the size that ships; smaller pictures spare time, and it is copies of the graph that fill memory."""
    shutil.copytree(full_width.bundle.path, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "model.onnx").stat().st_size > 70e6
    rng = np.random.default_rng(0)
    for folder, count in (("good", 256), ("held_out", 8)):
        (tmp_path / folder).mkdir()
        for k in range(count):
            write_image(tmp_path / folder / f"{k}.png", rng.integers(0, 256, (24, 32, 3), np.uint8))
    done = command(
        "calibration", "--bundle", tmp_path / "bundle", "--images", tmp_path / "good", "--held-out",
        tmp_path / "held_out", "--target", "tensorrt", "--json", timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["images"] == "256 of 256"
    assert 100 < told["peak_memory_mb"] < 1000


Refused = Callable[..., tuple[int, str]]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Calls the command in this process; returns its exit code and what it said on stderr."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["calibration", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            exit_with_code(main)
        return int(str(done.value)), capsys.readouterr().err

    return call


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--count", "0"], 2, "--count must be at least 1"),
        (["--exclude", "nonsense"], 2, "no layer's name holds it"),
        (["--images", "nowhere"], 2, "nowhere is not a folder"),
        (["--tolerance", "-1"], 2, "--tolerance over 0"),
        (["--method", "guess"], 2, "invalid choice"),
    ],
)
def test_a_wrong_call_is_one_line(
    calibrated: Path, refused: Refused, options: list[str], code: int, message: str
) -> None:
    good = ["--images", calibrated / "good"] if "--images" not in options else []
    found, said = refused("--bundle", calibrated / "bundle", "--held-out", calibrated / "good", *good, *options)
    assert found == code, said
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_too_few_images_are_refused_and_the_bundle_stays(calibrated: Path, refused: Refused, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((calibrated / "good").iterdir())[: FEWEST - 1]:
        shutil.copy(path, few)
    before = load_bundle(calibrated / "bundle").id
    code, said = refused("--bundle", calibrated / "bundle", "--images", few, "--held-out", few)
    assert code == 1
    assert f"only {FEWEST - 1} usable images" in said
    assert load_bundle(calibrated / "bundle").id == before


def test_verify_says_how_far_each_precision_is(calibrated: Path, dskd: Member, command: Command) -> None:
    done = command(
        "export.verify", "--bundle", calibrated / "bundle", "--run", dskd.run.folder, "--images", 4, "--json"
    )
    assert done.returncode == 0, done.stderr
    lower = [pair for pair in json.loads(done.stdout)["pairs"] if pair["from"] == "onnx"]
    assert [pair["to"] for pair in lower] == ["bf16", "fp16", "int8", "int8.cpu"]
    _, half, *eight_bits = (pair["max_abs_diff_map"] for pair in lower)
    assert 0 < half < min(eight_bits)


def test_without_the_run_pictures_must_be_named(calibrated: Path, refused: Refused) -> None:
    code, said = refused("--bundle", calibrated / "bundle")
    assert code == 2
    assert "name good ones with --images" in said


def test_a_graph_is_judged_once_for_the_same_test_pictures(dskd: Member, pictures: Path, tmp_path: Path) -> None:
    bundle = dskd.bundle
    labelled = Labelled(find_images(pictures).test, bundle.manifest.input)
    first = judge_all(bundle, labelled, tmp_path)
    maps = answer_files(bundle, "model.onnx", labelled.paths, "")
    masks = np.stack(list(labelled.masks()))
    assert first["model.onnx"].scores == [float(score) for score in maps.scores]
    assert first["model.onnx"].figures == {
        "image_auroc": metrics.auroc(labelled.defective, maps.scores),
        "pixel_auroc": metrics.auroc(masks.ravel(), maps.maps.ravel()),
        "pro": metrics.pro(masks, maps.maps),
    }
    file = tmp_path / judged.CACHE
    kept = json.loads(file.read_text())
    for told in kept.values():
        told["figures"]["pro"] = -1.0
    file.write_text(json.dumps(kept))
    assert {found.figures["pro"] for found in judge_all(bundle, labelled, tmp_path).values()} == {-1.0}
    fewer = Labelled(labelled.items[1:], labelled.spec)
    assert len(judge_all(bundle, fewer, tmp_path)["model.onnx"].scores) == len(fewer.items)
    for damaged in ("{", "[]", '{"a": {"scores": 1}}'):
        file.write_text(damaged)
        assert judge_all(bundle, labelled, tmp_path) == first
