"""Networks against the cost table and shapes of the method specification (sections 1, 2.3 and 8)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dskd.export.prune import Cost, cost
from dskd.train.networks.backbone import Backbone
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.decoder import Decoder
from dskd.train.networks.embedding import DeepFeatureEmbedding

EXPANSION = {"resnet18": 1, "wide_resnet50_2": 4}


class FromFeatures(nn.Module):
    """Lets a part that takes three features run on one placeholder image."""

    def __init__(self, part: nn.Module, features: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.part, self.features = part, features

    def forward(self, _: Tensor) -> object:
        return self.part(self.features)


def sizes(expansion: int) -> list[tuple[int, ...]]:
    """Section 2.3 at 256 x 256."""
    return [(64 * expansion, 64, 64), (128 * expansion, 32, 32), (256 * expansion, 16, 16)]


def on_meta(backbone: str, part: str) -> tuple[nn.Module, nn.Module]:
    """A part, and the same so that it runs on an image; without memory or arithmetic."""
    model, e = BACKBONES[backbone], EXPANSION[backbone]
    with torch.device("meta"):
        if part == "encoder":
            encoder = model.encoder()
            return encoder, encoder
        if part == "embedding":
            embedding = DeepFeatureEmbedding(model)
            return embedding, FromFeatures(embedding, tuple(torch.empty(1, *size) for size in sizes(e)))
        decoder = Decoder(model)
        return decoder, FromFeatures(decoder, torch.empty(1, 512 * e, 8, 8))  # type: ignore[arg-type]


def rounded(found: Cost) -> tuple[float, float]:
    """Millions of parameters and thousand millions of multiply-accumulates, as the table prints them."""
    return round(found.parameters / 1e6, 3), round(found.macs / 1e9, 3)


@pytest.mark.parametrize(
    ("backbone", "part", "parameters", "macs"),
    [
        ("resnet18", "encoder", 2.783, 1.832),
        ("resnet18", "embedding", 11.680, 0.931),
        ("resnet18", "decoder", 3.703, 1.560),
        ("wide_resnet50_2", "encoder", 24.863, 11.999),
        ("wide_resnet50_2", "embedding", 58.885, 7.315),
        ("wide_resnet50_2", "decoder", 24.918, 11.140),
    ],
)
def test_cost_is_the_tables(backbone: str, part: str, parameters: float, macs: float) -> None:
    module, runnable = on_meta(backbone, part)
    found = cost(module, runnable, torch.empty(1, 3, 256, 256, device="meta"))
    assert rounded(found) == (parameters, macs)


@pytest.mark.parametrize(
    ("backbone", "fusion", "embedding"),
    [("resnet18", 0.665, 11.015), ("wide_resnet50_2", 10.622, 48.263)],
)
def test_embedding_splits_into_fusion_and_blocks(backbone: str, fusion: float, embedding: float) -> None:
    module, _ = on_meta(backbone, "embedding")
    blocks = sum(p.numel() for p in module.embed.parameters())
    assert round(blocks / 1e6, 3) == embedding
    assert round((sum(p.numel() for p in module.parameters()) - blocks) / 1e6, 3) == fusion


def test_cost_of_a_part_that_does_not_run_is_parameters_only() -> None:
    pair = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 5, 1))
    found = cost(pair, pair[0], torch.zeros(1, 3, 10, 12))
    assert found == Cost(3 * 4 * 9 + 4 * 5 + 5, 4 * 8 * 10 * 3 * 9)


def test_cost_of_a_transposed_convolution_is_per_input_position() -> None:
    up = nn.ConvTranspose2d(3, 4, 2, 2, bias=False)
    assert cost(up, up, torch.zeros(1, 3, 5, 6)) == Cost(3 * 4 * 4, 5 * 6 * 3 * 4 * 4)


def test_shapes_of_resnet18_at_256() -> None:
    backbone = BACKBONES["resnet18"]
    encoder, embedding, decoder = backbone.encoder(), DeepFeatureEmbedding(backbone), Decoder(backbone)
    with torch.no_grad():
        encoded = encoder.eval()(torch.rand(1, 3, 256, 256))
        code = embedding.eval()(encoded)
        decoded = decoder.eval()(code)
    assert [tuple(f.shape[1:]) for f in encoded] == sizes(1)
    assert tuple(code.shape) == (1, 512, 8, 8)
    assert [tuple(f.shape[1:]) for f in decoded] == sizes(1)
    assert all(float(f.min()) >= 0 for f in (*encoded, code, *decoded))  # every stage ends in a ReLU


def test_shapes_of_wide_resnet50_at_256() -> None:
    with torch.device("meta"):
        backbone = BACKBONES["wide_resnet50_2"]
        encoded = backbone.encoder()(torch.empty(2, 3, 256, 256))
        code = DeepFeatureEmbedding(backbone)(encoded)
        decoded = Decoder(backbone)(code)
    assert [tuple(f.shape[1:]) for f in encoded] == sizes(4)
    assert tuple(code.shape) == (2, 2048, 8, 8)
    assert [tuple(f.shape[1:]) for f in decoded] == sizes(4)


def batch_norm(name: str) -> set[str]:
    return {f"{name}.{end}" for end in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}


def torchvision_names(blocks: tuple[int, int, int], convolutions: int, shortcuts: tuple[int, ...]) -> set[str]:
    """Names in torchvision's files up to layer3; ``shortcuts`` are the layers whose first block has a projection."""
    names = {"conv1.weight"} | batch_norm("bn1")
    for layer, count in enumerate(blocks, 1):
        for block in range(count):
            for k in range(1, convolutions + 1):
                names |= {f"layer{layer}.{block}.conv{k}.weight"} | batch_norm(f"layer{layer}.{block}.bn{k}")
        if layer in shortcuts:
            names |= {f"layer{layer}.0.downsample.0.weight"} | batch_norm(f"layer{layer}.0.downsample.1")
    return names


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("resnet18", torchvision_names((2, 2, 2), 2, (2, 3))),
        ("wide_resnet50_2", torchvision_names((3, 4, 6), 3, (1, 2, 3))),
    ],
    ids=["resnet18", "wide_resnet50_2"],
)
def test_state_dict_has_torchvisions_names(backbone: str, expected: set[str]) -> None:
    module, _ = on_meta(backbone, "encoder")
    assert set(module.state_dict()) == expected


