"""``import dskd``: three lines from import to verdict, and the commands from Python."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import ROOT, SMALL

import dskd
from dskd.runtime.__main__ import line
from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.model import Model


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Model:
    return dskd.load(str(bundle.path), backend="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def crack(pictures: Path) -> Path:
    return next((pictures / "test" / "crack").glob("*.png"))


def test_a_file_and_a_colour_frame_give_the_same_verdict(model: Model, crack: Path, tmp_path: Path) -> None:
    by_name, by_array = model(str(crack)), model(read_image(crack))
    assert model(crack).score == by_name.score == by_array.score
    assert str(by_name.verdict) in ("PASS", "REVIEW", "REJECT")
    assert by_name.ratio == by_name.score / by_name.threshold
    assert by_name.anomaly_map.max() == pytest.approx(by_name.score)
    told = json.loads(json.dumps(by_name.as_dict()))
    assert (told["verdict"], told["ratio"]) == (by_name.verdict.value, by_name.ratio)
    drawn = by_name.plot(tmp_path / "crack.png")
    assert np.array_equal(read_image(tmp_path / "crack.png"), drawn)


def test_what_is_below_the_public_names_takes_a_name_and_says_what_it_takes_instead_of_a_picture(
    model: Model, bundle: Bundle, crack: Path
) -> None:
    assert load_bundle(str(bundle.path)).id == load_bundle(bundle.path).id
    with pytest.raises(
        dskd.CallError, match=r"takes a Frame, not a ndarray; for a picture call dskd\.load\(BUNDLE\)\(image\)"
    ):
        model._inspector.inspect(read_image(crack))  # type: ignore[arg-type]


def test_without_a_threshold_there_is_no_multiple(model: Model, crack: Path) -> None:
    found = replace(model(crack).inspection, threshold=0.0)
    assert found.ratio is None
    assert json.loads(found.as_json())["ratio"] is None
    assert re.match(rf"{found.verdict} +- \({found.score:.4f}\)  ", line(found))


def test_a_grey_frame_is_read_as_a_grey_file_is(model: Model, crack: Path, tmp_path: Path) -> None:
    grey = cv2.cvtColor(read_image(crack), cv2.COLOR_BGR2GRAY)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    assert model(grey).score == model(grey[..., None]).score == model(tmp_path / "grey.png").score


def test_a_list_goes_in_batches_and_keeps_its_order(model: Model, pictures: Path) -> None:
    files = sorted((pictures / "test").rglob("*.png"))
    assert len(files) > model.bundle.manifest.max_batch
    together = model(files)
    assert [result.inspection.frame for result in together] == [str(file) for file in files]
    for file, result in zip(files, together, strict=True):
        assert model(file).score == pytest.approx(result.score, rel=1e-4)
    assert model([]) == []


def test_options_are_those_of_the_command(bundle: Bundle, crack: Path) -> None:
    with dskd.load(bundle.path, backend="onnxruntime", reject_threshold=1e9, review_threshold=1e9) as lenient:
        assert lenient(crack).verdict is dskd.Verdict.PASS
    with dskd.load(bundle.path, backend="onnxruntime", reject_threshold=-1.0) as strict:
        assert strict(crack).verdict is dskd.Verdict.REJECT
        assert str(strict(crack)).startswith("REJECT ")
    with pytest.raises(dskd.CallError, match="over the bundle's reject threshold"):
        dskd.load(bundle.path, backend="onnxruntime", review_threshold=1e9)
    with pytest.raises(dskd.CallError, match="no bundle there"):
        dskd.load(bundle.path / "none")


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.zeros((32, 32, 3)), "holds float64; scale it to uint8"),
        (np.zeros((32, 32, 4), np.uint8), r"has the shape \[32, 32, 4\]; give BGR"),
        (np.zeros((0, 32, 3), np.uint8), r"has the shape \[0, 32, 3\]"),
        (np.zeros((64, 64, 3), np.uint8), "blank"),
        (b"bytes", "is a bytes; give a file's name"),
        ("absent.png", "absent.png: cannot be read"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_next_step(model: Model, picture: object, said: str) -> None:
    with pytest.raises(dskd.DskdError, match=said):
        model(picture if isinstance(picture, (str, np.ndarray)) else [picture])  # type: ignore[call-overload,list-item]


def test_a_bad_picture_of_a_list_is_named(model: Model, crack: Path) -> None:
    with pytest.raises(dskd.DskdError, match="image 1: blank"):
        model([read_image(crack), np.zeros((64, 64, 3), np.uint8)])


def test_threads_may_share_a_model_and_a_closed_one_says_so(bundle: Bundle, pictures: Path) -> None:
    files = sorted((pictures / "test").rglob("*.png"))[:6]
    shared = dskd.load(bundle.path, backend="onnxruntime", threads=1)
    alone = {file: shared(file).score for file in files}
    found: dict[tuple[int, Path], float] = {}

    def work(number: int) -> None:
        for file in files[number:] + files[:number]:
            found[number, file] = shared(file).score

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 * len(files)
    assert all(score == alone[file] for (_, file), score in found.items())
    shared.close()
    shared.close()
    with pytest.raises(dskd.CallError, match="was closed"):
        shared(files[0])


def test_the_import_takes_nothing_along() -> None:
    script = "import sys, dskd; print(*(m for m in ('numpy', 'cv2', 'torch', 'onnxruntime', 'yaml') if m in sys.modules)); dskd.load"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_train_and_export_from_python(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings: dict[str, object] = {key: yaml.safe_load(value) for key, _, value in (s.partition("=") for s in SMALL)}
    run = dskd.train(
        pictures, out="runs/small", set={**settings, "recipe.epochs": 1}, teacher_weights="random", device="cpu"
    )
    assert run == Path("runs/small")
    made = dskd.export(run, batch=2)
    assert made == run / "bundle"
    assert dskd.load().bundle.id == dskd.load(made).bundle.id  # the newest run is the default, as for the commands
    with pytest.raises(dskd.CallError, match=r"did you mean recipe\.epochs"):
        dskd.train(pictures, set={"epochs": 1})
    with pytest.raises(dskd.CallError, match="holds no finished training run"):
        dskd.export("nowhere")
    with pytest.raises(dskd.CallError, match="no bundle there"):
        dskd.calibrate("nowhere")
