"""``python -m calibration`` on a trained bundle: its files, its caches, its refusals."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, Member

from dskd.calibration import judged
from dskd.calibration.__main__ import main
from dskd.calibration.flips import most_flips, require_few_flips
from dskd.calibration.images import FEWEST
from dskd.calibration.judged import judge_all
from dskd.calibration.pictures import Labelled, gather
from dskd.export.graph.add_graphs import add_graphs, float_answers
from dskd.export.graph.answers import HeldOut, answer_files
from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.capture.image_files import read_image, write_image
from dskd.runtime.errors import CallError, DskdError, NotExact, exit_with_code
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.inspection.golden import golden_check
from dskd.runtime.inspection.threshold import conformal_thresholds
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
        with suppress(NotExact) if precision == "int8" else nullcontext():  # a random teacher's network
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
    report = json.loads(calibrated_member.file("calibration/report.json").read_text())
    for backend, precisions in (("onnxruntime", ("fp32", "fp16", "int8")), ("openvino", ("fp32", "int8"))):
        for precision in precisions:
            opened = open_backend(calibrated_member, backend, precision=precision)  # type: ignore[arg-type]
            # In eight bits a random teacher's network gives each processor's rounding another answer: a refusal is right too.
            # What is taken and what is refused in eight bits stands in test_golden.py.
            with suppress(NotExact) if precision == "int8" else nullcontext():
                golden_check(calibrated_member, opened)
            opened.close()
    limits = {graph.thresholds.reject.score for graph in manifest.graphs.values()}
    assert len(limits) == len(manifest.graphs) == 5
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


# ------------------------------------------------------------------------------- pictures that were exchanged


@pytest.fixture
def line(dskd: Member, tmp_path: Path) -> Path:
    """The run with pictures of its own, of which it has enough, and its bundle as calibration left it earlier."""
    folder = tmp_path / "run"
    shutil.copytree(dskd.run.folder, folder, ignore=shutil.ignore_patterns("*.safetensors", "bundle"))
    shutil.copytree(dskd.bundle.path, folder / "bundle")
    record = json.loads((folder / "run.json").read_text())
    for kind in ("training", "held_out"):
        names = [folder / f"{kind}_{k}.png" for k in range(len(record[kind]))]
        for old, new in zip(record[kind], names, strict=True):
            shutil.copy(old, new)
        record[kind] = [str(name) for name in names]
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def exchange(picture: Path) -> None:
    write_image(picture, 255 - read_image(picture)[::-1])


def forget_hashes(run: Path) -> None:
    """As commit 86fd172 wrote its record."""
    record = json.loads((run / "run.json").read_text())
    for key in ("training_sha256", "held_out_sha256"):
        del record[key]
    (run / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize("kind", ["training", "held_out"])
@pytest.mark.parametrize("harm", [exchange, Path.unlink])
def test_pictures_that_changed_since_training_stop_the_command(
    line: Path, refused: Refused, kind: str, harm: Callable[[Path], None]
) -> None:
    harm(line / f"{kind}_1.png")
    before = load_bundle(line / "bundle").id
    code, said = refused("--bundle", line / "bundle")
    total = len(list(line.glob(f"{kind}_*"))) + (harm is Path.unlink)
    why = "is missing" if harm is Path.unlink else "was changed since training"
    assert code == 2
    assert f"{kind}_1.png: {why}, as 1 of {total} {kind.replace('_', '-')} pictures; " in said
    assert "--new-pictures" in said
    assert len(said.strip().splitlines()) == 1
    assert load_bundle(line / "bundle").id == before


def test_an_older_run_tells_changed_training_pictures_by_their_common_hash(line: Path, refused: Refused) -> None:
    forget_hashes(line)
    gather(load_bundle(line / "bundle"), None, None, None)
    exchange(line / "training_1.png")
    code, said = refused("--bundle", line / "bundle")
    assert code == 2
    assert "training_0.png: is one of pictures that were changed since training" in said


def test_an_older_run_tells_changed_held_out_pictures_by_their_scores(line: Path) -> None:
    forget_hashes(line)
    bundle = load_bundle(line / "bundle")
    pictures = gather(bundle, None, None, None)
    pictures.require_same(float_answers(bundle, pictures.held_out).scores)
    exchange(line / "held_out_1.png")
    with pytest.raises(CallError, match=r"held_out_1.png: has another score than in training, as 1 of 2 held-out"):
        pictures.require_same(float_answers(bundle, pictures.held_out).scores)


def test_changed_pictures_are_taken_as_new_where_that_is_asked_for(line: Path) -> None:
    exchange(line / "held_out_1.png")
    (line / "training_0.png").unlink()
    pictures = gather(load_bundle(line / "bundle"), None, None, None, as_new=True)
    assert pictures.new == ["1 of 12 training pictures", "1 of 2 held-out pictures"]
    assert len(pictures.held_out) == 2


def test_pictures_that_are_named_are_new_ones(line: Path) -> None:
    exchange(line / "held_out_1.png")
    (line / "other").mkdir()
    for picture in line.glob("*.png"):
        shutil.move(picture, line / "other")
    assert gather(load_bundle(line / "bundle"), line / "other", line / "other", None).new == []


def test_only_the_graph_that_is_named_gets_other_thresholds(calibrated: Path, tmp_path: Path) -> None:
    """And what was written before by the same pictures: golden answers, thresholds, held-out scores."""
    shutil.copytree(calibrated / "bundle", tmp_path / "bundle")
    before = load_bundle(calibrated / "bundle")
    few = sorted((calibrated / "good").iterdir())[:3]
    made, _ = add_graphs(
        tmp_path / "bundle", before.manifest, {"model.int8.cpu.onnx": "int8"}, few, float_answers(before, few)
    )
    for name, graph in before.manifest.graphs.items():
        same = name != "model.int8.cpu.onnx"
        assert (made.manifest.graphs[name].thresholds == graph.thresholds) == same, name
        assert (made.held_out_scores(name) == before.held_out_scores(name)) == same, name
    assert {pair.target for pair in made.manifest.parity} >= {"bf16", "fp16", "int8", "int8.cpu"}


def test_flips_on_good_pictures_stop_the_command(bundle: Bundle) -> None:
    graph = "model.fp16.onnx"
    thresholds = conformal_thresholds(np.linspace(1, 2, 100), 0.02, 0.01)
    graphs = {name: each.model_copy(update={"thresholds": thresholds}) for name, each in bundle.manifest.graphs.items()}
    judging = replace(bundle, manifest=bundle.manifest.model_copy(update={"graphs": graphs}))
    low, high = HeldOut(np.full(100, 1.0, np.float32), 1.0), HeldOut(np.full(100, 9.0, np.float32), 1.0)
    require_few_flips(judging, {"model.onnx": low, graph: low}, [graph])
    with pytest.raises(DskdError, match=r"fp16.onnx judges 100 of 100 .* nothing was written: .* --accept-flips"):
        require_few_flips(judging, {"model.onnx": high, graph: low}, [graph])


@pytest.mark.parametrize(
    ("count", "rate", "most"),
    [(1, 0.1, 1), (4, 0.4, 4), (100, 0.02, 7), (100, 0.04, 11), (1000, 0.02, 35), (5, 1.2, 5)],
)
def test_how_many_flips_chance_explains(count: int, rate: float, most: int) -> None:
    """By the binomial distribution's tail of one in a thousand."""
    ways = [comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in range(count + 1)] if rate < 1 else [1.0]
    assert most_flips(count, rate) == most
    assert sum(ways[most + 1 :]) < 0.001
