"""SAR against its algorithm, written out."""

from __future__ import annotations

import math

import pytest
import tiny
import torch

from dtta.core.parameters import select
from dtta.methods.sar import Sar


def method(lr=0.1, **options) -> Sar:
    model = tiny.classifier()
    return Sar(model, torch.optim.SGD(select(model, "norm"), lr=lr), **dict(batch_statistics=False) | options)


def entropies(logits):
    p = logits.softmax(1)
    return -(p * p.log()).sum(1)


def worst_point(model, x, old, limit, rho, own):
    """The entropies of the sure images at ε = ρ ∇H / ‖∇H‖ from the weights `old`; the weights there; the sure ones."""
    old = [w.detach().clone().requires_grad_() for w in old]
    H = entropies(tiny.written_out(model, x, *old, own))
    sure = limit > H
    gradients = torch.autograd.grad(H[sure].mean(), old)
    size = math.sqrt(sum(g.square().sum().item() for g in gradients))
    worse = [(w + rho * g / size).detach().requires_grad_() for w, g in zip(old, gradients, strict=True)]
    above = entropies(tiny.written_out(model, x, *worse, own))[sure]
    assert H[sure].mean() < above.mean()  # uphill
    return above, worse, sure


@pytest.mark.parametrize("own", [True, False], ids=["own statistics", "running statistics"])
@pytest.mark.parametrize(("count", "rho", "bites"), [(2, 0.005, False), (8, 0.005, False), (7, 0.1, True)])
def test_a_step_is_the_gradient_at_the_worst_point_nearby(count, rho, bites, own):
    """Both passes see the whole batch; with a larger ρ some of the sure images are no longer sure there."""
    wrapped, x = method(rho=rho, batch_statistics=own), tiny.images(8)
    model, old = wrapped.model, [w.detach().clone() for w in wrapped.adapted]
    H = entropies(tiny.written_out(model, x, *old, own))
    ordered = [*H.sort().values.tolist(), math.log(tiny.CLASSES)]
    limit = (ordered[count - 1] + ordered[count]) / 2  # so many images are sure
    wrapped.margin = limit / math.log(tiny.CLASSES)
    above, worse, sure = worst_point(model, x, old, limit, rho, own)
    still = above < limit
    assert sure.sum() == count and 0 < still.sum() <= count
    assert not bites or still.sum() < count
    step = torch.autograd.grad(above[still].mean(), worse)
    wrapped(x)
    for new, w, g in zip(wrapped.adapted, old, step, strict=True):
        assert torch.allclose(new, w - 0.1 * g, atol=1e-6)
    assert wrapped.average == pytest.approx(above[still].mean().item(), rel=1e-4)


def test_the_average_remembers_nine_tenths():
    wrapped, seen = method(lr=1.0, margin=2.0, floor=0.0), []
    with torch.no_grad():
        wrapped.model.head.weight *= 10  # else all entropies are next to ln L
    for x in (tiny.images(3), tiny.images(3, seed=1) ** 4):
        above, *_ = worst_point(wrapped.model, x, wrapped.adapted, 2.0 * math.log(tiny.CLASSES), wrapped.rho, False)
        seen.append(above.mean().item())
        wrapped(x)
    assert seen[0] != pytest.approx(seen[1], rel=5e-3)
    assert wrapped.average == pytest.approx(0.9 * seen[0] + 0.1 * seen[1], rel=1e-4)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_at_the_worst_point_leaves_no_trace(error):
    wrapped, calls = method(margin=2.0), []
    before = [w.detach().clone() for w in wrapped.adapted]

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 2:
            assert not torch.equal(wrapped.adapted[0], before[0])
            raise error

    wrapped.model.head.register_forward_pre_hook(interrupt)
    with pytest.raises(error):
        wrapped(tiny.images(3))
    assert all(torch.equal(a, b) for a, b in zip(before, wrapped.adapted, strict=True))


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


def released(model, batches, limit, floor, rho=0.05, lr=0.01):
    """The authors' loop and its optimizer, written out: scale and shift after each batch, and how often it recovers."""
    start = [w.detach().clone() for w in (model.norm.weight, model.norm.bias)]
    theta, velocity, average, found, recoveries = start, [torch.zeros_like(w) for w in start], None, [], 0
    for x in batches:
        theta = [w.clone().requires_grad_() for w in theta]
        H = entropies(tiny.written_out(model, x, *theta))
        reliable = limit > H
        gradients = [torch.zeros_like(w) for w in theta]
        if reliable.any():
            first = torch.autograd.grad(H[reliable].mean(), theta)
            size = sum(g.square().sum() for g in first).sqrt()
            worse = [(w + rho * g / size).detach().requires_grad_() for w, g in zip(theta, first, strict=True)]
            above = entropies(tiny.written_out(model, x, *worse))[reliable]
            above = above[above < limit]
            if len(above):
                gradients = torch.autograd.grad(above.mean(), worse)
                value = above.mean().item()
                average = value if average is None else 0.9 * average + 0.1 * value
        velocity = [0.9 * v + g for v, g in zip(velocity, gradients, strict=True)]
        theta = [w.detach() - lr * v for w, v in zip(theta, velocity, strict=True)]
        if average is not None and average < floor:
            theta, recoveries = start, recoveries + 1
        found.append(theta)
    return found, recoveries


@pytest.mark.parametrize("recovers", [False, True])
def test_the_authors_loop_keeps_its_momentum(recovers):
    """Where no image is reliable, and after a recovery, which leaves the moving average as well."""
    model, x = tiny.classifier(), tiny.images(6)
    with torch.no_grad():
        model.head.weight *= 10  # else all entropies are next to ln L
        values, order = entropies(model(x)).sort()
    batches = x[order].split(1)
    limit = values[4:].mean().item()  # all but the last are reliable
    floor = (0.3 * values[0] + 0.7 * values[1]).item() if recovers else 0.0
    expected, recoveries = released(model, batches, limit, floor)
    assert recoveries == (2 if recovers else 0)
    optimizer = torch.optim.SGD(select(model, "norm"), lr=0.01, momentum=0.9)
    settings = dict(margin=limit / math.log(tiny.CLASSES), floor=floor, batch_statistics=False)
    ours = Sar(model, optimizer, as_released=True, **settings)
    for x, theta in zip(batches, expected, strict=True):
        ours(x)
        for w, value in zip(ours.adapted, theta, strict=True):
            torch.testing.assert_close(w.detach(), value, rtol=1e-5, atol=1e-6)
