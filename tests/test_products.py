"""Several products for one model: finding, splitting, balanced epochs, thresholds of their own, and the probes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, Command
from hypothesis import given
from hypothesis import strategies as st

from dskd.benchmarks.lab.models.probes import PROBES, cut_paste, mixup, probe_images
from dskd.export.run_to_bundle import export
from dskd.runtime.bundle.manifest import Thresholds
from dskd.runtime.errors import CallError
from dskd.train import data, metrics
from dskd.train.batches import Schedule
from dskd.train.config import load_config
from dskd.train.evaluate import score
from dskd.train.products import find_products, split_products
from dskd.train.run import run
from dskd.train.synthetic import PRODUCTS, write_set
from dskd.train.trained_run import load_run


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three products of different sizes."""
    root = tmp_path_factory.mktemp("products")
    for k, product in enumerate(PRODUCTS):
        write_set(root, train=12 + 2 * k, test_good=3, per_defect=1, product=product)
    return root


def test_products_are_different_pictures_and_the_same_seed_is_the_same_set(products: Path, tmp_path: Path) -> None:
    for product in PRODUCTS:
        again = write_set(tmp_path, train=1, test_good=1, per_defect=1, product=product)
        first = data.load_inputs([products / product / "train/good/000.png"], load_config(None, SMALL).input)
        assert first.std() > 5
        assert (again / "train/good/000.png").read_bytes() == (products / product / "train/good/000.png").read_bytes()


def test_a_parent_folder_and_single_folders_give_the_same_products(products: Path) -> None:
    together = find_products([products], ["all"])
    one_by_one = find_products([products / name for name in sorted(PRODUCTS)])
    assert together == one_by_one
    assert together.name == "brushed_plate+printed_label+woven_cloth"
    assert len(together.good) == 12 + 16 + 14
    assert [len(product.good) for product in together.products] == [12, 16, 14]
    defects = {item.defect for item in together.test}
    assert "good" in defects
    assert "woven_cloth/crack" in defects
    assert len(defects) == 1 + 3 * 5
    two = find_products([products], ["woven_cloth", "brushed_plate"])
    assert [product.name for product in two.products] == ["woven_cloth", "brushed_plate"]


def test_one_product_stays_what_it_was(products: Path) -> None:
    alone = find_products([products / "woven_cloth"])
    assert alone == data.find_images(products / "woven_cloth") == find_products([products], ["woven_cloth"])
    assert alone.products == ()
    assert alone.folders == [products / "woven_cloth"]


def test_what_cannot_be_told_apart_or_found_is_refused(products: Path, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="two products are named woven_cloth"):
        find_products([products / "woven_cloth"] * 2)
    with pytest.raises(CallError, match="--category goes with one --data"):
        find_products([products, products], ["woven_cloth"])
    with pytest.raises(CallError, match="no categories"):
        find_products([tmp_path], ["all"])


def test_each_product_is_split_by_itself(products: Path) -> None:
    config = load_config(None, [*SMALL, "data.held_out=0.25"])
    splits = split_products(find_products([products], ["all"]), config, strict=True)
    assert [(len(training), len(held_out)) for training, held_out in splits] == [(9, 3), (12, 4), (10, 4)]
    assert all(len({path.parts[-4] for path in training + held_out}) == 1 for training, held_out in splits)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=4), st.integers(1, 8), st.integers(0, 99))
def test_every_epoch_and_batch_shows_products_alike(sizes: list[int], batch: int, seed: int) -> None:
    count = sum(sizes)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    schedule = Schedule(count, batch, 2, seed, products=sizes)
    for draws in schedule:
        shown = Counter(int(owner[index]) for _, index in draws)
        counts = [shown.get(k, 0) for k in range(len(sizes))]
        assert max(counts) - min(counts) <= 1
    for k, size in enumerate(sizes):  # before one comes again, all of its product have come
        drawn = [index for draws in schedule for epoch, index in draws if epoch == 0 and owner[index] == k]
        assert all(len(set(drawn[at : at + size])) == len(drawn[at : at + size]) for at in range(0, len(drawn), size))
    later = Schedule(count, batch, 2, seed, products=sizes)
    later.first_step = schedule.steps // 2
    assert list(later) == list(schedule)[later.first_step :]


def test_one_product_is_drawn_as_ever() -> None:
    assert list(Schedule(11, 3, 2, 5, products=[11])) == list(Schedule(11, 3, 2, 5))


@pytest.mark.slow
def test_a_common_model_has_thresholds_and_figures_of_each_product(
    products: Path, command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "common"
    settings = [part for setting in [*SMALL, "method=snl", "recipe.epochs=1"] for part in ("--set", setting)]
    folders = [part for name in PRODUCTS for part in ("--data", products / name)]
    done = command("train", *folders, "--out", out, "--teacher-weights", "random", *settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("product ") == 3
    trained = load_run(out)
    assert trained.record["data"] == [str(products / name) for name in PRODUCTS]
    own = trained.record["products"]
    assert set(own) == set(PRODUCTS)
    for name, found in own.items():
        limits = Thresholds.model_validate(found["thresholds"])
        assert limits.reject.images == found["held_out_images"] > 0
        assert set(found["figures"]["teacher"]["per_defect"]) == {
            f"{name}/{defect}" for defect in ("blob", "colour_shift", "crack", "missing_piece", "scratch")
        }
    bundle, _ = export(trained, "teacher", tmp_path / "bundle", opset=20, batch=1, licence="test")
    assert bundle.manifest.method == "snl"


def test_probes_hold_both_products() -> None:
    rng = np.random.default_rng(0)
    dark, light = np.full((40, 60, 3), 20, np.uint8), np.full((40, 60, 3), 220, np.uint8)
    mixed = mixup(dark, light, rng)
    assert 90 < mixed.mean() < 150
    assert mixed.std() < 1
    for _ in range(20):
        pasted = cut_paste(dark, light, rng)
        assert set(np.unique(pasted)) == {20, 220}
        assert 0.01 < (pasted == 220).mean() < 0.2
    assert (dark == 20).all()
    for kind in PROBES:
        first, again = (probe_images([dark[None], light[None]], 5, kind) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert first.shape == (5, 40, 60, 3)


@pytest.mark.thorough
@pytest.mark.real
@pytest.mark.slow
def test_probes_stand_out_of_a_common_model(products: Path, real_weights: str, tmp_path: Path) -> None:
    """A short training; pictures that belong to no product score over the good ones of every product."""
    settings = [*SMALL, "method=snl", "recipe.epochs=6", "recipe.batch=6"]
    images = find_products([products], ["all"])
    run(load_config(None, settings), images, real_weights, tmp_path / "run", "cpu", strict=True)
    trained = load_run(tmp_path / "run")
    spec, device = trained.config.input, torch.device("cpu")
    good = [
        data.load_inputs([item.path for item in product.test if item.defect == "good"], spec)
        for product in images.products
    ]
    normal = score(trained.graph("teacher"), np.concatenate(good), device).scores
    for kind in PROBES:
        found = score(trained.graph("teacher"), probe_images(good, 30, kind), device).scores
        labels = np.repeat([False, True], [len(normal), len(found)])
        assert metrics.auroc(labels, np.concatenate((normal, found))) > 0.85, kind
