"""EATA against its equations, written out."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from torch.nn import functional as F

from dtta.baselines import Eata, fisher_information
from dtta.methods import build
from dtta.parameters import select


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


def test_reset_forgets_the_past():
    wrapped = method(margin=2.0)
    first = wrapped(tiny.images(3))
    assert wrapped.average is not None
    wrapped.reset()
    assert wrapped.average is None
    assert torch.equal(wrapped(tiny.images(3)), first)


def test_what_makes_no_sense_is_refused():
    for options, message in (
        (dict(margin=0), "margin"),
        (dict(similarity=-1), "similarity"),
        (dict(beta=-1), "beta"),
        (dict(fisher=[torch.zeros(1)]), "one tensor for each weight"),
    ):
        with pytest.raises(ValueError, match=message):
            method(**options)


def test_by_name_the_anchor_comes_from_clean_validation_images():
    problem = tiny.problem()
    built = build(problem, "eata", anchors=5)
    expected = fisher_information(problem.model, built.adapted, problem.images(5, split="validation")[0])
    assert all(torch.equal(a, b) for a, b in zip(built.fisher, expected, strict=True))
    assert build(problem, "eata", anchors=0).fisher is None
