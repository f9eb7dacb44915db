"""``python -m benchmarks few_pictures``: what few good pictures give, without training.

Of each set some good pictures are drawn, as many held out as ``dskd train`` holds out, what is usual at each position is
learnt from the others by the frozen teacher alone, and thresholds from those held out. So a draw costs seconds. Turned copies
are chosen by the drawn pictures, as training does. The map is the one of ``map.distance=local`` without students, which add a little more; below ten pictures ``dskd train`` refuses.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dskd.benchmarks.lab.models.labelled import read_labelled
from dskd.runtime.errors import CallError, Parser, exit_with_code
from dskd.runtime.inspection.threshold import conformal_thresholds
from dskd.runtime.result import Image
from dskd.train.config import TrainConfig, load_config
from dskd.train.data import find_images, load_inputs, split
from dskd.train.error_statistics import ErrorStatistics, PrincipalComponents
from dskd.train.evaluate import BATCH
from dskd.train.local_statistics import ENOUGH, plain_or_usual
from dskd.train.networks.backbone import Encoder
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.image_input import ImageInput
from dskd.train.networks.local_distance import LocalDistance
from dskd.train.networks.maps import AnomalyMap
from dskd.train.selection import auroc
from dskd.train.shape import settle_input
from dskd.train.turn_choice import settle_turned
from dskd.train.turned import Copies
from dskd.train.weights import load_teacher

COUNTS = (5, 10, 20, 50, 100)
DRAWS = 3
Floats = NDArray[np.float32]
Features = tuple[Tensor, ...]  # of three scales [B, C, H, W], fine to coarse


@dataclass(frozen=True)
class Draw:
    """What one draw gave. ``rejected`` and ``flagged`` are shares of the good test pictures over REJECT and over REVIEW,
    ``caught`` is the share of the defective ones over REJECT. ``turned``: the copies that were chosen.
    """

    data: str
    pictures: int
    draw: int
    held_out: int
    image_auroc: float
    rejected: float
    flagged: float
    caught: float
    turned: str


class Seen:
    """Pictures [N, H, W, 3] as the teacher saw them, in half precision: each goes through it once."""

    def __init__(self, teacher: Encoder, pictures: Image | Copies, label: str) -> None:
        to_input, parts = ImageInput(teacher.backbone), list[tuple[Tensor, ...]]()
        for start in tqdm(range(0, len(pictures), BATCH), desc=label, unit="batch", leave=False, disable=None):
            batch = torch.from_numpy(np.array(pictures[start : start + BATCH]))
            parts.append(tuple(scale.half() for scale in teacher(to_input(batch))[1:]))
        self._scales = [torch.cat(scale) for scale in zip(*parts, strict=True)]

    def batches(self, chosen: Sequence[int]) -> list[Features]:
        """The features of some pictures; the finest scale is void."""
        starts = range(0, len(chosen), BATCH)
        wanted = [list(chosen[start : start + BATCH]) for start in starts]
        return [(torch.empty(0), *(scale[few].float() for scale in self._scales)) for few in wanted]

    def __len__(self) -> int:
        return len(self._scales[0])


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(prog="python -m benchmarks few_pictures", description=__doc__)
    parser.add_argument("--data", type=Path, action="append", required=True, help="MVTec layout; may be repeated")
    parser.add_argument(
        "--pictures", default=",".join(map(str, COUNTS)), help="how many (default: %(default)s, and all)"
    )
    parser.add_argument("--draws", type=int, default=DRAWS, help="of each number (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting")
    parser.add_argument("--teacher-weights", help="file of ImageNet weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args(arguments)
    try:
        counts = [int(word) for word in options.pictures.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 3 or options.draws < 1:
        raise CallError(
            f"--pictures {options.pictures}: takes numbers from 3 on, separated by commas; --draws is 1 or more"
        )
    config = load_config(None, [*options.set, "map.distance=local", "map.usual=here", "map.context=true"])
    found = [
        draw for root in options.data for draw in curve(config, root, counts, options.draws, options.teacher_weights)
    ]
    print(json.dumps({"draws": [asdict(draw) for draw in found]}) if options.json else table(found))
    return 0


@torch.no_grad()
def curve(config: TrainConfig, root: Path, counts: Sequence[int], draws: int, weights: str | None) -> list[Draw]:
    """Every draw of one set; all of its pictures once at the end."""
    images = find_images(root)
    if {"good"} >= {item.defect for item in images.test}:
        raise CallError(f"--data {root}: needs good and defective test images")
    config, _ = settle_input(config, images)
    torch.manual_seed(config.recipe.seed)  # of a teacher with random weights
    teacher = load_teacher(BACKBONES[config.backbone], weights)[0].eval()
    inputs = load_inputs(images.good, config.input)
    good = Seen(teacher, inputs, "good pictures")
    labelled = read_labelled(images, config.input)
    test = Seen(teacher, labelled.inputs, "test pictures")
    defective = np.array([defect != "good" for defect in labelled.defects])
    found = []
    for count in [*(count for count in counts if count < len(good)), len(good)]:
        for draw in range(draws if count < len(good) else 1):
            drawn = np.random.default_rng([draw, count]).permutation(len(good))[:count]
            own, _ = settle_turned(config, teacher, [images.good[k] for k in drawn])
            parts = split([Path(str(k)) for k in drawn], config.data.held_out, draw)
            learnt, held_out = ([int(str(path)) for path in part] for part in parts)
            learner, chosen = good, learnt
            if own.data.turned != "none":
                learner = Seen(teacher, Copies(inputs[learnt], own.data.turned), "turned copies")
                chosen = list(range(len(learner)))
            anomaly_map = learn(own, learner, chosen)
            calm, values = scores(anomaly_map, good, held_out), scores(anomaly_map, test, range(len(test)))
            found.append(judged(own, images.name, len(drawn), calm, values[~defective], values[defective], draw))
    return found


def judged(config: TrainConfig, name: str, pictures: int, calm: Floats, fine: Floats, bad: Floats, draw: int) -> Draw:
    """What scores of held-out pictures and of good and defective test pictures come to."""
    limits = conformal_thresholds(calm, config.thresholds.review_rate, config.thresholds.reject_rate)
    return Draw(
        name, pictures, draw, len(calm), auroc(fine, bad), float((fine > limits.reject.score).mean()),
        float((fine > limits.review.score).mean()), float((bad > limits.reject.score).mean()), config.data.turned,
    )  # fmt: skip


def learn(config: TrainConfig, good: Seen, chosen: Sequence[int]) -> AnomalyMap:
    """The map of the distance to what is usual on the chosen pictures."""
    distance = plain_or_usual(config)
    assert isinstance(distance, LocalDistance)
    principal = PrincipalComponents(distance.project.shape[0])
    for features in good.batches(chosen[:: -(-len(chosen) // ENOUGH)]):
        principal.add(distance.vectors(features, features).numpy())
    distance.learn_components(principal.strongest(distance.project.shape[1]))
    positions, _, channels = distance.mean.shape
    statistics = ErrorStatistics(positions, channels)
    for features in good.batches(chosen):
        statistics.add(distance.components(features, features).numpy())
    distance.learn(statistics.usual_errors(distance.usual.shape[2], config.map.ridge))
    return AnomalyMap(config.input.height, config.input.width, config.map.sigma, distance)


def scores(anomaly_map: AnomalyMap, seen: Seen, chosen: Sequence[int]) -> Floats:
    """Of the chosen pictures, [N]."""
    return np.concatenate([anomaly_map(features, features)[0].numpy() for features in seen.batches(chosen)])


def table(draws: Sequence[Draw]) -> str:
    """Markdown: a line for each set and number of pictures, the mean over draws with its lowest and highest AUROC."""
    lines = [
        "| set | good pictures | of them held out | image AUROC | lowest, highest | good over REJECT | good over REVIEW "
        "| defective over REJECT | turned copies |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, count in dict.fromkeys((draw.data, draw.pictures) for draw in draws):
        own = [draw for draw in draws if (draw.data, draw.pictures) == (name, count)]
        figures = [draw.image_auroc for draw in own]
        rates = [float(np.mean([getattr(draw, rate) for draw in own])) for rate in ("rejected", "flagged", "caught")]
        cells = [name, str(count), str(own[0].held_out), f"{np.mean(figures):.3f}"]
        cells += [f"{min(figures):.3f}, {max(figures):.3f}" if len(own) > 1 else "", *(f"{rate:.3f}" for rate in rates)]
        cells.append(", ".join(dict.fromkeys(draw.turned for draw in own)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with_code(main)
