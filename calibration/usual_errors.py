"""The distance to the usual learnt anew from a quantised graph, so that rounding becomes part of what is usual.

The students of a quantised graph err a little more, and everywhere a little differently. No weight is trained: what is
usual on good images is gathered again, from the graph that will run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
from onnx import TensorProto, numpy_helper

from dskd.calibration.images import Inputs
from dskd.export.graph.parts import constants_of, set_constant
from dskd.export.graph.session import open_session
from dskd.runtime.result import Image
from dskd.train.error_statistics import ErrorStatistics, Floats, SeenFeatures
from dskd.train.progress import progress
from dskd.train.turned import Copies, Turned

DISTANCES, COMPONENTS = "anomaly_map.distances.", ".project"  # how names of exported constants begin and end


def relearn(
    model: onnx.ModelProto, inputs: Inputs | Sequence[Image], ridge: float, label: str, turned: Turned = "none"
) -> None:
    """Sets what is usual in ``model``'s distance from good images [H, W, 3] and their copies; other maps stay.

    The principal components in which features are measured stay those of the float model, and so do the units of maps
    that are joined.
    """
    constants = constants_of(model)
    project = next((name for name in constants if name.startswith(DISTANCES) and name.endswith(COMPONENTS)), None)
    if project is None:
        return
    part = project.removesuffix(COMPONENTS)
    looks = Copies(inputs, turned)
    found = _components(model, project, looks, label)
    if f"{part}.usual" in constants:
        learnt = _usual_errors(found, constants[f"{part}.usual"], ridge)
    else:
        learnt = _seen(found, len(looks), constants[f"{part}.seen"])
    for name, values in learnt.items():
        set_constant(model, f"{part}.{name}", numpy_helper.from_array(values))


def _components(model: onnx.ModelProto, project: str, inputs: Copies, label: str) -> Iterator[Floats]:
    """Of each image, [HW, 1, C]."""
    components = next(node.output[0] for node in model.graph.node if project in node.input)
    session = open_session(model, [components])
    for image in progress(inputs, desc=label, unit="image"):
        yield session.run([components], {"image": image[None]})[0]


def _usual_errors(found: Iterator[Floats], usual: TensorProto, ridge: float) -> dict[str, Floats]:
    positions, channels, rank = usual.dims
    statistics = ErrorStatistics(positions, channels)
    for components in found:
        statistics.add(components.reshape(positions, -1, channels))
    errors = statistics.usual_errors(rank, ridge)
    return {name: getattr(errors, name) for name in ("mean", "usual", "scale")}


def _seen(found: Iterator[Floats], images: int, seen: TensorProto) -> dict[str, Floats]:
    features = SeenFeatures(images)
    for components in found:
        features.add(components)
    return features.remembered(seen.dims[1])
