"""From a frame to what the network sees: the part found and cut out upright where the bundle has a fixture, then resized."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dskd.runtime.bundle.manifest import InputSpec
from dskd.runtime.inspection.preprocess import preprocess
from dskd.runtime.result import Image

if TYPE_CHECKING:
    from dskd.runtime.inspection.fixture.pose import Pose


def upright(frame: Image, spec: InputSpec) -> tuple[Image, Pose | None]:
    """The part cut out of a frame [H, W, 3] and where it was; the frame itself where the bundle has no fixture.

    Raises PartNotFound.
    """
    if spec.fixture is None:
        return frame, None
    from dskd.runtime.inspection.fixture.find import find_part  # few bundles have a fixture

    pose = find_part(frame, spec.fixture)
    return pose.cut_out(frame), pose


def network_input(frame: Image, spec: InputSpec, out: Image | None = None) -> Image:
    """uint8 BGR frame [H, W, 3] -> network input [height, width, 3]. Raises PartNotFound, and what ``preprocess`` does."""
    return preprocess(upright(frame, spec)[0], spec.height, spec.width, spec.crop, out)
