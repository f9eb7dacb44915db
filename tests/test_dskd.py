"""Dual-student distillation: what runs, what learns, and what is exported of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from networks import SIZE, config, image_pair, method_of, stir_batch_norms
from torch import Tensor, nn

from dskd.export.prune import cost, fold_batch_norms, prune
from dskd.train.evaluate import EagerGraph
from dskd.train.methods.dskd import DualStudent
from dskd.train.networks.backbones import BACKBONES
from dskd.train.networks.maps import AnomalyMap

VARIANTS = [
    pytest.param("both", True, "teacher", id="both-B"),
    pytest.param("both", True, "encoder_student", id="both-A"),
    pytest.param("both", False, "teacher", id="both-no-fusion"),
    pytest.param("decoder", True, "teacher", id="decoder"),
    pytest.param("encoder", True, "none", id="encoder"),
]


def calls_of(*parts: nn.Module | None) -> list[tuple[nn.Module, int]]:
    """A list that grows by (part, batch size) each time one of ``parts`` runs."""
    calls: list[tuple[nn.Module, int]] = []
    for part in parts:
        if part is not None:
            part.register_forward_hook(
                lambda m, _, output: calls.append((m, len(torch.utils._pytree.tree_leaves(output)[0])))
            )
    return calls


def test_a_training_step_leaves_the_teacher_bit_identical_and_in_evaluation_mode() -> None:
    method = method_of().train()
    before = {name: tensor.clone() for name, tensor in method.teacher.state_dict().items()}
    students_before = {name: p.detach().clone() for name, p in method.named_parameters() if p.requires_grad}
    optimiser = torch.optim.Adam(method.parameter_groups())
    sum(method(*image_pair()).values()).backward()  # type: ignore[union-attr]
    optimiser.step()
    assert method.training
    assert not any(part.training for part in method.teacher.modules())
    assert all(p.grad is None for p in method.teacher.parameters())
    after = method.teacher.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    moved = {
        name for name, p in method.named_parameters() if p.requires_grad and not torch.equal(p, students_before[name])
    }
    assert moved == set(students_before)  # and everything else did learn


def test_the_optimiser_holds_each_student_parameter_once_and_no_teacher() -> None:
    method = method_of("recipe.learning_rate=0.25", "dskd.encoder_rate=0.5")
    held = [(id(p), group["lr"]) for group in method.parameter_groups() for p in group["params"]]  # type: ignore[attr-defined]
    students = {id(p): 0.25 for part in (method.embedding, method.decoder) for p in part.parameters()}
    students |= {id(p): 0.125 for p in method.encoder_student.parameters()}
    assert sorted(held) == sorted(students.items())


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "detached"])
def test_the_decoder_students_loss_reaches_the_encoder_student_only_when_joint(joint: bool) -> None:
    method = method_of(f"dskd.joint={joint}").train()
    method(*image_pair())["decoder_student"].backward()
    grads = [p.grad for p in method.encoder_student.parameters()]
    assert all((g is not None and bool(g.abs().max() > 0)) == joint for g in grads)
    assert all(float(p.grad.abs().max()) > 0 for p in method.embedding.parameters())
    assert all(float(p.grad.abs().max()) > 0 for p in method.decoder.parameters())


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "detached"])
def test_the_encoder_students_loss_never_touches_the_decoder(joint: bool) -> None:
    method = method_of(f"dskd.joint={joint}").train()
    method(*image_pair())["encoder_student"].backward()
    assert all(float(p.grad.abs().max()) > 0 for p in method.encoder_student.parameters())
    assert all(p.grad is None for part in (method.embedding, method.decoder) for p in part.parameters())


@pytest.mark.parametrize(
    ("students", "mixed", "together"), [("both", 1.0, 6), ("both", 0.5, 5), ("both", 0.01, 4), ("decoder", 1.0, 3)]
)
def test_embedding_and_decoder_run_once_on_all_sources_together(students: str, mixed: float, together: int) -> None:
    method = method_of(f"dskd.students={students}", f"dskd.mixed={mixed}").train()
    calls = calls_of(method.embedding, method.decoder, getattr(method, "encoder_student", None))
    method(*image_pair(3))
    expected = [(method.embedding, together), (method.decoder, together)]
    assert calls == ([(method.encoder_student, 3)] if students == "both" else []) + expected


def hand_distance(teacher: tuple[Tensor, ...], student: tuple[Tensor, ...], cosine: float, l2: float) -> Tensor:
    total = torch.zeros(())
    for t, s in zip(teacher, student, strict=True):
        total = total + cosine * (1 - nn.functional.cosine_similarity(t, s, dim=1)).mean()
        total = total + l2 * (t - s).square().mean()
    return total


def test_terms_ask_both_students_for_the_teachers_features_of_the_clean_image() -> None:
    method = method_of(
        "loss.cosine=0.7", "loss.flattened=False", "loss.l2_encoder=0.3", "loss.l2_decoder=0.2", "dskd.mixed=1"
    ).train()
    clean, seen = image_pair()
    with torch.no_grad():
        twin = copy.deepcopy(method)
        target, taught, encoded = twin.teacher(clean), twin.teacher(seen), twin.encoder_student(seen)
        mixed = tuple(torch.cat(pair) for pair in zip(taught, encoded, strict=True))
        decoded = twin.decoder(twin.embedding(mixed))
        halves = [tuple(f[:2] for f in decoded), tuple(f[2:] for f in decoded)]
        from_teacher, from_student = (hand_distance(target, half, 0.7, 0.2) for half in halves)
        found = method(clean, seen)
    assert set(found) == {"encoder_student", "decoder_student"}
    torch.testing.assert_close(found["encoder_student"], hand_distance(target, encoded, 0.7, 0.3), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["decoder_student"], (from_student + from_teacher) / 2, rtol=1e-4, atol=1e-6)
    assert not torch.isclose(from_student, from_teacher, rtol=1e-3)


def test_flattened_cosine_is_used_where_asked_for() -> None:
    plain, flat = (method_of(f"loss.flattened={flag}", "loss.l2_encoder=0").train() for flag in (False, True))
    clean, seen = image_pair()
    with torch.no_grad():
        target, encoded = flat.teacher(clean), copy.deepcopy(flat.encoder_student)(seen)
        pairs = [(t.flatten(1), s.flatten(1)) for t, s in zip(target, encoded, strict=True)]
        expected = sum((1 - nn.functional.cosine_similarity(t, s)).mean() for t, s in pairs)
        torch.testing.assert_close(flat(clean, seen)["encoder_student"], expected, rtol=1e-4, atol=1e-6)
        assert not torch.isclose(plain(clean, seen)["encoder_student"], expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("changed", "batches"),
    [
        pytest.param((), [4], id="none changed"),
        pytest.param((2,), [4, 1], id="one changed"),
        pytest.param((0, 3), [4, 2], id="two changed"),
        pytest.param((0, 1, 2, 3), [4, 4], id="all changed"),
    ],
)
def test_the_teacher_runs_twice_only_on_changed_images(changed: tuple[int, ...], batches: list[int]) -> None:
    method = method_of().train()
    clean, seen = image_pair(4, changed)
    with torch.no_grad():
        wanted, all_seen = method.teacher(clean), method.teacher(seen)
    calls = calls_of(method.teacher)
    target, taught = method._teach(clean, seen)
    assert [size for _, size in calls] == batches
    for found, expected in ((target, wanted), (taught, all_seen)):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
            assert not a.requires_grad


@pytest.mark.parametrize(
    ("students", "readings", "terms"),
    [
        ("both", ("teacher", "encoder_student"), {"encoder_student", "decoder_student"}),
        ("decoder", ("teacher",), {"decoder_student"}),
        ("encoder", ("none",), {"encoder_student"}),
    ],
)
def test_readings_and_terms_of_each_variant(students: str, readings: tuple[str, ...], terms: set[str]) -> None:
    method = method_of(f"dskd.students={students}").train()
    assert tuple(method.readings()) == readings
    assert set(method(*image_pair())) == terms
    for reading in {"teacher", "encoder_student", "none"} - set(readings):
        with pytest.raises(ValueError, match=f"no reading '{reading}'"):
            method.inference_path(reading)


@pytest.mark.parametrize(
    ("reading", "parts"),
    [
        ("teacher", {"teacher", "embedding", "decoder"}),
        ("encoder_student", {"teacher", "encoder_student", "embedding", "decoder"}),
    ],
)
def test_a_reading_holds_and_runs_its_own_parts_only(reading: str, parts: set[str]) -> None:
    method = method_of().eval()
    path = method.inference_path(reading)
    assert {name for name, _ in path.named_children()} == parts
    calls = calls_of(method.teacher, method.encoder_student, method.embedding, method.decoder)
    with torch.no_grad():
        path(image_pair()[0])
    assert sorted(id(part) for part, _ in calls) == sorted(id(getattr(method, name)) for name in parts)


def test_readings_agree_where_the_encoder_student_is_the_teacher() -> None:
    method = method_of().eval()
    method.encoder_student.load_state_dict(method.teacher.state_dict())
    image = image_pair()[0]
    with torch.no_grad():
        a, b = method.inference_path("teacher")(image), method.inference_path("encoder_student")(image)
    for found, expected in zip((*a[0], *a[1]), (*b[0], *b[1]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def frames(count: int = 2) -> Tensor:
    return torch.from_numpy(np.random.default_rng(5).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8))


@pytest.mark.parametrize(("students", "fusion", "reading"), VARIANTS)
def test_the_pruned_graph_says_what_the_eager_one_says(students: str, fusion: bool, reading: str) -> None:
    method = method_of(f"dskd.students={students}", f"dskd.fusion={fusion}")
    stir_batch_norms(method)
    method.eval()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    graph = EagerGraph(method.inference_path(reading), AnomalyMap(SIZE, SIZE), BACKBONES["resnet18"]).eval()
    pruned = prune(graph)
    with torch.no_grad():
        score, anomaly_map = graph(frames())
        pruned_score, pruned_map = pruned(frames())
    assert float(anomaly_map.std()) > 1e-3  # a flat map would prove nothing
    torch.testing.assert_close(pruned_score, score, rtol=0, atol=1e-5)
    torch.testing.assert_close(pruned_map, anomaly_map, rtol=0, atol=1e-5)
    assert not [part for part in pruned.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())
    kept = reading in ("encoder_student", "none")
    assert any("encoder_student" in name for name, _ in pruned.named_parameters()) == kept


def test_the_graph_takes_bgr() -> None:
    """Swapping blue and red must change the answer: a forgotten channel order would go unnoticed on grey parts."""
    method = method_of()
    stir_batch_norms(method)
    fused = AnomalyMap(SIZE, SIZE)
    pruned, image = prune(EagerGraph(method.inference_path("teacher"), fused, BACKBONES["resnet18"])), frames()
    with torch.no_grad():
        rgb = image.flip(3).permute(0, 3, 1, 2).float() / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        rgb = rgb / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        method.eval()
        expected, _ = fused(*method.inference_path("teacher")(rgb))
        torch.testing.assert_close(pruned(image)[0], expected, rtol=0, atol=1e-5)
        assert not torch.allclose(pruned(image.flip(3))[0], expected, atol=1e-4)


def test_pruning_b_removes_the_encoder_students_share_exactly() -> None:
    with torch.device("meta"):
        method = DualStudent(config(), BACKBONES["resnet18"], BACKBONES["resnet18"].encoder()).eval()
        image = torch.empty(1, 3, 256, 256)
        a = cost(method.inference_path("encoder_student"), method.inference_path("encoder_student"), image)
        b = cost(method.inference_path("teacher"), method.inference_path("teacher"), image)
    assert (round(a.parameters / 1e6, 2), round(a.macs / 1e9, 3)) == (20.95, 6.155)
    assert (round(b.parameters / 1e6, 2), round(b.macs / 1e9, 3)) == (18.17, 4.323)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 5, 3, 2, 1, bias=False),
        nn.Conv2d(3, 5, 1, bias=True),
        nn.ConvTranspose2d(3, 5, 2, 2, bias=False),
        nn.ConvTranspose2d(3, 5, 2, 2, bias=True),
    ],
    ids=["conv", "conv with bias", "transposed", "transposed with bias"],
)
def test_folding_a_batch_norm_is_exact(convolution: nn.Module) -> None:
    pair = nn.Sequential(copy.deepcopy(convolution), nn.BatchNorm2d(5), nn.ReLU()).eval()
    stir_batch_norms(pair)
    image = torch.rand(2, 3, 8, 10)
    with torch.no_grad():
        expected = copy.deepcopy(pair).double()(image.double())
        fold_batch_norms(pair)
        found = pair(image)
    assert isinstance(pair[1], nn.Identity)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-6)


def test_a_batch_norm_without_a_convolution_is_not_folded_in_silence() -> None:
    with pytest.raises(ValueError, match="follows no convolution"):
        fold_batch_norms(nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.BatchNorm2d(5)))


def test_an_encoder_student_may_start_as_the_teacher() -> None:
    method = method_of("dskd.encoder_start=teacher")
    clean, _ = image_pair()
    method.encoder_student.eval()
    for taught, own in zip(method.teacher(clean), method.encoder_student(clean), strict=True):
        torch.testing.assert_close(own, taught)
    assert all(parameter.requires_grad for parameter in method.encoder_student.parameters())
