"""A model of tiles from good pictures to verdicts: trained, exported, calibrated and run on the same tiles."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import NARROW

from dskd.export.run_to_bundle import export
from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.inspection.threshold import conformal_thresholds
from dskd.runtime.inspection.tiling import Grid, coarse, infer_tiles
from dskd.runtime.result import Frame
from dskd.train.config import TrainConfig, load_config
from dskd.train.data import cut_tiles, find_images, load_mask, read_tiles, usable
from dskd.train.evaluate import score
from dskd.train.run import run
from dskd.train.trained_run import TrainedRun, load_run

TILES = 9  # of a picture of 192 x 256 pixels, in tiles of 96 that share 16
SETTINGS = [
    "input.height=64", "input.width=64", "input.tiling.side=96", "input.tiling.overlap=16", "recipe.epochs=1",
    "recipe.batch=8", "recipe.precision=float32", *NARROW, "map.components=24", "map.rank=8",
]  # fmt: skip


@pytest.fixture(scope="module", params=["resnet18", pytest.param("efficientnet_lite0", marks=pytest.mark.thorough)])
def tiled_run(request: pytest.FixtureRequest, small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder = tmp_path_factory.mktemp("tiled") / "run"
    settings = [*SETTINGS, f"backbone={request.param}"]
    run(load_config(None, settings), find_images(small_set), "random", folder, "cpu", strict=True)
    return load_run(folder)


@pytest.fixture(scope="module")
def tiled_bundle(tiled_run: TrainedRun) -> Bundle:
    return export(tiled_run, "teacher", tiled_run.folder / "bundle", opset=20, batch=4, licence="test")[0]


def inspect(bundle: Bundle, graph: str, path: Path) -> float:
    """The score the runtime gives."""
    backend = open_backend(bundle, precision=bundle.manifest.graphs[graph].precision)
    assert backend.graph == graph
    settings = Settings.of(bundle.manifest.graphs[graph].thresholds)
    return Inspector(bundle, backend, settings).inspect(Frame("t", path.name, 0.0, read_image(path))).score


def reject_of(scores: list[float], config: TrainConfig) -> float:
    """The reject threshold that whole pictures' scores give."""
    rates = config.thresholds
    return conformal_thresholds(np.array(scores), rates.review_rate, rates.reject_rate).reject.score


def test_training_sees_every_tile_of_every_picture(tiled_run: TrainedRun) -> None:
    config, record = tiled_run.config, tiled_run.record
    assert len(read_tiles(Path(record["training"][0]), config.input)) == TILES  # type: ignore[index]
    steps = int((tiled_run.folder / "log.csv").read_text().splitlines()[-1].split(",")[0]) + 1
    assert steps == int(str(record["training_images"])) * TILES // config.recipe.batch


def test_thresholds_are_of_whole_pictures_as_the_runtime_scores_them(
    tiled_run: TrainedRun, tiled_bundle: Bundle
) -> None:
    """The largest of nine tiles' scores lies higher than one tile's: a tile's threshold would stop too many parts."""
    record = tiled_run.record
    held_out = [Path(path) for path in record["held_out"]]  # type: ignore[attr-defined]
    scores = [inspect(tiled_bundle, "model.onnx", path) for path in held_out]
    np.testing.assert_allclose(scores, record["held_out_scores"], atol=1e-4)
    assert tiled_run.thresholds.reject.images == len(held_out)
    assert tiled_run.thresholds.reject.score == pytest.approx(reject_of(scores, tiled_run.config), abs=1e-4)
    tiles = np.concatenate([read_tiles(path, tiled_run.config.input) for path in held_out])
    of_tiles = score(tiled_run.graph("teacher"), tiles, torch.device("cpu")).scores
    assert np.median(of_tiles) < np.median(scores)


def test_a_lower_precision_has_thresholds_of_whole_pictures_too(tiled_run: TrainedRun, tiled_bundle: Bundle) -> None:
    graph = tiled_bundle.manifest.graphs["model.fp16.onnx"]
    scores = [inspect(tiled_bundle, "model.fp16.onnx", Path(p)) for p in tiled_run.record["held_out"]]  # type: ignore[attr-defined]
    assert graph.thresholds.reject.images == len(scores)
    assert graph.thresholds.reject.score == pytest.approx(reject_of(scores, tiled_run.config), abs=1e-3)


