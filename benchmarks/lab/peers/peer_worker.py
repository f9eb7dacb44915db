"""anomalib in a process of its own, in its own virtual environment: nothing of ours is imported here.

``make`` builds its models with random weights and exports them by its own means, ``train`` gives one what it learns from
good pictures first; ``serve`` answers requests like ``benchmarks.worker``; ``once`` judges one picture as a first use
does, ``judge`` many. Gradients are off, which anomalib's own ``TorchInferencer.predict`` leaves on: that is in its
favour.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP, FEWEST = 3, 3  # calls of a turn that are not counted, and those that are at least
BANK = (20_000, 384)  # PatchCore's memory: rows, and channels of layer2 and layer3 together
SIDE = 256  # pixels of every network's input
MODELS = ("rd", "stfpm", "efficientad", "patchcore")
INFERENCERS = ("torch", "onnxruntime", "openvino", "openvino-f32", "openvino-int8")
# What its post-processing learns from labelled pictures; INT8_PTQ fails where it has not.
STATISTICS = {"image_min": 0.0, "image_max": 1.0, "pixel_min": 0.0, "pixel_max": 1.0, "_image_threshold": 0.5,
              "_pixel_threshold": 0.5}  # fmt: skip
IR = "weights/openvino/model.xml"  # anomalib's own layout
FILES = {"torch": "weights/torch/model.pt", "onnxruntime": "weights/onnx/model.onnx", "openvino": IR, "openvino-f32": IR,
         "openvino-int8": f"int8/{IR}"}  # fmt: skip
Predict = Callable[[Any], float]


def import_torchvision() -> None:
    """A torchvision built for CUDA beside a torch without: its operators are declared, so that it can be imported."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        declared = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torchvision.kept = declared  # type: ignore[attr-defined]


def make(name: str, folder: Path, frames: Path) -> None:
    """One model with random weights in every form that anomalib exports."""
    import torch

    torch.manual_seed(0)
    built = model(name)
    calibrate_batch_norm(built)
    for name, value in STATISTICS.items():
        getattr(built.post_processor, name).fill_(value)
    export(built, folder, frames)


def train(name: str, folder: Path, frames: Path, recipe: dict[str, Any]) -> None:
    """One model as anomalib trains it on the pictures of a folder, in every form that it exports.

    ``recipe``: ``pictures`` folder, ``weights`` file of the teacher, ``epochs``, ``batch``, ``precision`` of Lightning.
    """
    import torch
    from anomalib.data import Folder
    from anomalib.engine import Engine

    torch.manual_seed(0)
    built = model(name)
    built.post_processor = None  # it scales and clips by what labelled defects teach; here the bare score is judged
    weights = torch.load(recipe["weights"], map_location="cpu", weights_only=True)
    teacher = built.model.encoder.feature_extractor
    if missing := teacher.load_state_dict(weights, strict=False).missing_keys:
        raise SystemExit(f"{recipe['weights']}: has no {missing[0]}, which anomalib's teacher needs")
    good = Path(recipe["pictures"])
    pictures = Folder(
        name="good", root=good.parent, normal_dir=good.name, train_batch_size=recipe["batch"], num_workers=0,
        test_split_mode="none", val_split_mode="none",
    )  # fmt: skip
    engine = Engine(
        default_root_dir="lightning", max_epochs=recipe["epochs"], accelerator=recipe["device"], devices=1,
        precision=recipe["precision"],
    )  # fmt: skip
    pictures.setup()
    engine.fit(model=built, train_dataloaders=pictures.train_dataloader())
    export(built.cpu(), folder, frames)


def export(built: Any, folder: Path, frames: Path) -> None:
    """A model in every form that anomalib exports; calibrated for INT8 as its INT8_PTQ is, on ``frames``."""
    from anomalib.deploy import CompressionType

    built.eval()
    built.to_torch(folder)
    quantised = {"compression_type": CompressionType.INT8_PTQ, "datamodule": Pictures(frames)}
    exports: dict[str, Callable[[], object]] = {
        "onnx": lambda: built.to_onnx(folder),
        "openvino": lambda: built.to_openvino(folder),
        "int8": lambda: built.to_openvino(folder / "int8", **quantised),
    }
    for form, write in exports.items():
        try:
            write()
        except Exception as error:  # a model that it cannot export is left out with its reason
            (folder / f"failed-{form}.txt").write_text(f"{form}: {type(error).__name__}: {error}"[:500])


def model(name: str) -> Any:
    """Built as its documentation builds it, but without ImageNet's weights, which it would fetch from the network."""
    import timm
    import torch
    from anomalib.models import EfficientAd, Patchcore, ReverseDistillation, Stfpm

    plain = timm.create_model
    # STFPM asks for weights from the network whatever it is told
    timm.create_model = lambda *words, **options: plain(*words, **{**options, "pretrained": False})
    if name == "rd":
        return ReverseDistillation(backbone="resnet18", pre_trained=False)
    if name == "stfpm":
        return Stfpm(backbone="resnet18")
    if name == "efficientad":
        return EfficientAd(model_size="small")
    built = Patchcore(backbone="resnet18", pre_trained=False)
    built.model.memory_bank = torch.rand(*BANK)
    return built


