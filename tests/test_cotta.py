"""CoTTA against its equations, written out."""

from __future__ import annotations

import pytest
import tiny
import torch

from dtta.baselines import Cotta
from dtta.baselines.views import jittered
from dtta.methods import build
from dtta.parameters import select


def method(lr=0.1, **options) -> Cotta:
    model = tiny.classifier()
    return Cotta(model, torch.optim.SGD(select(model), lr=lr), **dict(views=4, restore=0.0, mirror=False) | options)


def test_the_student_follows_the_teachers_belief():
    wrapped, x = method(), tiny.images(4)
    source = wrapped.model(x).softmax(1)
    wrapped.threshold = source.amax(1).median().item()  # half of the images are unsure
    with torch.no_grad():
        for w in wrapped.teacher[0].parameters():
            w += 0.01
        for w in wrapped.model.parameters():
            w -= 0.02
    found = wrapped.objective(x, torch.Generator().manual_seed(3))
    unsure = source.amax(1) < wrapped.threshold
    assert 0 < unsure.sum() < 4
    views = jittered(x[unsure], 4, torch.Generator().manual_seed(3), mirror=False)
    target = wrapped.teacher[0](x).softmax(1)
    k = 0
    for n in range(4):
        if unsure[n]:
            target[n] = sum(wrapped.teacher[0](views[4 * k + v][None]).softmax(1)[0] for v in range(4)) / 4
            k += 1
    y = wrapped.model(x).softmax(1)
    assert found.item() == pytest.approx(-(target * y.log()).sum().item() / 4, rel=1e-4)


def test_the_teacher_is_the_students_average_and_gives_the_answer():
    wrapped, x = method(momentum=0.9), tiny.images(2)
    before = [w.detach().clone() for w in wrapped.model.parameters()]
    gradients = torch.autograd.grad(
        wrapped.objective(x, torch.Generator().manual_seed(0)), list(wrapped.model.parameters())
    )
    answer = wrapped(x, torch.Generator().manual_seed(0))
    for w, start, g in zip(wrapped.model.parameters(), before, gradients, strict=True):
        assert torch.allclose(w, start - 0.1 * g, atol=1e-6)
    for w, start, g in zip(wrapped.teacher[0].parameters(), before, gradients, strict=True):
        assert torch.allclose(w, start - 0.1 * 0.1 * g, atol=1e-6)
    assert torch.equal(answer, wrapped.teacher[0](x))
    assert not torch.equal(answer, wrapped.model(x))


def test_some_weights_return_to_their_start():
    wrapped, x = method(restore=0.3), tiny.images(2)
    wrapped(x, torch.Generator().manual_seed(0))
    other = method()  # the same step without restoring
    other(x, torch.Generator().manual_seed(0))
    still, back = (
        torch.cat([(w == s).flatten() for w, s in zip(m.adapted, m.start, strict=True)]) for m in (other, wrapped)
    )
    assert 0.2 < back[~still].float().mean() < 0.4
    assert back[still].all()
    wrapped = method(restore=1.0)
    wrapped(x)
    assert all(torch.equal(w, s) for w, s in zip(wrapped.adapted, wrapped.start, strict=True))


def test_reset_resets_the_teacher_too():
    wrapped, x = method(episodic=True, momentum=0.5), tiny.images(2)
    first = wrapped(x, torch.Generator().manual_seed(0))
    assert torch.equal(wrapped.teacher[0](x), wrapped.source[0](x))
    assert torch.equal(wrapped(x, torch.Generator().manual_seed(0)), first)


def test_views_are_drawn_from_the_generator_alone():
    x = tiny.images(2, channels=3)
    state = torch.get_rng_state()
    a, b = (jittered(x, 5, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b) and a.shape == (10, 3, 8, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert a.min() >= 0 and a.max() <= 1
    assert not torch.equal(a, jittered(x, 5, torch.Generator().manual_seed(2)))
    assert (a[:5] - x[0]).abs().mean() < (a[:5] - x[1]).abs().mean()  # image by image


def test_what_makes_no_sense_is_refused():
    for name in ("momentum", "restore", "threshold"):
        with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\]"):
            method(**{name: 1.5})
    with pytest.raises(ValueError, match="views must be a whole number"):
        method(views=0)
    assert build(tiny.problem(), "cotta", views=3).views == 3
