"""SAR against its algorithm, written out."""

from __future__ import annotations

import math

import pytest
import tiny
import torch

from dtta.baselines import Sar
from dtta.methods import build
from dtta.parameters import select


def method(lr=0.1, **options) -> Sar:
    model = tiny.classifier()
    return Sar(model, torch.optim.SGD(select(model, "norm"), lr=lr), **dict(batch_statistics=False) | options)


def entropies(logits):
    p = logits.softmax(1)
    return -(p * p.log()).sum(1)


@pytest.mark.parametrize("count", [2, 6, 8])
def test_a_step_is_the_gradient_at_the_worst_point_nearby(count):
    wrapped, x, rho = method(rho=0.005), tiny.images(8), 0.005
    ordered = [*entropies(wrapped.model(x)).sort().values.tolist(), math.log(tiny.CLASSES)]
    wrapped.margin = (ordered[count - 1] + ordered[count]) / 2 / math.log(tiny.CLASSES)  # so many images are sure
    model, (weight, bias) = wrapped.model, wrapped.adapted
    old = weight.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()
    limit = wrapped.margin * math.log(tiny.CLASSES)
    H = entropies(tiny.written_out(model, x, *old))
    sure = limit > H
    assert sure.sum() == count
    gradients = torch.autograd.grad(H[sure].mean(), old)
    size = math.sqrt(sum(g.square().sum().item() for g in gradients))
    worse = [(w + rho * g / size).detach().requires_grad_() for w, g in zip(old, gradients, strict=True)]
    above = entropies(tiny.written_out(model, x[sure], *worse))
    assert H[sure].mean() < above.mean()  # uphill
    still = above < limit
    assert 0 < still.sum() <= count
    step = torch.autograd.grad(above[still].mean(), worse)
    wrapped(x)
    for new, w, g in zip(wrapped.adapted, old, step, strict=True):
        assert torch.allclose(new, w - 0.1 * g, atol=1e-6)
    assert wrapped.average == pytest.approx(above[still].mean().item(), rel=1e-4)


def test_unsure_images_teach_nothing():
    wrapped = method(margin=0.01)
    before = [w.detach().clone() for w in wrapped.adapted]
    wrapped(tiny.images(3))
    assert all(torch.equal(a, b) for a, b in zip(before, wrapped.adapted, strict=True))
    assert wrapped.losses == []


def test_a_network_sure_of_everything_starts_afresh():
    wrapped = method(margin=2.0, floor=10.0)
    before = [w.detach().clone() for w in wrapped.adapted]
    wrapped(tiny.images(3))
    assert all(torch.equal(a, b) for a, b in zip(before, wrapped.adapted, strict=True))
    assert wrapped.average is None
    wrapped = method(margin=2.0, floor=0.0)
    for _ in range(2):
        wrapped(tiny.images(3))
    assert wrapped.average is not None


def test_what_makes_no_sense_is_refused():
    for options in (dict(rho=0), dict(margin=0), dict(floor=-1)):
        with pytest.raises(ValueError, match="must be above 0, floor"):
            method(**options)
    assert build(tiny.problem(), "sar", rho=0.2).rho == 0.2
