"""Local distances learnt anew from a quantised graph, so that rounding becomes part of what is usual.

The students of a quantised graph err a little more, and everywhere a little differently. No weight is trained: mean and
covariance of the error on good images are gathered again, from the graph that will run.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from tqdm import tqdm

from calibration.graph_parts import TRUNK, constants_of, feature_names, set_constant
from calibration.session import open_session
from runtime.preprocess import Image
from train.error_statistics import ErrorStatistics, Floats

PART = "anomaly_map.distances.{}.{}"  # names of the exported constants
SMALLEST_NORM = 1e-8  # as in the graph


def relearn(model: onnx.ModelProto, inputs: Image, ridge: float, label: str) -> None:
    """Sets the constants of every local distance in ``model`` from good images [N, H, W, 3]; other maps stay."""
    constants = constants_of(model)
    scales = [k for k in range(3) if PART.format(k, "usual") in constants]
    if not scales:
        return
    names = feature_names(model)
    session = open_session(model, names)
    shapes = [numpy_helper.to_array(constants[PART.format(k, "usual")]).shape for k in scales]
    gathered = [ErrorStatistics(positions, channels) for positions, channels, _ in shapes]
    for image in tqdm(inputs, desc=label, unit="image", leave=False, disable=None):
        directions = dict(zip(names, map(_direction, session.run(names, {"image": image[None]})), strict=True))
        for statistics, (positions, channels, _) in zip(gathered, shapes, strict=True):
            teacher, student = _of_scale(directions, positions, channels)
            statistics.add((teacher - student).T[:, None])
    for k, statistics, (_, _, rank) in zip(scales, gathered, shapes, strict=True):
        found = statistics.usual_errors(rank, ridge)
        for part in ("mean", "usual", "scale"):
            set_constant(model, PART.format(k, part), numpy_helper.from_array(getattr(found, part)))


def _of_scale(directions: dict[str, Floats], positions: int, channels: int) -> tuple[Floats, Floats]:
    """The teacher's and the student's directions [C, HW] of the scale that has these sides."""
    fitting = {name: found for name, found in directions.items() if found.shape == (channels, positions)}
    (teacher,) = (found for name, found in fitting.items() if name.startswith(f"{TRUNK}teacher/"))
    (student,) = (found for name, found in fitting.items() if not name.startswith(f"{TRUNK}teacher/"))
    return teacher, student


def _direction(features: Floats) -> Floats:
    """[1, C, H, W] -> [C, HW], each position's vector of length one."""
    flat = features[0].reshape(features.shape[1], -1)
    return np.asarray(flat / np.sqrt(np.maximum(np.square(flat).sum(0), SMALLEST_NORM**2)), np.float32)
