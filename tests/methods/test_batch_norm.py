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
    with torch.no_grad():
        expected = tiny.written_out(model, x, own=n / (prior + n), unbiased=True)
    assert torch.allclose(answer, expected, atol=1e-4)


def test_nothing_is_left_behind():
    model, x = tiny.classifier(), tiny.images(3)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = model(x)
    BatchNormAdaptation(model, 4)(x)
    assert torch.equal(model(x), before)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("prior", [0, 4])
def test_the_variance_is_that_of_the_authors_layer(prior):
    """Schneider et al. and MEMO take it from a batch norm in training with a momentum of 1, unbiased."""
    model, x = tiny.classifier(), tiny.images(3)
    layer = nn.BatchNorm2d(6, momentum=1.0)
    layer(model.conv(x))
    share, expected = prior / (prior + 3), tiny.classifier()
    for name in ("running_mean", "running_var"):
        setattr(expected.norm, name, share * getattr(model.norm, name) + (1 - share) * getattr(layer, name))
    torch.testing.assert_close(BatchNormAdaptation(model, prior)(x), expected(x), rtol=1e-5, atol=1e-5)


def test_a_single_number_for_each_channel_keeps_the_running_statistics():
    """A 1 x 1 map of one image has no variance; of two images it has."""
    norm = nn.BatchNorm2d(3).eval()
    norm.running_mean.normal_()
    one, two = tiny.normal(1, 3, 1, 1), tiny.normal(2, 3, 1, 1)
    running = norm(one)
    with mixed_statistics(norm):
        assert torch.equal(norm(one), running)
        expected = (two - two.mean(0)) / (two.var(0, unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(norm(two), expected)
        assert torch.equal(norm(one), running)
    with mixed_statistics(norm, 16):
        assert torch.equal(norm(one), running)
    assert torch.equal(norm(one), running)


def test_a_network_without_batch_norm_is_refused():
    with pytest.raises(ValueError, match="Linear has no batch norm"):
        BatchNormAdaptation(nn.Linear(2, 2))


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
    """At a rate of zero the answer is the network's with mixed statistics, or with the batch's, as in training."""
    problem, x = tiny.problem(), tiny.images(4)
    expected = tiny.written_out(problem.model, x, own=0 if prior is None else 4 / (prior + 4))
    answer = build(problem, method, lr=0.0, **settings)(x, torch.Generator().manual_seed(0))
    assert torch.allclose(answer, expected, atol=1e-5)
    assert prior is None or not torch.allclose(answer, problem.model(x), atol=1e-3)


def test_the_steps_are_taken_by_the_batch_too():
    """TENT's first entropy is that of the answer by the batch's statistics."""
    problem, x = tiny.problem(), tiny.images(4)
    tent = build(problem, "tent")
    tent(x)
    assert tent.losses[0] == pytest.approx(entropy(tiny.written_out(problem.model, x, own=1)).mean().item(), rel=1e-5)
