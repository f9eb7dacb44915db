"""Every method of the registry through the same path: training step, pruning, cost, export, inspection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import onnx
import pytest
import torch
from conftest import FAMILY, SMALL, Member
from networks import PLAIN, SIZE, default_path, fresh, image_pair, stir_batch_norms
from torch import nn
from trained import train_and_export

from dskd.benchmarks.lab.models.accuracy import CONTESTANTS
from dskd.export.graph.cost import graph_cost
from dskd.export.prune import cost, prune
from dskd.export.run_to_bundle import prove_pruned, training_only
from dskd.runtime.__main__ import main as inspect
from dskd.runtime.bundle.loading import Bundle, load_bundle
from dskd.runtime.errors import CallError, DskdError
from dskd.runtime.inspection.backends import open_backend
from dskd.runtime.inspection.golden import golden_check
from dskd.train import losses
from dskd.train.config import TrainConfig, load_config
from dskd.train.evaluate import EagerGraph
from dskd.train.local_statistics import build_map
from dskd.train.methods import METHODS
from dskd.train.methods.base import build
from dskd.train.methods.rd import RD_RECIPE, ReverseDistillation
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.maps import AnomalyMap, CosineDistances


def steps(method: Any, clean: torch.Tensor, seen: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
    """The terms of each phase of one training step."""
    for phase in range(method.phases):
        yield method(clean, seen, *((phase,) if method.phases > 1 else ()))


def test_every_method_has_its_place_in_the_family() -> None:
    variants = {
        f"{name}, {kind}": CONTESTANTS[f"{name}-{kind}"]
        for name, kind in (("urd", "plain"), ("dskd", "lite"), ("dskd", "slim"))
    }
    assert {name: (f"method={name}",) for name in METHODS.built_in} | variants == FAMILY


# Configuration


PUBLISHED = {  # epochs, batch, accumulate, learning rate, kind and share of pseudo-anomalies
    "dskd": (30, 8, 1, 0.005, "patch", 1),
    "rd": (200, 16, 1, 0.005, "patch", 0),
    "rdpp": (200, 16, 2, 0.005, "simplex", 1),
    "urd": (125, 16, 1, 0.005, "texture", 1),
    "snl": (100, 32, 1, 0.001, "patch", 0),
    "stfpm": (100, 32, 1, 0.4, "patch", 0),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_brings_its_own_recipe(name: str) -> None:
    config = load_config(None, [f"method={name}"])
    for section, given in METHODS[name].recipe.items():
        found = getattr(config, section).model_dump()
        assert {key: found[key] for key in given} == dict(given)
    changed = load_config(None, [f"method={name}", "recipe.epochs=3"])
    assert changed.recipe == config.recipe.model_copy(update={"epochs": 3})  # what is given replaces that alone
    assert TrainConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_is_the_published_one(name: str) -> None:
    config = load_config(None, [f"method={name}"])
    recipe, augment = config.recipe, config.augment
    told = recipe.epochs, recipe.batch, recipe.accumulate, recipe.learning_rate
    assert (*told, augment.kind, augment.pseudo_anomalies) == PUBLISHED[name]
    assert recipe.schedule == ("cosine" if name == "dskd" else "constant")
    assert config.map.distance == ("joined" if name == "dskd" else "cosine")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=rd", "dskd.mixed=0.5"], "dskd holds settings of another method than rd"),
        (["urd.injection=plain"], "urd holds settings of another method than dskd"),
        (["method=rdp"], "Input should be 'dskd', 'rd'"),
        (["method=snl", "snl.centers=3"], "did you mean snl.centres"),
    ],
)
def test_settings_of_another_method_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(CallError, match=message):
        load_config(None, settings)


def test_the_settings_of_an_earlier_run_still_load(tmp_path: Path) -> None:
    """As written before the other methods came: no section of theirs, and fewer keys."""
    fields = load_config(None, ["dskd.students=decoder"]).model_dump(mode="json")
    for name in ("rdpp", "urd", "snl", "embedding", "decoder"):
        del fields[name]
    for key in ("accumulate", "optimiser", "weight_decay", "schedule"):
        del fields["recipe"][key]
    (tmp_path / "config.yaml").write_text(json.dumps(fields))
    assert load_config(tmp_path / "config.yaml", []) == load_config(None, ["dskd.students=decoder"])


# Training


@pytest.mark.parametrize("name", METHODS)
def test_a_step_moves_every_trained_parameter_and_nothing_else(name: str) -> None:
    method = fresh(f"method={name}").train()
    assert method.training
    trained = {id(p) for group in method.parameter_groups() for p in group["params"]}
    assert len(trained) == sum(len(group["params"]) for group in method.parameter_groups())  # each once
    assert trained == {id(p) for p in method.parameters() if p.requires_grad}
    before = {n: t.clone() for n, t in method.state_dict().items()}
    optimiser = torch.optim.SGD(method.parameter_groups(), lr=0.1)
    for terms in steps(method, *image_pair(3, (0, 1, 2))):
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
    frozen = method.expert if name == "urd" else method.teacher
    assert not any(part.training for part in frozen.modules())
    own = dict(method.named_parameters())
    moved = {n for n, t in method.state_dict().items() if not torch.equal(t, before[n])}
    idle = {n for n in own if id(own[n]) in trained} - moved
    # A bias before instance normalisation is taken out again; fresh centres are so alike that their sharpness hardly counts.
    assert all((n.endswith("bias") and n.startswith("projections.")) or n == "aggregation.sharpness" for n in idle), (
        idle
    )
    still = {
        n
        for n, t in before.items()
        if any(t.shape == f.shape and torch.equal(t, f) for f in frozen.state_dict().values())
    }
    assert {f"{'expert' if name == 'urd' else 'teacher'}.{n}" for n in frozen.state_dict()} <= still


def test_ablations_of_dskd_are_the_methods_themselves() -> None:
    """One implementation: the same weights give the same loss under either name."""
    pairs = [
        ("decoder", "rd", ["recipe.learning_rate=0.005"]),
        ("encoder", "stfpm", ["loss.cosine=1", "loss.flattened=true", "loss.l2_encoder=0.1"]),
    ]
    for students, name, settings in pairs:
        ablation = fresh(f"dskd.students={students}").train()
        method = fresh(f"method={name}", *settings).train()
        assert type(ablation) is type(method) is METHODS[name]
        method.load_state_dict(ablation.state_dict())
        for term, value in ablation(*image_pair()).items():
            torch.testing.assert_close(method(*image_pair())[term], value)


# Pruning


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [*[("resnet18", (f"method={name}",)) for name in METHODS], ("resnet18", PLAIN), ("efficientnet_lite0", ())],
    ids=str,
)
def test_the_pruned_graph_says_what_the_eager_one_says(backbone: str, settings: tuple[str, ...]) -> None:
    method = fresh(*settings, backbone=backbone)
    stir_batch_norms(method)
    method.eval()
    frames = torch.randint(0, 256, (2, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    for weights in ((1.0, 1.0, 1.0), (0.0, 1.0, 1.0)):
        graph = EagerGraph(
            default_path(method), AnomalyMap(SIZE, SIZE, distances=CosineDistances(weights)), BACKBONES[backbone]
        ).eval()
        pruned = prune(graph)
        with torch.no_grad():
            (score, anomaly_map), (pruned_score, pruned_map) = graph(frames), pruned(frames)
        assert float(anomaly_map.std()) > 1e-3  # a flat map would prove nothing
        torch.testing.assert_close(pruned_score, score, rtol=0, atol=2e-5)
        torch.testing.assert_close(pruned_map, anomaly_map, rtol=0, atol=2e-5)
        assert not [part for part in pruned.modules() if isinstance(part, nn.BatchNorm2d)]


@pytest.mark.thorough
def test_the_slim_variant_is_slim(members: Callable[[str], Member]) -> None:
    found = graph_cost(onnx.load(members("dskd, slim").bundle.file("model.onnx")))
    assert found.parameters <= 0.60 * 17_981_824  # of DSKD's default graph, three scales or two
    assert found.macs * (256 * 256) // (64 * 96) <= 0.75 * 3_803_185_152


@pytest.mark.thorough
def test_the_lite_variant_is_light(members: Callable[[str], Member]) -> None:
    found = graph_cost(onnx.load(members("dskd, lite").bundle.file("model.onnx")))
    assert found.macs * (256 * 256) // (64 * 96) <= 1_300_000_000
    assert found.parameters <= 6_000_000


def test_a_part_of_training_in_the_file_is_refused(member: Member) -> None:
    model = onnx.load(member.bundle.file("model.onnx"))
    found = graph_cost(model)
    same = cost(prune(member.run.graph(next(iter(member.run.method.readings())))), nn.Identity(), torch.zeros(1))
    assert found.parameters == same.parameters
    with pytest.raises(DskdError, match="still runs teacher"):
        prove_pruned(found, type(same)(found.parameters, found.macs), ["teacher"])
    left = training_only(member.run, member.bundle.manifest.bottleneck_source)
    assert left == {"dskd": ["encoder_student"], "urd": ["expert"]}.get(member.run.config.method, [])
    assert not [owner for owner in found.owners for name in left if name in owner.split(".")]


# Export and runtime


def regions_of_a_crack(bundle: Bundle, pictures: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """How many the command finds in one picture of ``pictures``, with a threshold that everything is over."""
    image = pictures / "test" / "crack" / "000.png"
    assert inspect(["--bundle", str(bundle.path), "--source", str(image), "--review-threshold", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bundle"] == bundle.id
    return len(told["regions"])


def test_a_bundle_of_every_method_is_proved_and_inspects(
    member: Member, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = member.bundle.manifest
    assert manifest.method == member.run.config.method
    exact = [pair for pair in manifest.parity if pair.target not in ("bf16", "fp16")]
    assert len(exact) == len(manifest.parity) - 2
    golden = member.bundle.golden()
    assert all(max(pair.max_abs_diff_score, pair.max_abs_diff_map) < 1e-4 * golden.maps.max() for pair in exact)
    assert golden.maps.std() > 0.02 * golden.maps.mean()  # one that tells models apart
    backend = open_backend(member.bundle)
    golden_check(member.bundle, backend)
    backend.close()
    assert regions_of_a_crack(member.bundle, pictures, capsys) > 0


class Coarse(ReverseDistillation):
    """What a new method's file holds: here a recipe, a loss that asks for the two coarser scales alone, and an inference
    path with a name of its own.
    """

    recipe: ClassVar[Mapping[str, Mapping[str, object]]] = {**RD_RECIPE, "map": {"distance": "cosine"}}

    def forward(self, clean: torch.Tensor, seen: torch.Tensor) -> dict[str, torch.Tensor]:
        target, source = self._teach(clean, seen)
        return {"coarse": losses.cosine(target[1:], self.decoder(self.embedding(source))[1:])}

    def readings(self) -> tuple[str, ...]:
        return ("coarse_scales",)


@pytest.fixture
def coarse() -> Iterator[str]:
    """What the registry finds in the file; the configuration takes its names from there when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS.built_in, "coarse", f"{__name__}:Coarse")
        patch.setattr(TrainConfig.model_fields["method"], "annotation", Literal[tuple(METHODS)])
        TrainConfig.model_rebuild(force=True)
        yield "coarse"
    TrainConfig.model_rebuild(force=True)


