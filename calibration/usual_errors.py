"""The local distance learnt anew from a quantised graph, so that rounding becomes part of what is usual.

The students of a quantised graph err a little more, and everywhere a little differently. No weight is trained: mean and
covariance of the error on good images are gathered again, from the graph that will run.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import numpy_helper
from tqdm import tqdm

from dskd.calibration.graph_parts import constants_of, set_constant
from dskd.calibration.session import open_session
from dskd.runtime.preprocess import Image
from dskd.train.error_statistics import ErrorStatistics

PART = "anomaly_map.distances.{}"  # names of the exported constants


def relearn(model: onnx.ModelProto, inputs: Iterable[Image], ridge: float, label: str) -> None:
    """Sets what is usual in ``model``'s local distance from good images [H, W, 3]; other maps stay.

    The principal components in which errors are measured stay those of the float model.
    """
    constants = constants_of(model)
    if PART.format("usual") not in constants:
        return
    components = next(node.output[0] for node in model.graph.node if PART.format("project") in node.input)
    session = open_session(model, [components])
    positions, channels, rank = numpy_helper.to_array(constants[PART.format("usual")]).shape
    statistics = ErrorStatistics(positions, channels)
    for image in tqdm(inputs, desc=label, unit="image", leave=False, disable=None):
        statistics.add(session.run([components], {"image": image[None]})[0].reshape(positions, -1, channels))
    found = statistics.usual_errors(rank, ridge)
    for part in ("mean", "usual", "scale"):
        set_constant(model, PART.format(part), numpy_helper.from_array(getattr(found, part)))
