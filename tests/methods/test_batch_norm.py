"""Batch-norm adaptation against the mixture of statistics, written out."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from dtta.methods.batch_norm import BatchNormAdaptation, mixed_statistics
from dtta.methods.registry import build
from dtta.methods.tent import entropy


@pytest.mark.parametrize("prior", [0, 1, 16, 1e9])
@pytest.mark.parametrize("n", [1, 5])
def test_statistics_are_mixed_by_how_many_images_each_stands_for(prior, n):
    model, x = tiny.classifier(), tiny.images(n)
    answer = BatchNormAdaptation(model, prior)(x)
    norm = model.norm
    h = nn.functional.conv2d(x, model.conv.weight, model.conv.bias, padding=1)
    mean = (prior * norm.running_mean + n * h.mean((0, 2, 3))) / (prior + n)
    var = (prior * norm.running_var + n * h.var((0, 2, 3), correction=0)) / (prior + n)
    h = (h - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    h = (h * norm.weight[:, None, None] + norm.bias[:, None, None]).relu()
    with torch.no_grad():
        expected = model.head(nn.functional.avg_pool2d(h, 2).flatten(1))
    assert torch.allclose(answer, expected, atol=1e-4)


def test_nothing_is_left_behind():
    model, x = tiny.classifier(), tiny.images(3)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = model(x)
    BatchNormAdaptation(model, 4)(x)
    assert torch.equal(model(x), before)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_single_number_keeps_the_running_statistics():
    norm = nn.BatchNorm2d(2).eval()
    x = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1)
    with mixed_statistics(norm, 16):
        assert torch.equal(norm(x), norm(x))
        assert torch.allclose(norm(x), x, atol=1e-3)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="Linear has no batch norm"):
        BatchNormAdaptation(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="the prior must be 0 or more images, not -1"):
        BatchNormAdaptation(tiny.classifier(), -1)
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        BatchNormAdaptation(tiny.classifier())(torch.zeros(8, 8))
    assert build(tiny.problem(), "batch-norm", prior=3).prior == 3


@pytest.mark.parametrize(
    ("method", "settings", "prior"),
    [
        ("tent", {}, 0), ("eata", {}, 0), ("sar", {}, 0), ("cotta", {"views": 2}, 0), ("memo", {"views": 2}, 16),
        ("memo", {"views": 2, "prior": 3}, 3),
        ("tent", {"batch_statistics": False}, None), ("eata", {"batch_statistics": False}, None),
        ("sar", {"batch_statistics": False}, None), ("cotta", {"views": 2, "batch_statistics": False}, None),
        ("memo", {"views": 2, "prior": None}, None),
    ],
)  # fmt: skip
def test_whoever_normalises_by_the_batch_answers_so(method, settings, prior):
    """At a rate of zero the answer is batch-norm adaptation's, or the network's own."""
    problem, x = tiny.problem(), tiny.images(4)
    expected = problem.model(x) if prior is None else BatchNormAdaptation(problem.model, prior)(x)
    answer = build(problem, method, lr=0.0, **settings)(x, torch.Generator().manual_seed(0))
    assert torch.allclose(answer, expected, atol=1e-5)
    assert prior is None or not torch.allclose(answer, problem.model(x), atol=1e-3)


def test_the_steps_are_taken_by_the_batch_too():
    """TENT's first entropy is that of the answer by the batch's statistics."""
    problem, x = tiny.problem(), tiny.images(4)
    tent = build(problem, "tent")
    tent(x)
    assert tent.losses[0] == pytest.approx(entropy(BatchNormAdaptation(problem.model, 0)(x)).mean().item(), rel=1e-4)
