"""EATA against its equations, written out."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from torch.nn import functional as F

from dtta.core.parameters import select
from dtta.methods.eata import Eata, fisher_information
from dtta.methods.registry import build


def method(lr=0.1, **options) -> Eata:
    model = tiny.classifier()
    return Eata(model, torch.optim.SGD(select(model, "norm"), lr=lr), **dict(batch_statistics=False) | options)


def H(p) -> float:
    return -sum(q * math.log(q) for q in p.tolist())


def test_the_objective_weighs_sure_images_and_anchors_the_rest():
    model, x = tiny.classifier(), tiny.images(8)
    weights = select(model, "norm")
    fisher = [torch.rand_like(w) for w in weights]
    wrapped = Eata(model, torch.optim.SGD(weights, lr=0.1), fisher=fisher, beta=3.0, batch_statistics=False)
    with torch.no_grad():
        for w in weights:
            w += 0.1
    p = model(x).softmax(1)
    limit = sum(sorted(map(H, p))[3:5]) / 2  # half of the images are sure, none is on the edge
    wrapped.margin = limit / math.log(tiny.CLASSES)
    sure = [q for q in p if H(q) < limit]
    assert 0 < len(sure) < 8
    expected = sum(math.exp(limit - H(q)) * H(q) for q in sure) / len(sure)
    expected += 3.0 * sum((f * 0.1**2).sum().item() for f in fisher)
    assert wrapped.objective(x, torch.Generator()).item() == pytest.approx(expected, rel=1e-4)
    assert torch.allclose(wrapped.average, sum(sure) / len(sure), atol=1e-6)


def test_what_is_like_the_past_teaches_nothing():
    wrapped = method(margin=2.0, similarity=0.9)
    x = tiny.images(4)
    assert wrapped.objective(x, torch.Generator()) is not None
    mean = wrapped.average.clone()
    p = wrapped.model(x).softmax(1)
    cosines = F.cosine_similarity(p, mean[None])
    wrapped.similarity = cosines.sort().values[1].item()  # one image lies below
    assert wrapped.objective(x, torch.Generator()) is not None
    new = p[cosines.argmin()]
    assert torch.allclose(wrapped.average, 0.9 * mean + 0.1 * new, atol=1e-6)
    wrapped.similarity = 1e-6
    before = [w.detach().clone() for w in wrapped.adapted]
    wrapped(x)
    assert wrapped.losses == []
    assert all(torch.equal(a, b) for a, b in zip(before, wrapped.adapted, strict=True))


def test_fisher_information_is_the_mean_squared_gradient():
    model, x = tiny.classifier(), tiny.images(3)
    weights = select(model, "norm")
    found = fisher_information(model, weights, x)
    expected = [torch.zeros_like(w) for w in weights]
    for k in range(3):
        p = model(x[k : k + 1]).softmax(1)[0]
        for total, g in zip(expected, torch.autograd.grad(-p.max().log(), weights), strict=True):
            total += g.square() / 3
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-7)
    assert not any(w.grad is not None for w in weights)


def test_fisher_information_goes_by_the_batch_where_adaptation_does():
    model, x = tiny.classifier(), tiny.images(70)
    weights, running = select(model, "norm"), model.norm.running_mean.clone()
    found = fisher_information(model, weights, x, batch_statistics=True)
    expected = [torch.zeros_like(w) for w in weights]
    for batch in (x[:64], x[64:]):
        p = tiny.written_out(model, batch, *weights, own=True).softmax(1)
        for q in p:
            for total, g in zip(expected, torch.autograd.grad(-q.max().log(), weights, retain_graph=True), strict=True):
                total += g.square() / 70
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert torch.equal(model.norm.running_mean, running)


@pytest.mark.parametrize("own", [True, False], ids=["own statistics", "running statistics"])
def test_a_step_holds_the_images_weights_constant(own):
    """θ - r (mean of exp(E_0 - H) ∂H + 2 β ω (θ - θ_0)), where E_0 - H in the exponent is a number."""
    model, x, rate, beta = tiny.classifier(), tiny.images(8), 0.1, 3.0
    weights = select(model, "norm")
    fisher = [torch.rand(w.shape, generator=torch.Generator().manual_seed(0)) for w in weights]
    optimizer = torch.optim.SGD(weights, lr=rate)
    wrapped = Eata(model, optimizer, fisher=fisher, beta=beta, batch_statistics=own)
    start = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for w in weights:
            w += 0.1
    theta = [w.detach().clone().requires_grad_() for w in weights]
    p = tiny.written_out(model, x, *theta, own).softmax(1)
    entropies = [-(q * q.log()).sum() for q in p]
    limit = sum(sorted(h.item() for h in entropies)[3:5]) / 2  # half of the images are sure
    wrapped.margin = limit / math.log(tiny.CLASSES)
    loss = sum(math.exp(limit - h.item()) * h for h in entropies if h.item() < limit) / 4
    gradients = torch.autograd.grad(loss, theta)
    wrapped(x)
    for w, old, first, f, g in zip(weights, theta, start, fisher, gradients, strict=True):
        assert torch.allclose(w, old - rate * (g + 2 * beta * f * (old - first)), atol=1e-6)


def test_reset_forgets_the_past():
    wrapped = method(margin=2.0)
    wrapped(tiny.images(3))
    assert wrapped.average is not None
    wrapped.reset()
    assert wrapped.average is None


def test_an_anchor_of_other_parameters_is_refused():
    with pytest.raises(ValueError, match="one tensor for each adapted parameter"):
        method(fisher=[torch.zeros(1)])


def test_by_name_the_anchor_comes_from_clean_validation_images():
    problem = tiny.problem()
    built = build(problem, "eata", anchors=5)
    clean = problem.images(5, split="validation")[0]
    expected = fisher_information(problem.model, built.adapted, clean, batch_statistics=True)
    assert all(torch.equal(a, b) for a, b in zip(built.fisher, expected, strict=True))
    running = fisher_information(problem.model, built.adapted, clean)
    assert not torch.allclose(running[0], expected[0])
    alone = build(problem, "eata", anchors=5, batch_statistics=False)
    assert all(torch.equal(a, b) for a, b in zip(alone.fisher, running, strict=True))
    assert build(problem, "eata", anchors=0).fisher is None
