"""Thresholds from the line's own scores: the rate they support, what they would change, and where they are kept."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import Command
from line_records import inspection
from tiny_bundle import tiny_bundle

from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.inspection.threshold import conformal_threshold
from dskd.runtime.result import Verdict
from dskd.runtime.station.load import load_station
from dskd.runtime.station.recalibrate import main, propose
from dskd.runtime.station.recipe import OperatorOverrides, SavedThresholds
from dskd.runtime.store import Label, Store

FILE = """# the line
name: line-3
data: data
cameras:
  top: {source: "test://pattern", recipe: bracket-a}   # upper
recipes:
  bracket-a:
    bundle: bundles/a   # trained in May
    reject: 9.5  # by hand
  bracket-b: {bundle: bundles/b}
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 passes, 10 rejects of which 6 were false alarms, and scores of an older bundle."""
    place = tmp_path_factory.mktemp("line") / "line.db"
    store = Store(place)
    store.add([inspection(k, bundle="old", score=50.0) for k in range(20)])
    store.add([inspection(k, score=k / 1000) for k in range(200)])
    rejected = store.add([inspection(k, Verdict.REJECT, score=2.0 + k / 1000) for k in range(200, 210)])
    for record in rejected[:6]:
        store.label(record, Label.FALSE_ALARM, "ann")
    for record in rejected[6:]:
        store.label(record, Label.DEFECT, "ann")
    for record in range(21, 121):
        store.label(record, Label.GOOD, "ann")
    store.close()
    return place


def test_confirmed_good_parts_of_the_present_bundle_give_the_thresholds(path: Path) -> None:
    store = Store(path)
    found = propose(store, "top", "confirmed good", 1000, 0.05, 0.01)
    scores = np.array([k / 1000 for k in range(100)] + [2.0 + k / 1000 for k in range(200, 206)])
    assert found.thresholds.reject == conformal_threshold(scores, 0.01)
    assert found.thresholds.reject.images == 106
    assert found.bundle == "b1"
    assert found.before == {"PASS": 200, "REVIEW": 0, "REJECT": 10}
    assert found.after == {"PASS": 202, "REVIEW": 4, "REJECT": 4}
    assert "somebody looked at" in found.caution()
    store.close()


def test_passes_say_what_they_cannot_know(path: Path) -> None:
    store = Store(path)
    found = propose(store, "top", "passes", 1000, 0.05, 0.01)
    assert found.thresholds.reject.score == pytest.approx(0.198)
    assert found.flagged_share == pytest.approx(6 / 210)  # confirmed defects are not missing
    assert "rests on passes alone: 2.86% of parts" in found.caution()
    store.close()


def test_too_few_support_only_what_they_support(path: Path) -> None:
    store = Store(path)
    found = propose(store, "top", "confirmed good", 10, 0.05, 0.01)
    assert found.thresholds.reject.supported_rate == pytest.approx(1 / 11)
    store.close()


def test_without_a_basis_it_says_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.db")
    with pytest.raises(CallError, match="it holds: none"):
        propose(store, "top", "passes", 10, 0.05, 0.01)
    store.add([inspection(1, Verdict.REJECT)])
    with pytest.raises(CallError, match=r"camera side: .* it holds: top"):
        propose(store, "side", "passes", 10, 0.05, 0.01)
    with pytest.raises(DskdError, match="confirm good parts on the page"):
        propose(store, "top", "confirmed good", 10, 0.05, 0.01)
    with pytest.raises(CallError, match="last 0"):
        propose(store, "top", "passes", 0, 0.05, 0.01)
    store.close()


def test_the_command_prints_and_changes_nothing_unless_told(path: Path, tmp_path: Path, command: Command) -> None:
    done = command("runtime.station.recalibrate", "--store", path, "--camera", "top")
    assert done.returncode == 0, done.stderr
    assert "106 confirmed good from 2026-09-21" in done.stdout
    assert "1.00% was asked for" not in done.stdout
    assert "by score: PASS 200 -> 202, REVIEW 0 -> 4, REJECT 10 -> 4" in done.stdout
    assert "nothing was changed" in done.stdout
    (tmp_path / "station.yaml").write_text(FILE)
    done = command("runtime.station.recalibrate", "--store", path, "--camera", "top", "--json",
                   "--apply", tmp_path / "station.yaml")  # fmt: skip
    told = json.loads(done.stdout)
    assert told["applied_to"] == "bracket-a"
    assert (tmp_path / "station.yaml").read_text() == FILE
    kept = json.loads((tmp_path / "data/recipes.json").read_text())["thresholds"]["bracket-a"]
    assert (kept["review"], kept["reject"]) == (told["review"]["score"], told["reject"]["score"])
    assert (kept["bundle"], kept["backend"], kept["configured"]) == ("b1", "onnxruntime-cpu", [None, 9.5])


def test_thresholds_are_not_set_for_a_recipe_of_another_bundle(path: Path, tmp_path: Path) -> None:
    """A person may have given the camera another recipe than the file: its scores are not for the file's."""
    file = tmp_path / "station.yaml"
    file.write_text(FILE)
    bundle = tiny_bundle(tmp_path / "bundles" / "a")
    with pytest.raises(CallError, match=f"recipe bracket-a runs bundle {bundle.id}, and these scores are of b1"):
        main(["--store", str(path), "--camera", "top", "--apply", str(file)])
    assert file.read_text() == FILE
    store = Store(tmp_path / "line.db")
    store.add([inspection(k, bundle=bundle.id) for k in range(200)])
    store.close()
    assert (
        main(["--store", str(tmp_path / "line.db"), "--camera", "top", "--from", "passes", "--apply", str(file)]) == 0
    )
    assert file.read_text() == FILE
    assert json.loads((tmp_path / "data/recipes.json").read_text())["thresholds"]["bracket-a"]["bundle"] == bundle.id


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--store", "nowhere.db", "--camera", "top"], 2, "is no file"),
        (["--store", "{path}", "--camera", "top", "--review-rate", "2"], 2, "between 0 and 1"),
        (["--store", "{path}", "--camera", "top", "--review-rate", "0.001"], 2, "must not be under"),
        (["--store", "{path}", "--camera", "top", "--apply", "/nowhere.yaml"], 2, "cannot be read"),
        (
            ["--store", "{path}", "--camera", "top", "--apply", "{file}", "--recipe", "x"],
            2,
            "there is no recipe x; one of: bracket-a, bracket-b",
        ),
        (["--store", "{file}", "--camera", "top"], 1, "SQLite"),
    ],
)
def test_wrong_calls_are_refused(options: list[str], code: int, words: str, path: Path, tmp_path: Path) -> None:
    file = tmp_path / "station.yaml"
    file.write_text(FILE)
    with pytest.raises(DskdError, match=words) as refused:
        main([text.format(path=path, file=file) for text in options])
    assert refused.value.exit_code == code
    assert file.read_text() == FILE


