"""Training methods, a file each. A new method is one file and a line in ``METHODS``."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from dskd.runtime.bundle.manifest import Reading
from dskd.runtime.errors import CallError
from dskd.train.methods.base import Method
from dskd.train.methods.dskd import DualStudent
from dskd.train.methods.rd import ReverseDistillation
from dskd.train.methods.rdpp import ProjectedReverseDistillation
from dskd.train.methods.snl import StructuralDistillation
from dskd.train.methods.stfpm import FeaturePyramidMatching
from dskd.train.methods.urd import GuidedReverseDistillation
from dskd.train.networks.resnet import BACKBONES, Encoder
from dskd.train.settings import RunConfig

METHODS: dict[str, type[Method]] = {
    "dskd": DualStudent,
    "rd": ReverseDistillation,
    "rdpp": ProjectedReverseDistillation,
    "urd": GuidedReverseDistillation,
    "snl": StructuralDistillation,
    "stfpm": FeaturePyramidMatching,
}


_READING: TypeAdapter[str] = TypeAdapter(Reading)


def build(config: RunConfig, teacher: Encoder) -> Method:
    """The method that ``config`` names, with fresh students around ``teacher``.

    Raises CallError where an inference path has a name that no manifest can hold: found here, hours before the export.
    """
    method = METHODS[config.method].of(config, BACKBONES[config.backbone], teacher)
    for reading in method.readings():
        try:
            _READING.validate_python(reading)
        except ValidationError as error:
            raise CallError(
                f"method {config.method}: its inference path {reading!r} needs a name of small letters, digits and _, "
                "a letter first; rename it in readings()"
            ) from error
    return method


__all__ = ["METHODS", "Method", "build"]
