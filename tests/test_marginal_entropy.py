"""TPT and MEMO against their equations, written out."""

from __future__ import annotations

import math

import pytest
import tiny
import torch

from dtta.baselines import MarginalEntropy
from dtta.baselines.views import crops
from dtta.methods import build
from dtta.parameters import select


def method(keep=0.25, views=8, **options):
    model = tiny.classifier()
    optimizer = torch.optim.SGD(select(model), lr=options.pop("lr", 0.1))
    return MarginalEntropy(model, optimizer, views=views, keep=keep, **options)


@pytest.mark.parametrize("keep", [0.25, 1.0, 0.01])
def test_the_objective_is_the_equation(keep):
    wrapped, x = method(keep), tiny.images(2)
    found = wrapped.objective(x, torch.Generator().manual_seed(0))
    views = crops(x, 8, torch.Generator().manual_seed(0), 0.5)
    total = 0
    for n in range(2):
        beliefs = [wrapped.model(v[None]).softmax(1)[0] for v in views[8 * n : 8 * n + 8]]
        beliefs.sort(key=lambda p: -sum(q * math.log(q) for q in p.tolist()))
        heard = beliefs[: max(1, int(keep * 8))]
        mean = sum(heard) / len(heard)
        total += -sum(p * math.log(p) for p in mean.tolist()) / 2
    assert found.item() == pytest.approx(total, abs=1e-5)


def test_a_step_is_gradient_descent_on_it():
    wrapped, x = method(lr=0.3, episodic=False), tiny.images(1)
    kept = [p.detach().clone() for p in wrapped.adapted]
    grads = torch.autograd.grad(wrapped.objective(x, torch.Generator().manual_seed(0)), wrapped.adapted)
    wrapped(x, torch.Generator().manual_seed(0))
    for p, k, g in zip(wrapped.adapted, kept, grads, strict=True):
        assert torch.allclose(p, k - 0.3 * g, atol=1e-6)


def test_views():
    x = tiny.images(2, size=16)
    views = crops(x, 6, torch.Generator().manual_seed(0), 0.25)
    assert views.shape == (12, 1, 16, 16) and views.min() >= 0 and views.max() <= 1
    assert torch.allclose(views[[0, 6]], x, atol=1e-6)
    assert len({v.sum().item() for v in views}) == 12
    ramp = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    steps = crops(ramp, 200, torch.Generator().manual_seed(1), 0.25)[1:, 0, 0].diff(dim=1).mean(1)
    assert 0.3 < (steps < 0).float().mean() < 0.7  # half are mirrored
    assert steps.abs().min() > 0.4 * ramp[0, 0, 0].diff().mean()  # a quarter of the area: half the side


def test_a_view_count_or_share_out_of_range_is_refused():
    for options in (dict(views=1), dict(keep=0), dict(keep=1.1), dict(area=0)):
        with pytest.raises(ValueError, match="views"):
            method(**options)


def test_the_defaults_are_tpts():
    wrapped = build(tiny.open_problem(), "tpt")
    assert (wrapped.views, wrapped.keep, wrapped.steps) == (64, 0.1, 1)
    assert isinstance(wrapped.optimizer, torch.optim.AdamW) and wrapped.optimizer.param_groups[0]["lr"] == 5e-3
    assert [p.shape for p in wrapped.adapted] == [(4, 16)]