def test_a_station_takes_them_at_its_next_start_for_the_same_bundle_and_backend(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "station.yaml"
    bundle = tiny_bundle(tmp_path / "bundles" / "a")
    file.write_text(FILE)
    store = Store(tmp_path / "line.db")
    store.add([inspection(k, bundle=bundle.id) for k in range(200)])
    store.close()
    running = OperatorOverrides(tmp_path / "data")  # a station that is up meanwhile
    words = ["--store", str(tmp_path / "line.db"), "--camera", "top", "--from", "passes", "--apply", str(file)]
    assert main(words) == 0
    running.save("bracket-b", SavedThresholds(review=1.0, reject=2.0, bundle="b", graph="g", configured=(None, None)))
    started, config = OperatorOverrides(tmp_path / "data"), load_station(file).recipes["bracket-a"]
    same = SimpleNamespace(name="onnxruntime-cpu", graph="model.onnx")
    assert started.thresholds("bracket-a", config, bundle, same) == (1.90, 1.98)  # type: ignore[arg-type]
    other = SimpleNamespace(name="onnxruntime-cpu-int8", graph="model.int8.cpu.onnx")
    assert started.thresholds("bracket-a", config, bundle, other) is None  # type: ignore[arg-type]
    lower = config.model_copy(update={"reject": 9.0})  # the file was changed later
    assert started.thresholds("bracket-a", lower, bundle, same) is None  # type: ignore[arg-type]
    assert "bracket-b" in started._state.thresholds


def test_thresholds_that_operators_set_before_an_update_still_hold(tmp_path: Path) -> None:
    """``recipes.json`` as commit 86fd172 wrote it."""
    (tmp_path / "recipes.json").write_text(
        '{"cameras": {}, "thresholds": {"a": {"review": 0.1, "reject": 0.2, "bundle": "b1", "graph": "model.onnx", '
        '"configured": [null, 9.5]}}}'
    )
    config, bundle = SimpleNamespace(review=None, reject=9.5), SimpleNamespace(id="b1")
    backend = SimpleNamespace(name="openvino-fp32", graph="model.onnx")
    assert OperatorOverrides(tmp_path).thresholds("a", config, bundle, backend) == (0.1, 0.2)  # type: ignore[arg-type]
