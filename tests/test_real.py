"""On real pictures and real weights: small budgets, so bounds are what such a budget must reach, not what is possible."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from half_sums import answers_in_half

from dskd.export.golden import held_out_images
from dskd.export.graph.half import to_half
from dskd.export.run_to_bundle import HALF, export
from dskd.runtime.bundle.loading import PROBE_STEP, Bundle
from dskd.runtime.capture.image_files import read_image
from dskd.runtime.capture.sources import open_source
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.inspection.backends.onnx_runtime import OnnxRuntimeBackend
from dskd.runtime.inspection.decision import Settings
from dskd.runtime.inspection.golden import LIMITS, PROBE_LIMITS, disagreement, golden_check, probe_disagreement
from dskd.runtime.inspection.inspector import Inspector
from dskd.runtime.inspection.network_input import network_input
from dskd.runtime.inspection.threshold import conformal_threshold
from dskd.runtime.pipeline import Tally
from dskd.runtime.pipeline import run as run_pipeline
from dskd.runtime.result import Verdict
from dskd.train.config import load_config
from dskd.train.data import InspectionSet, find_images
from dskd.train.networks.backbones import BACKBONES
from dskd.train.run import run
from dskd.train.trained_run import TrainedRun, load_run
from dskd.train.weights import load_teacher

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.thorough]
CONFIG = Path(__file__).resolve().parents[1] / "train" / "configs" / "magnetic_tile.yaml"


def test_the_set_is_complete(real_data: Path) -> None:
    images = find_images(real_data)
    assert len(images.good) == 761
    assert len(images.test) == 583
    assert sum(item.mask is not None for item in images.test) == 392


def test_the_weights_are_torchvisions(real_weights: str) -> None:
    teacher, _, digest = load_teacher(BACKBONES["resnet18"], real_weights)
    assert digest == hashlib.sha256(Path(real_weights).read_bytes()).hexdigest()
    known = torch.tensor([-1.0419e-02, -6.1356e-03, -1.8098e-03])  # how resnet18-f37072fd begins
    assert torch.allclose(teacher.conv1.weight[0, 0, 0, :3], known, atol=1e-6)


@pytest.fixture(scope="module")
def short_run(real_data: Path, real_weights: str, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """160 good tiles, 4 epochs at 128 px with the committed recipe; every fourth test image."""
    config = load_config(CONFIG, ["input.height=128", "input.width=128", "recipe.epochs=4"])
    images = find_images(real_data)
    few = InspectionSet(images.name, images.folder, images.good[:160], images.test[::4])
    folder = tmp_path_factory.mktemp("real") / "run"
    run(config, few, real_weights, folder, "cpu", strict=True)
    return load_run(folder)


def test_a_short_training_tells_defects_from_good_tiles(short_run: TrainedRun) -> None:
    figures = short_run.record["figures"]
    assert figures["teacher"]["image_auroc"] > 0.65
    assert figures["teacher"]["per_defect"]["break"]["image_auroc"] > 0.75
    assert figures["encoder_student"]["image_auroc"] > 0.5


@pytest.fixture(scope="module")
def short_bundle(short_run: TrainedRun) -> Bundle:
    return export(short_run, "teacher", short_run.folder / "bundle", opset=20, batch=1, licence="test")[0]


def test_the_exported_bundle_judges_good_tiles_at_the_rate_it_names(
    short_run: TrainedRun, short_bundle: Bundle, real_data: Path
) -> None:
    bundle = short_bundle
    backend = open_backend(bundle)
    assert golden_check(bundle, backend).score < 1e-4
    thresholds = bundle.manifest.graphs[backend.graph].thresholds
    inspector = Inspector(bundle, backend, Settings.of(thresholds))
    tally = Tally()
    results = list(run_pipeline(open_source(str(real_data / "test" / "good")), inspector, [], tally))
    assert tally.inspected == len(results) == 191
    assert tally.dropped == 0
    # 24 of the same tiles are held out, which supports 1 in 25 and knows the true rate to some 10 %.
    assert tally.inspected - tally.verdicts[Verdict.PASS] < 191 * (thresholds.review.supported_rate + 0.12)


def test_half_precision_that_sums_in_half_is_accepted_on_tiles(short_bundle: Bundle) -> None:
    """A network of full size, as a device computes it that rounds products to half and adds them up in half."""
    golden, probes = short_bundle.golden(HALF), short_bundle.probes(HALF)
    assert probes is not None
    model = onnx.load(short_bundle.graph_file(HALF))
    scores, maps = answers_in_half(model, np.concatenate([golden.inputs[:2], probes.inputs[:2]]))
    assert np.abs(maps[:2] - golden.maps[:2]).max() > 1e-5  # it does compute otherwise
    assert disagreement(scores[:2], maps[:2], golden.scores[:2], golden.maps[:2], LIMITS["fp16"]) == ""
    sparse = maps[2:, ::PROBE_STEP, ::PROBE_STEP]
    assert probe_disagreement(sparse, probes.maps[:2], *PROBE_LIMITS["fp16"]) == ""


def test_what_is_usual_in_half_changes_no_verdict(short_run: TrainedRun, short_bundle: Bundle, real_data: Path) -> None:
    """The FP16 graph beside the same one that keeps what is usual in float32, each with thresholds of its own."""
    single = to_half(onnx.load(short_bundle.graph_file("model.onnx"))).SerializeToString()
    backends = [OnnxRuntimeBackend(short_bundle, HALF, 1), OnnxRuntimeBackend(short_bundle, HALF, 1, single)]

    def scores(paths: list[Path]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        inputs = [network_input(read_image(path), short_bundle.manifest.input)[None] for path in paths]
        return np.array([[backend.infer(image).scores[0] for image in inputs] for backend in backends])

    held_out = scores(held_out_images(short_run))
    tested = scores([item.path for item in find_images(real_data).test[::4]])
    reject = [conformal_threshold(found, 0.01).score for found in held_out]
    review = [conformal_threshold(found, 0.05).score for found in held_out]
    half, float32 = (
        (found > low).astype(int) + (found > high) for found, low, high in zip(tested, review, reject, strict=True)
    )
    assert np.bincount(half).min() > 5  # all three verdicts occur
    assert np.abs(tested[0] - tested[1]).max() < 0.01 * held_out[1].std()
    assert (half != float32).sum() <= 1  # none here; a score may lie on a threshold on another CPU
