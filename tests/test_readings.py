"""Other ways to read a trained model: the first of them is what is exported, and painted masks mark what changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dskd.benchmarks.lab.models.readings import Distances, main, rules
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.errors import CallError
from dskd.train.evaluate import score
from dskd.train.networks.cosine_distance import cosine_distance
from dskd.train.networks.joined_distance import JoinedDistances
from dskd.train.selection import painted
from dskd.train.trained_run import TrainedRun, build_maps


def test_every_rule_is_judged_and_the_first_is_what_is_exported(
    trained_run: TrainedRun, small_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", str(trained_run.folder), "--data", str(small_set)]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model_sha256"] == trained_run.record["model_sha256"]
    rows = {row["rule"]: row for row in told["rows"]}
    assert all(0 <= value <= 1 for row in rows.values() for name, value in row.items() if name != "rule")
    exported = trained_run.record["figures"]["teacher"]  # type: ignore[index]
    for name in ("image_auroc", "pixel_auroc", "pro", "inside_recall", "halo"):
        assert rows["as exported"][f"test_{name}"] == pytest.approx(exported[name], abs=1e-3)
    assert rows["as exported"]["painted_image_auroc"] == pytest.approx(trained_run.record["painted"]["all"], abs=1e-4)  # type: ignore[index]
    assert main(words) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == 2 + len(rows)


def test_rules_do_what_their_names_say() -> None:
    local = np.zeros((1, 2, 2), np.float32)
    local[0, 0, 0] = 1
    fine = np.ones((1, 8, 8), np.float32)
    found = Distances(local, (fine, np.ones((1, 4, 4), np.float32), local))
    by_name = rules((32, 32), 0.0, found)
    plain = by_name["as exported"](found)
    assert plain.scores == pytest.approx([1.0])
    assert by_name["score: mean"](found).scores == pytest.approx([plain.maps.mean()])
    assert by_name["score: mean of the highest 5 %"](found).scores == pytest.approx(
        [np.sort(plain.maps.ravel())[-round(0.05 * 1024) :].mean()]
    )
    filled = by_name["inside filled: closing of 17 pixels"](found).maps
    assert (filled >= plain.maps).all()
    np.testing.assert_allclose(by_name["tighter: times the finest scale"](found).maps, plain.maps, rtol=1e-5)
    fine[0, 4:, 4:] = 0  # nothing to see for the finest scale
    tighter = by_name["tighter: times the finest scale"](found).maps
    assert tighter[0, -1, -1] == 0
    np.testing.assert_allclose(tighter[0, :8, :8], plain.maps[0, :8, :8], rtol=1e-5)


def test_painted_masks_mark_what_changed(trained_run: TrainedRun) -> None:
    path = Path(trained_run.record["held_out"][0])  # type: ignore[index]
    good = read_image(path)
    found = list(painted([path]))
    assert len({kind for kind, _, _ in found}) > 1
    for _, picture, mask in found:
        changed = (picture != good).any(2)
        assert changed.any()
        assert not (changed & ~mask).any()


def test_a_run_without_a_local_distance_is_refused(
    trained_run: TrainedRun, small_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = trained_run.config
    config = config.model_copy(update={"map": config.map.model_copy(update={"distance": "cosine"})})
    plain = replace(trained_run, config=config, maps=build_maps(config, trained_run.method))
    monkeypatch.setattr("dskd.benchmarks.lab.models.readings.load_run", lambda folder: plain)
    with pytest.raises(CallError, match="no distance to the usual"):
        main(["--run", str(trained_run.folder), "--data", str(small_set)])


def test_the_reference_graph_and_the_rule_agree(trained_run: TrainedRun) -> None:
    """Pixel by pixel, on noise."""
    spec = trained_run.config.input
    pictures = np.random.default_rng(0).integers(0, 256, (2, spec.height, spec.width, 3), np.uint8)
    graph = trained_run.graph("teacher")
    wanted = score(graph, pictures, torch.device("cpu"))
    joined = graph.anomaly_map.distances
    assert isinstance(joined, JoinedDistances)
    with torch.no_grad():
        teacher, student = graph.path(graph.to_input(torch.from_numpy(pictures)))
        local = joined.to_usual(teacher, student)[0].numpy()
        cosine = [cosine_distance(t, s).numpy() for t, s in zip(teacher, student, strict=True)]
    seen, factors = Distances(local, tuple(cosine)), joined.factors.tolist()
    size = spec.height, spec.width
    found = rules(size, trained_run.config.map.sigma, seen, factors)["as exported"](seen)
    np.testing.assert_allclose(found.maps, wanted.maps, rtol=1e-4, atol=1e-4 * float(wanted.maps.max()))
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4)