def test_figures_look_at_the_merged_map(tiled_run: TrainedRun) -> None:
    found = tiled_run.record["figures"]["teacher"]  # type: ignore[index]
    assert 0 <= found["image_auroc"] <= 1
    assert 0 <= found["pixel_auroc"] <= 1


def test_the_bundle_carries_its_tiling_and_proves_itself_bare(
    tiled_bundle: Bundle, small_set: Path, command: object
) -> None:
    assert tiled_bundle.manifest.input.tiling is not None
    assert tiled_bundle.manifest.input.tiling.model_dump() == {"side": 96, "overlap": 16}
    source = small_set / "test" / "good" / "000.png"
    for arguments, frames in (((), 8), (("--source", source), 1)):
        done = command("runtime", "--bundle", tiled_bundle.path, *arguments, "--json")  # type: ignore[operator]
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert len(found.get("inspections", [found])) == frames


@pytest.mark.slow
def test_calibration_observes_tiles_and_judges_pictures(
    tiled_run: TrainedRun, tiled_bundle: Bundle, command: object
) -> None:
    done = command("calibration", "--bundle", tiled_bundle.path, "--count", 16, "--target", "cpu", "--json")  # type: ignore[operator]
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    bundle = load_bundle(tiled_bundle.path)
    quantised = bundle.manifest.graphs["model.int8.cpu.onnx"]
    record = json.loads((bundle.path.parent / "run.json").read_text())
    held_out = [Path(path) for path in record["held_out"]]
    assert report["images"] == f"16 of {len(record['training']) * TILES}"
    assert quantised.thresholds.reject.images == len(held_out)
    scores = [inspect(bundle, "model.int8.cpu.onnx", path) for path in held_out]
    assert quantised.thresholds.reject.score == pytest.approx(reject_of(scores, tiled_run.config), rel=1e-3)


def test_a_picture_smaller_than_a_tile_is_named(small_set: Path, tmp_path: Path) -> None:
    spec = load_config(None, SETTINGS).input
    good = sorted((small_set / "train" / "good").iterdir())
    small = tmp_path / "small.png"
    cv2.imwrite(str(small), read_image(good[0])[:90])
    with pytest.raises(DskdError, match=r"small\.png: .*smaller than a tile of 96x96"):
        usable([*good, small], spec, strict=True)
    assert small not in usable([*good, small], spec, strict=False)


def test_a_mask_that_a_resize_would_lose_is_kept(small_set: Path, tmp_path: Path) -> None:
    spec = load_config(None, SETTINGS).input
    item = next(item for item in find_images(small_set).test if item.defect != "good")
    picture = tmp_path / "large.png"
    cv2.imwrite(str(picture), cv2.resize(read_image(item.path), (2560, 1920)))
    mask = np.zeros((1920, 2560), np.uint8)
    mask[1000:1004, 700:703] = 255
    file = tmp_path / "mask.png"
    cv2.imwrite(str(file), mask)
    marked = load_mask(type(item)(picture, item.defect, file), spec)
    assert marked.sum() == 1
    assert marked[33, 17]


def test_torch_and_runtime_merge_alike(tiled_run: TrainedRun, tiled_bundle: Bundle, small_set: Path) -> None:
    image = read_image(small_set / "test" / "good" / "000.png")
    spec = tiled_run.config.input
    seen = infer_tiles(open_backend(tiled_bundle), image, spec, 4).anomaly_map
    tiles = cut_tiles(image, spec)
    assert len(tiles) == len(Grid.of((192, 256), spec)) == TILES
    maps = score(tiled_run.graph("teacher"), tiles, torch.device("cpu")).maps
    assert seen.shape == (128, 171)
    np.testing.assert_allclose(seen[:30, :30], maps[0][:30, :30], atol=1e-4)  # no neighbour reaches there
    assert coarse(seen, 64, 64).max() == seen.max()


def test_a_mean_over_tiles_is_refused() -> None:
    with pytest.raises(CallError, match="no meaning over tiles"):
        load_config(None, [*SETTINGS, "map.score=mean"])
