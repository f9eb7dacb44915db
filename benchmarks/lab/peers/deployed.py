"""``python -m benchmarks deployed``: how well what runs on the line tells defects apart, ours and anomalib's.

Test pictures go through each graph of the bundle on each backend, and through what anomalib deploys of a model that it
trains here: from the same good pictures and ImageNet weights, shown ``--images``, seed 0, with all else as anomalib has
it, bfloat16 included. Its recipe is not tuned to the set, as ours may be. Nothing is selected on test here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dskd.benchmarks.contenders import add_output, blank, check_output, contestants, finish, own_bundle
from dskd.benchmarks.lab.models.labelled import Labelled, read_labelled
from dskd.benchmarks.lab.peers.peer_worker import FILES, INFERENCERS, SIDE
from dskd.benchmarks.lab.peers.peers import CALM, WORKER, environment, listed, made_by, said_of
from dskd.benchmarks.processes import Worker
from dskd.benchmarks.results import Results, row
from dskd.runtime import atomic
from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.errors import CallError, DskdError, Parser, exit_with_code
from dskd.runtime.inspection.backends import open_backend
from dskd.train.data import InspectionSet, data_sha256, find_images, load_inputs
from dskd.train.metrics import auroc, average_precision
from dskd.train.networks.backbones import BACKBONES
from dskd.train.weights import load_teacher

NAME = "deployed"
TRAINED = ("rd", "stfpm")  # anomalib's relatives of what a bundle holds
CALIBRATION = 300  # good pictures, spread over the training set; nncf asks for that many
EXAMPLE = """example:
  python -m benchmarks deployed --bundle runs/latest/bundle --data tiles --images 7680 --out runs/deployed.json"""


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        prog="python -m benchmarks deployed", description=__doc__, epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--bundle", type=Path, help="bundle folder (default: $DSKD_BUNDLE, else runs/latest/bundle)")
    add("--backend", default="", help="separated by commas (default: all that work here)")
    add("--precision", default="", help="separated by commas (default: all in the bundle)")
    add("--threads", type=int, default=0, help="CPU threads (default: the backend's choice)")
    add("--data", type=Path, required=True, help="MVTec layout, the product that the bundle was trained on")
    add("--category", help="which product of --data")
    add(
        "--models",
        default="rd",
        help=f"of anomalib: {', '.join(TRAINED)}, or an empty word for us alone (default: %(default)s)",
    )
    add("--inferencers", default="torch,openvino,openvino-int8", help="separated by commas (default: %(default)s)")
    add(
        "--images", type=int, default=7680, help="shown to anomalib in training, in whole epochs (default: %(default)s)"
    )
    add("--batch", type=int, default=8, help="of anomalib's training (default: %(default)s)")
    add("--train-precision", default="bf16-mixed", help="Lightning's name of it (default: %(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="to train on (default: %(default)s)")
    add("--teacher-weights", help="file of ImageNet weights")
    add("--peers-venv", type=Path, default=Path("runs/peers"), help="folder of it and of models (default: %(default)s)")
    add_output(options)
    return options


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    return finish(run(options, blank([NAME, *arguments])), options)


def run(options: argparse.Namespace, results: Results) -> Results:
    """Measures and adds to ``results``."""
    models = listed("--models", options.models, TRAINED) if options.models else []
    kinds = listed("--inferencers", options.inferencers, INFERENCERS)
    if options.images < 1 or options.batch < 2:
        raise CallError("--images is at least 1, --batch at least 2")
    check_output(options.out)
    images = find_images(options.data, options.category)
    if len({item.defect for item in images.test}) < 2:
        raise CallError(f"--data {images.folder}: needs good and defective test images, and has not both")
    bundle = own_bundle(options)
    if bundle.manifest.input.tiling is not None:
        raise CallError(f"{bundle.path}: looks at tiles; anomalib is set beside a bundle that looks at whole pictures")
    chosen = contestants(bundle, options, results)
    test = read_labelled(images, bundle.manifest.input)
    for each in chosen:
        backend = open_backend(bundle, each.backend, each.threads, each.precision)
        scores = [float(backend.infer(picture[None]).scores[0]) for picture in test.inputs]
        backend.close()
        tell(each.name, scores, test, results)
    if models:
        beside_anomalib(models, kinds, images, test, options, results)
    return results


def beside_anomalib(
    models: list[str], kinds: list[str], images: InspectionSet, test: Labelled, options: argparse.Namespace,
    results: Results,
) -> None:  # fmt: skip
    """Adds what anomalib reaches."""
    python = environment(options.peers_venv.absolute())
    results.environment["peers"] = dict(said_of(python))
    with tempfile.TemporaryDirectory(prefix="dskd-bench-") as folder:
        for model in models:
            files = trained(python, model, images, Path(folder), options)
            for kind in kinds:
                if (files / FILES[kind]).is_file():
                    tell(f"anomalib {model}, {kind}", judged(python, files, kind, test, Path(folder)), test, results)
                else:
                    results.notes.append(f"anomalib {model}, {kind}: it could not export this")


def trained(python: Path, model: str, images: InspectionSet, scratch: Path, options: argparse.Namespace) -> Path:
    """The folder of anomalib's exports of a model that it trained so; made where it is not there yet. Raises DskdError."""
    epochs = max(1, round(options.images / len(images.good)))
    teacher, _, digest = load_teacher(BACKBONES["resnet18"], options.teacher_weights)
    made_from = (
        f"{digest[:8]}-{data_sha256(images.good)[:8]}-{made_by()}"  # from or by anything else, another one was trained
    )
    name = f"{images.name}-{model}-{epochs}x{len(images.good)}-{options.batch}-{options.train_precision}-{made_from}"
    folder = options.peers_venv.absolute() / "trained" / name
    if folder.is_dir():
        return folder
    print(f"anomalib trains {model}: {epochs} epochs of {len(images.good)} images", file=sys.stderr)
    weights, shown = scratch / "teacher.pth", scratch / "calibration.npy"
    torch.save(teacher.state_dict(), weights)
    spread = images.good[:: max(1, len(images.good) // CALIBRATION)]
    np.save(shown, load_inputs(spread, InputSpec(height=SIDE, width=SIDE)))
    recipe = {
        "pictures": str(_only_folder(images).resolve()), "weights": str(weights), "epochs": epochs,
        "batch": options.batch, "precision": options.train_precision,
        "device": "gpu" if options.device == "cuda" else options.device,
    }  # fmt: skip
    with atomic.replacing_directory(folder) as made:
        words = [python, WORKER, scratch, "train", model, made, shown, "--recipe", json.dumps(recipe)]
        if subprocess.run([str(word) for word in words], check=False, stdout=sys.stderr.fileno()).returncode:  # noqa: S603
            raise DskdError(f"anomalib could not train {model}; its message stands above")
    return folder


def _only_folder(images: InspectionSet) -> Path:
    """Where all good pictures lie, as anomalib wants them."""
    folders = {path.parent for path in images.good}
    if len(folders) > 1:
        raise CallError(
            f"--data {images.folder}: anomalib takes good pictures from one folder, these lie in {len(folders)}"
        )
    return folders.pop()


def judged(python: Path, files: Path, kind: str, test: Labelled, scratch: Path) -> list[float]:
    """Scores that anomalib's inferencer gives the test pictures."""
    paths = scratch / "test.json"
    paths.write_text(json.dumps([str(path.resolve()) for path in test.paths]))
    with Worker([python, WORKER, scratch, "judge", kind, files / FILES[kind], paths], CALM) as worker:
        return [float(score) for score in worker.ready["scores"]]


def tell(name: str, scores: Sequence[float], test: Labelled, results: Results) -> None:
    """Adds the figures of one contender."""
    labels, found = np.array([defect != "good" for defect in test.defects]), np.array(scores)
    for what, value in (("image AUROC", auroc(labels, found)), ("image AP", average_precision(labels, found))):
        results.rows.append(row(NAME, name, what, "1", [value], "higher"))


if __name__ == "__main__":
    exit_with_code(main)