def test_a_new_method_is_one_file(
    coarse: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = ("embedding.width=0.125", "decoder.width=0.125")
    train_and_export([f"method={coarse}", *narrow], pictures, tmp_path)
    assert "coarse" in (tmp_path / "log.csv").read_text()
    bundle = load_bundle(tmp_path / "bundle")
    assert (bundle.manifest.method, bundle.manifest.bottleneck_source) == (coarse, "coarse_scales")
    backend = open_backend(bundle)
    golden_check(bundle, backend)
    backend.close()
    assert regions_of_a_crack(bundle, pictures, capsys) > 0


@pytest.mark.parametrize("name", METHODS)
def test_every_map_goes_with_every_method(name: str) -> None:
    settings = [*SMALL, f"method={name}", "map.scale_weights=[0, 1, 1]"]
    torch.manual_seed(0)
    method = build(load_config(None, settings), BACKBONES["resnet18"].encoder().requires_grad_(False)).eval()
    frames = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    for distance in ("joined", "local", "cosine", "l2"):
        summed = ["map.fusion=sum"] if distance == "joined" else []
        chosen = build_map(load_config(None, [*settings, f"map.distance={distance}", *summed]))
        with torch.no_grad():
            score, anomaly_map = EagerGraph(default_path(method), chosen, BACKBONES["resnet18"]).eval()(frames)
        assert torch.isfinite(anomaly_map).all(), distance
        assert anomaly_map.shape == (2, 64, 96)
        assert score.shape == (2,)