def test_stride_of_a_bottleneck_sits_on_its_3x3_convolution() -> None:
    encoder, _ = on_meta("wide_resnet50_2", "encoder")
    for layer in (encoder.layer2, encoder.layer3):
        block = layer[0]
        assert block.conv1.stride == (1, 1)
        assert block.conv2.stride == (2, 2)
        assert block.conv2.kernel_size == (3, 3)
        assert block.downsample[0].stride == (2, 2)
    assert encoder.layer1[0].conv2.weight.shape == (128, 128, 3, 3)  # wide: twice the planes inside
    assert encoder.layer1[0].conv2.stride == (1, 1)


@pytest.mark.parametrize("backbone", EXPANSION)
@pytest.mark.parametrize("part", ["encoder", "embedding", "decoder"])
def test_convolutions_have_no_bias_and_norms_are_as_trained(backbone: str, part: str) -> None:
    module, _ = on_meta(backbone, part)
    for child in module.modules():
        if isinstance(child, (nn.Conv2d, nn.ConvTranspose2d)):
            assert child.bias is None
        if isinstance(child, nn.BatchNorm2d):
            assert (child.eps, child.momentum) == (1e-5, 0.1)


@pytest.mark.parametrize(("backbone", "blocks"), [("resnet18", (2, 2, 2)), ("wide_resnet50_2", (3, 4, 6))])
def test_decoder_counts_blocks_coarse_to_fine_and_never_overlaps(backbone: str, blocks: tuple[int, ...]) -> None:
    decoder, _ = on_meta(backbone, "decoder")
    assert (len(decoder.stage3), len(decoder.stage2), len(decoder.stage1)) == blocks
    ups = [part for part in decoder.modules() if isinstance(part, nn.ConvTranspose2d)]
    assert len(ups) == 6  # one in each stage's first block, one in its shortcut
    assert {(up.kernel_size, up.stride, up.padding) for up in ups} == {((2, 2), (2, 2), (0, 0))}


def random_features(backbone: Backbone, size: int) -> tuple[Tensor, Tensor, Tensor]:
    c1, c2, c3 = backbone.channels
    return (
        torch.rand(1, c1, size, size),
        torch.rand(1, c2, size // 2, size // 2),
        torch.rand(1, c3, size // 4, size // 4),
    )


@pytest.mark.parametrize("fusion", [True, False], ids=["fusion", "no fusion"])
def test_embedding_uses_the_scales_it_says(fusion: bool) -> None:
    torch.manual_seed(0)
    backbone = BACKBONES["resnet18"]
    embedding = DeepFeatureEmbedding(backbone, fusion).eval()
    features = random_features(backbone, 16)
    with torch.no_grad():
        code = embedding(features)
        for k in range(3):
            changed = [f + 1 if i == k else f for i, f in enumerate(features)]
            differs = not torch.equal(embedding(tuple(changed)), code)
            assert differs == (fusion or k == 2)
    assert tuple(code.shape) == (1, 512, 2, 2)


def test_embedding_without_fusion_has_no_dead_parameters() -> None:
    embedding = DeepFeatureEmbedding(BACKBONES["resnet18"], fusion=False)
    first = 256 * 512 * 9 + 512 * 512 * 9 + 256 * 512 + 3 * 2 * 512
    second = 2 * 512 * 512 * 9 + 2 * 2 * 512
    assert sum(p.numel() for p in embedding.parameters()) == first + second
    embedding(random_features(BACKBONES["resnet18"], 32)).sum().backward()
    assert all(p.grad is not None for p in embedding.parameters())
