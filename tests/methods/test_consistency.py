"""Consistency with an averaged teacher against its equations, written out."""

from __future__ import annotations

import pytest
import tiny
import torch

from dtta.core.parameters import select
from dtta.methods.consistency import Consistency


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def network():
    return tiny.dense("depth")


@pytest.fixture
def image():
    return tiny.images(1, channels=3)


def method(network, lr=0.01, kind=torch.optim.SGD, **options) -> Consistency:
    return Consistency(network, kind(select(network), lr=lr), **options)


def objective(student, teacher, image, generator, jitter):
    """The relative L1 error between the student's answer to a jittered view and the teacher's mean answer."""
    with torch.no_grad():
        target = (teacher(image) + teacher(image.flip(3)).flip(3)) / 2
    contrast, brightness, side = (2 * torch.rand(3, generator=generator) - 1).tolist()
    mirrored = side >= 0
    view = image.flip(3) if mirrored else image
    view = 0.5 + (1 + jitter * contrast) * (view - 0.5) + jitter * brightness
    view = (view + 0.02 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    wanted = target.flip(3) if mirrored else target
    return (abs(student(view) - wanted) / wanted).mean(), mirrored


def test_the_objective_is_its_formula(network, image):
    """With teacher and student apart, for views of both sides."""
    wrapped = method(network, jitter=0.3)
    wrapped.teacher[0] = tiny.dense("depth", seed=5)
    sides = set()
    for seed in range(8):
        expected, mirrored = objective(network, wrapped.teacher[0], image, seeded(seed), 0.3)
        torch.testing.assert_close(wrapped.objective(image, seeded(seed)), expected)
        sides.add(mirrored)
    assert sides == {True, False}


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_steps_and_teacher_are_the_loop_written_out(network, image, momentum):
    """θ ← θ - rate · gradient, then θ' ← α θ' + (1 - α) θ."""
    student, teacher = tiny.dense("depth"), tiny.dense("depth")
    generator = seeded()
    for _ in range(3):
        loss, _ = objective(student, teacher, image, generator, 0.2)
        gradients = torch.autograd.grad(loss, list(student.parameters()))
        with torch.no_grad():
            for p, q, g in zip(student.parameters(), teacher.parameters(), gradients, strict=True):
                p -= 0.05 * g
                q.copy_(momentum * q + (1 - momentum) * p)
    wrapped = method(network, lr=0.05, steps=3, momentum=momentum, episodic=False)
    with torch.no_grad():
        unadapted = network(image)
    answer = wrapped(image, seeded())
    torch.testing.assert_close(answer, student(image).detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(answer, unadapted, atol=1e-3)
    for p, q in zip(wrapped.teacher[0].parameters(), teacher.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert wrapped.losses[-1] == pytest.approx(loss.item(), rel=1e-4)