def calibrate_batch_norm(built: Any) -> None:
    """Statistics of noise, so that numbers keep an ordinary size through random layers."""
    import torch

    built.eval()
    norms = [layer for layer in built.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in norms:
        layer.train()
    with torch.no_grad():
        for _ in range(3 if norms else 0):
            built.model(torch.rand(2, 3, SIDE, SIDE))


class Pictures:
    """What ``to_openvino`` asks of a data module for INT8_PTQ: batches of pictures, RGB as ``serve`` gives them."""

    train_batch_size = 1

    def __init__(self, frames: Path) -> None:
        self._frames = np.load(frames, allow_pickle=False)

    def setup(self, stage: str) -> None:
        """Nothing to do."""

    def val_dataloader(self) -> Pictures:
        """Itself."""
        return self

    @property
    def dataset(self) -> Any:
        """As long as there are pictures."""
        return self._frames

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for frame in self._frames:
            yield {"image": np.ascontiguousarray(frame[..., ::-1].transpose(2, 0, 1)[None], np.float32) / 255}


def open_inferencer(kind: str, file: Path, threads: int) -> tuple[str, Predict]:
    """What really computes, in words; and what takes a frame, uint8 RGB [H, W, 3] or a path, and gives its score.

    Its map was made too.
    """
    if kind == "torch":
        return _torch(file, threads)
    if kind == "onnxruntime":
        return _onnxruntime(file, threads)
    from anomalib.deploy import OpenVINOInferencer

    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads} if threads else {}
    if kind == "openvino-f32":  # else it computes in bfloat16 wherever the CPU can, without saying so
        config["INFERENCE_PRECISION_HINT"] = "f32"
    inferencer = OpenVINOInferencer(file, device="CPU", config=config)
    used = inferencer.model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return f"openvino, float in {used}", lambda frame: float(np.ravel(inferencer.predict(frame).pred_score)[0])


def _torch(file: Path, threads: int) -> tuple[str, Predict]:
    import torch
    from anomalib.deploy import TorchInferencer

    if threads:
        torch.set_num_threads(threads)
    os.environ["TRUST_REMOTE_CODE"] = "1"  # it unpickles what was made here a moment ago
    inferencer = TorchInferencer(file, device="cpu")

    def predict(frame: Any) -> float:
        with torch.inference_mode():
            return float(inferencer.predict(frame).pred_score)

    return f"torch on {inferencer.device}", predict


def _onnxruntime(file: Path, threads: int) -> tuple[str, Predict]:
    """Anomalib has no inferencer for onnxruntime: its OpenVINO one's preprocessing before its exported graph."""
    import onnxruntime
    from anomalib.data.utils import read_image
    from anomalib.deploy import OpenVINOInferencer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    place = names.index("pred_score")

    def predict(frame: Any) -> float:
        picture = read_image(frame, as_tensor=False) if isinstance(frame, str | Path) else frame
        return float(np.ravel(session.run(names, {"input": OpenVINOInferencer.pre_process(picture)})[place])[0])

    return f"onnxruntime, {session.get_providers()[0]}", predict


def serve(predict: Predict, frames: Path) -> None:
    """Answers requests for turns until nobody asks any more."""
    pictures = cycle(np.load(frames, allow_pickle=False)[..., ::-1].copy())  # RGB, as anomalib takes it
    for line in sys.stdin:
        request = json.loads(line)
        wall, cpu, end = list[float](), list[float](), float("inf")
        while len(wall) < WARM_UP + FEWEST or time.perf_counter() < end:
            if len(wall) == WARM_UP:
                end = time.perf_counter() + request["seconds"]
            frame = next(pictures)
            start, begun = time.perf_counter(), time.process_time()
            predict(frame)
            wall.append(1e3 * (time.perf_counter() - start))
            cpu.append(1e3 * (time.process_time() - begun))
        say({"times": {"frame to verdict": wall[WARM_UP:], "frame to verdict, CPU": cpu[WARM_UP:]}})


def say(answer: dict[str, Any]) -> None:
    """One line, at once."""
    print(json.dumps(answer), flush=True)


def main() -> None:
    """``make|train NAME FOLDER FRAMES``, ``serve KIND FILE FRAMES``, ``once KIND FILE PICTURE`` or ``judge KIND FILE
    LIST``; a folder to stay in first.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="to work in: OpenVINOInferencer writes into the current one")
    parser.add_argument("work", choices=("make", "train", "serve", "once", "judge"))
    parser.add_argument("kind", choices=(*MODELS, *INFERENCERS))
    parser.add_argument("file", type=Path)
    parser.add_argument("frames", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--recipe", type=json.loads, help="of train")
    options = parser.parse_args()
    os.chdir(options.folder)
    import_torchvision()
    if options.work == "make":
        make(options.kind, options.file, options.frames)
        say({"made": options.kind})
        return
    if options.work == "train":
        train(options.kind, options.file, options.frames, options.recipe)
        say({"made": options.kind})
        return
    name, predict = open_inferencer(options.kind, options.file, options.threads)
    if options.work == "once":
        say({"score": predict(str(options.frames))})
        return
    if options.work == "judge":
        say({"scores": [predict(picture) for picture in json.loads(options.frames.read_text())]})
        return
    say({"backend": name})
    serve(predict, options.frames)


if __name__ == "__main__":
    main()
