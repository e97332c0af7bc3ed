"""TPT and MEMO against their equations, written out."""

from __future__ import annotations

import copy
import math

import pytest
import tiny
import torch

from dtta.core.parameters import select
from dtta.methods.marginal_entropy import MarginalEntropy
from dtta.methods.registry import build
from dtta.methods.views import augmix, crops


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


@pytest.mark.parametrize(
    ("options", "heard", "seen"),
    [({}, 2, 0.0), (dict(kind="augmix", keep=1.0, prior=16), 8, 1 / 17)],
    ids=["TPT", "MEMO"],
)
def test_a_step_is_gradient_descent_on_it(options, heard, seen):
    """H of the mean over the surest views' beliefs, written out with its gradient for all weights; and the answer."""
    wrapped, x = method(lr=0.3, episodic=False, **options), tiny.images(1)
    own = copy.deepcopy(wrapped.model)
    views = (augmix if options else crops)(x, 8, torch.Generator().manual_seed(0))
    beliefs = tiny.written_out(own, views, own=seen).softmax(1)
    surest = sorted(range(8), key=lambda v: -(beliefs[v] * beliefs[v].log()).sum().item())[:heard]
    mean = sum(beliefs[v] for v in surest) / heard
    loss = -(mean * mean.log()).sum()
    with torch.no_grad():
        for p, g in zip(own.parameters(), torch.autograd.grad(loss, list(own.parameters())), strict=True):
            p -= 0.3 * g
        expected = tiny.written_out(own, x, own=seen)
    answer = wrapped(x, torch.Generator().manual_seed(0))
    for p, k in zip(wrapped.model.parameters(), own.parameters(), strict=True):
        assert torch.allclose(p, k, atol=1e-6)
    assert torch.allclose(answer, expected, atol=1e-5)


@pytest.mark.parametrize("views", [32, 64])
def test_all_views_of_an_image_count_as_one_beside_the_prior(views):
    """The running statistics' share is 16/17, in the step and for the answer."""
    wrapped, shares = build(tiny.problem(), "memo", views=views), []
    norm, old = wrapped.model.norm, wrapped.model.norm.running_mean.clone()

    def share(layer, inputs, output):
        seen = inputs[0].mean((0, 2, 3))
        shares.append((len(inputs[0]), ((layer.running_mean - seen) / (old - seen)).tolist()))

    norm.register_forward_hook(share)
    wrapped(tiny.images(1), torch.Generator().manual_seed(0))
    assert [count for count, _ in shares] == [views, 1]
    for _, found in shares:
        assert found == pytest.approx([16 / 17] * 6, abs=1e-3)


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


def test_the_defaults_are_tpts():
    wrapped = build(tiny.open_problem(), "tpt")
    assert (wrapped.views, wrapped.keep, wrapped.steps) == (64, 0.1, 1)
    assert isinstance(wrapped.optimizer, torch.optim.AdamW) and wrapped.optimizer.param_groups[0]["lr"] == 5e-3
    assert [p.shape for p in wrapped.adapted] == [(4, 16)]
