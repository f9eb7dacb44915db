"""Drift: the exact test against SciPy's, its stated false alarms by simulation, and what it finds."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from budget import cases
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from line_records import inspection
from scipy.stats import ks_2samp
from tiny_bundle import tiny_bundle

from dskd.runtime.bundle.loading import HELD_OUT, hash_files, load_bundle, write_manifest
from dskd.runtime.errors import DskdError
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.result import Verdict
from dskd.runtime.station.drift import YEAR, Drift, DriftWatch, first_passes, ks_distance, ks_probability
from dskd.runtime.station.drift_watches import DriftWatches
from dskd.runtime.station.recipe import Recipe
from dskd.runtime.store import Store

HOUR = 3600.0


@settings(max_examples=cases(80))
@given(
    a=st.lists(st.floats(-5, 5), min_size=1, max_size=40, unique=True),
    b=st.lists(st.floats(-5, 5), min_size=1, max_size=60, unique=True),
)
def test_the_test_is_scipys_exact_one(a: list[float], b: list[float]) -> None:
    first, second = np.sort(a), np.sort(b)
    try:
        known = ks_2samp(first, second, method="exact")
    except RuntimeWarning:  # SciPy gives its exact test up where rounding takes a probability of one over one
        reject()
    distance = ks_distance(first, second)
    assert distance == pytest.approx(known.statistic, abs=1e-12)
    assert ks_probability(distance, len(a), len(b)) == pytest.approx(known.pvalue, abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (3, 6), (4, 7)])
def test_the_test_counts_every_order_that_two_samples_can_have(n: int, m: int) -> None:
    orders = [np.isin(np.arange(n + m), chosen) for chosen in combinations(range(n + m), n)]
    distances = np.array([ks_distance(*(np.flatnonzero(side).astype(float) for side in (o, ~o))) for o in orders])
    for distance in np.unique(distances.round(12)):
        assert ks_probability(distance, n, m) == pytest.approx((distances >= distance - 1e-9).mean(), abs=1e-12)


def test_small_probabilities_are_right_too() -> None:
    rng = np.random.default_rng(3)
    a, b = np.sort(rng.normal(size=60)), np.sort(rng.normal(1.2, 1, size=200))
    known = ks_2samp(a, b, method="exact").pvalue
    assert 1e-15 < known < 1e-9
    assert ks_probability(ks_distance(a, b), 60, 200) == pytest.approx(known, abs=1e-12)


def watch(reference: np.ndarray, **options: float) -> DriftWatch:
    return DriftWatch(list(reference), "held-out good images", now=0.0, **options)  # type: ignore[arg-type]


def run(watched: DriftWatch, scores: np.ndarray, step: float, review: float = 1e9, start: float = 0.0) -> list[Drift]:
    found = [watched.feed(score, review, start + (k + 1) * step) for k, score in enumerate(scores) if score <= review]
    return [one for one in found if one is not None]


def test_false_alarms_are_as_rare_as_stated() -> None:
    """Forty stations that each check twenty times, at a level of 1 in 20 per check: one alarm per station on average."""
    size, alarms, stations = 25, 0, 40
    rng = np.random.default_rng(size)
    for _ in range(stations):
        watched = watch(rng.gamma(4, size=size), block=40, per_year=YEAR / HOUR / 20)
        checks = run(watched, rng.gamma(4, size=20 * 40), HOUR / 40)
        assert len(checks) == 20
        assert checks[0].level == pytest.approx(1 / 20)
        alarms += sum(check.drifted for check in checks)
    assert alarms / stations <= 1.0 + 3 * np.sqrt(20 / stations)  # alarms of one station share its reference


@pytest.mark.parametrize(("shift", "review"), [(1.2, 1e9), (-1.2, 1e9), (1.5, 2.5)])
def test_drift_is_found_within_hours_at_one_false_alarm_a_year(shift: float, review: float) -> None:
    rng = np.random.default_rng(1)
    watched = watch(rng.normal(1, 1, size=100))
    before = run(watched, rng.normal(1, 1, size=5000), HOUR / 1000, review)
    assert len(before) >= 4
    assert not any(check.drifted for check in before)
    after = run(watched, rng.normal(1 + shift, 1, size=5000), HOUR / 1000, review, start=5 * HOUR)
    assert after[-1].drifted
    assert "drift: passes score" in after[-1].sentence
    assert ("higher" if shift > 0 else "lower") in after[-1].sentence
    assert "held-out good images" in after[-1].sentence


def test_passes_cut_at_the_review_threshold_are_no_drift() -> None:
    """Half of all parts are over it: without the same cut of the reference that would look like drift."""
    rng = np.random.default_rng(2)
    watched = watch(rng.normal(0, 1, size=400), per_year=0.01)
    checks = run(watched, rng.normal(0, 1, size=10_000), HOUR / 1000, review=0.0)
    assert len(checks) > 5
    assert not any(check.drifted for check in checks)


def test_a_level_follows_the_time_and_is_bounded_after_a_standstill() -> None:
    watched = watch(np.arange(50.0))
    assert run(watched, np.arange(200.0), 1.0) == []  # a block, but no hour yet
    (check,) = run(watched, np.array([1.0]), 1.0, start=100 * 86400.0)
    assert check.level == pytest.approx(86400 / YEAR)


def test_too_few_reference_scores_say_so() -> None:
    (check,) = run(watch(np.arange(10.0)), np.arange(200.0) + 100, HOUR / 199)
    assert not check.drifted
    assert "too few" in check.sentence


def test_the_first_passes_are_kept_when_records_go(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.db")
    store.add([inspection(k, bundle="old") for k in range(5)])
    store.add([inspection(k) for k in range(5, 40)])
    assert first_passes(store, "top", "b1", "onnxruntime-cpu", 50) is None
    first = first_passes(store, "top", "b1", "onnxruntime-cpu", 30)
    assert first == [k / 100 for k in range(5, 35)]
    store.prune(keep=0)
    store.add([inspection(k) for k in range(100, 200)])
    assert first_passes(store, "top", "b1", "onnxruntime-cpu", 30) == first
    store.close()


def test_a_new_bundle_on_an_old_store_is_watched(tmp_path: Path) -> None:
    """Its passes are not among the oldest of the camera: the watch never began."""
    store = Store(tmp_path / "a.db")
    store.add([inspection(k, bundle="old") for k in range(200)])
    store.add([inspection(k) for k in range(200, 240)])
    assert first_passes(store, "top", "b1", "onnxruntime-cpu", 30) == [k / 100 for k in range(200, 230)]
    store.close()


def recipe_of(folder: Path, held_out: str | None) -> Recipe:
    """A recipe of a tiny bundle that holds ``held_out``."""
    bundle = tiny_bundle(folder)
    if held_out is not None:
        (folder / HELD_OUT).write_text(held_out)
        write_manifest(folder, bundle.manifest.model_copy(update={"files": hash_files(folder)}))
        bundle = load_bundle(folder)
    graph = bundle.manifest.graphs["model.onnx"]
    return Recipe("only", 0, bundle, "model.onnx", Settings.of(graph.thresholds), Verdict.REJECT)


def test_a_camera_is_compared_with_the_held_out_images_of_its_bundle(tmp_path: Path) -> None:
    scores = [k / 100 for k in range(30)]
    recipe = recipe_of(tmp_path / "tiny", json.dumps({"model.onnx": scores}))
    watches = DriftWatches(Store(tmp_path / "a.db"))
    watches.feed(inspection(1, bundle="b1"), recipe)  # judged before the recipe was changed: not this bundle's
    watches.refresh()
    assert watches._watches == {}
    watches.feed(inspection(1, bundle=recipe.bundle.id), recipe)
    watches.refresh()
    watched = watches._watches["top"]
    assert (list(watched.reference), watched.origin) == (scores, "held-out good images")


@pytest.mark.parametrize("held_out", [None, '{"model.onnx": [1.0, 2.0]}', '{"model.fp16.onnx": [1.0]}'])
def test_without_held_out_scores_the_first_passes_serve_and_a_person_hears_of_it_once(
    held_out: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_of(tmp_path / "tiny", held_out)
    store = Store(tmp_path / "a.db")
    watches = DriftWatches(store)
    watches.feed(inspection(1, bundle=recipe.bundle.id), recipe)
    watches.refresh()
    assert watches._watches == {}
    store.add([inspection(k, bundle=recipe.bundle.id) for k in range(300)])
    watches.refresh()
    watches.refresh()
    assert watches._watches["top"].origin == "first 200 passes"
    assert caplog.text.count("export it again") == 1


def test_held_out_scores_that_were_exchanged_are_refused_and_the_first_passes_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_of(tmp_path / "tiny", json.dumps({"model.onnx": [0.1] * 30}))
    (tmp_path / "tiny" / HELD_OUT).write_text(json.dumps({"model.onnx": [0.9] * 30}))
    with pytest.raises(DskdError, match="copy the bundle again"):
        recipe.bundle.held_out_scores("model.onnx")
    store = Store(tmp_path / "a.db")
    watches = DriftWatches(store)
    store.add([inspection(k, bundle=recipe.bundle.id) for k in range(300)])
    watches.feed(inspection(1, bundle=recipe.bundle.id), recipe)
    watches.refresh()
    watches.refresh()
    assert watches._watches["top"].origin == "first 200 passes"
    assert caplog.text.count("copy the bundle again") == 1


@pytest.mark.parametrize("text", ["", "[]", '{"model.onnx": [NaN]}', '{"model.onnx": ["a"]}', '{"model.onnx": 1}'])
def test_held_out_scores_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path / "tiny", text)
    with pytest.raises(DskdError, match=r"held_out\.json: holds no scores by graph"):
        recipe.bundle.held_out_scores("model.onnx")
