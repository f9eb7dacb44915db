"""URD: the losses of its two steps against the method specification, section 5.3, and who learns in which."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hand_formulas import check_rates, check_terms, cosines, each_position, whole_images
from networks import image_pair, method_of, stir_batch_norms
from torch import Tensor, nn

TEACHER, STUDENT = 0, 1
BOX = (slice(None), slice(10, 30), slice(5, 40))  # of ``image_pair``'s changed image


def trained_a_little(*settings: str) -> Any:
    """URD with a teacher that has left its expert, and with BatchNorms whose mode shows."""
    method = method_of("method=urd", *settings).train()
    stir_batch_norms(method.expert)
    stir_batch_norms(method.teacher)
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.mul_(1 + 0.2 * torch.randn_like(parameter))
    return method


def masks(features: tuple[Tensor, ...]) -> list[Tensor]:
    """1 where the second image was altered, at each scale made from the finer one's."""
    mask, found = torch.zeros(2, 1, 64, 64), []
    mask[1][BOX] = 1
    for feature in features:
        mask = (nn.functional.interpolate(mask, feature.shape[2:], mode="bilinear", align_corners=True) > 0.5).float()
        found.append(mask[:, 0])
    return found


def test_the_teachers_step_is_the_papers() -> None:
    method, (clean, seen) = trained_a_little(), image_pair()
    expert, teacher = copy.deepcopy(method.expert).eval(), copy.deepcopy(method.teacher).train()
    with torch.no_grad():
        found = method(clean, seen, TEACHER)
        wanted, normal, altered = expert(clean), teacher(clean), teacher(seen)
        off = [1 - cosines(a, x, 1) for a, x in zip(altered, wanted, strict=True)]
        expected = {
            "normal": each_position(wanted, normal),
            "altered": sum((o - mask).abs().mean() for o, mask in zip(off, masks(wanted), strict=True)),
            "whole": whole_images(expert(seen), altered),
        }
    assert all(mask.any() for mask in masks(wanted))
    check_terms(found, expected)
    assert method.training
    for name, statistic in teacher.state_dict().items():  # both images count in its running statistics
        torch.testing.assert_close(method.teacher.state_dict()[name], statistic, rtol=1e-5, atol=1e-6)
    assert not any(part.training for part in (*method.teacher.modules(), *method.expert.modules()))


def test_the_students_step_asks_both_answers_for_both_features_of_the_good_image() -> None:
    method, (clean, seen) = trained_a_little(), image_pair(2, (0, 1))
    method(clean, seen, TEACHER)  # leaves the teacher as its own step does
    before = {name: tensor.clone() for name, tensor in method.teacher.state_dict().items()}
    expert, teacher = copy.deepcopy(method.expert).eval(), copy.deepcopy(method.teacher).eval()
    with torch.no_grad():
        found = method(clean, seen, STUDENT)
        taught = teacher(torch.cat((clean, seen)))
        rebuilt = method.decoder(method.embedding(taught), taught)
        answers = [[feature[:2] for feature in rebuilt], [feature[2:] for feature in rebuilt]]
        terms, others = (
            torch.stack([whole_images(answer, asked(image)) for answer in answers for asked in (teacher, expert)])
            for image in (clean, seen)
        )
    check_terms(found, {"decoder_student": terms.sum()})
    assert abs(float(others.sum() - terms.sum())) > 1e-3  # the altered image's would be another sum
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.teacher.state_dict().items())


def test_each_step_has_its_own_learners() -> None:
    method = method_of("method=urd").train()
    for phase, learners in ((TEACHER, {"teacher"}), (STUDENT, {"embedding", "decoder"})):
        method.zero_grad(set_to_none=True)
        sum(method(*image_pair(), phase).values()).backward()
        assert {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None} == learners


@pytest.mark.parametrize(("settings", "factor"), [((), 0.02), (("urd.teacher_rate=0.5",), 0.5)])
def test_the_teacher_learns_at_its_own_rate(settings: tuple[str, ...], factor: float) -> None:
    with torch.device("meta"):
        method = method_of("method=urd", "recipe.learning_rate=0.25", *settings)
    check_rates(method, {"embedding": 0.25, "decoder": 0.25, "teacher": 0.25 * factor})


def test_students_start_from_xavier_and_the_teacher_as_its_expert() -> None:
    method = method_of("method=urd")
    parts = [p for part in (method.embedding, method.decoder) for p in part.modules() if isinstance(p, nn.Conv2d)]
    assert len(parts) > 20
    for part in parts:
        outer, inner, height, width = part.weight.shape
        expected = math.sqrt(2 / ((outer + inner) * height * width))
        weight = part.weight.detach()
        assert float(weight.std()) == pytest.approx(expected, rel=0.03), part
        assert float(weight.abs().max()) > 3 * expected  # normal, not uniform
    assert method.teacher is not method.expert
    for name, tensor in method.expert.state_dict().items():
        assert torch.equal(method.teacher.state_dict()[name], tensor)
