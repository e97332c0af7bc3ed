"""TENT against its entropy and its optimizer, written out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dtta.core.parameters import select
from dtta.methods.registry import build
from dtta.methods.tent import Tent, entropy


def tent(model, lr=0.05, **options) -> Tent:
    return Tent(model, torch.optim.Adam(select(model, "norm"), lr=lr), **options)


@pytest.fixture(params=["classification", "segmentation"])
def network(request):
    """A network and images for it: logits of an image, or of each pixel."""
    if request.param == "classification":
        return tiny.classifier(), [tiny.images(1, seed=s) for s in range(3)]
    return tiny.dense("segmentation"), [tiny.images(1, seed=s, channels=3) for s in range(3)]


def adam_on_entropy(model, images, lr, steps, own, carry):
    """Entropy downhill by Adam (β 0.9 and 0.999, ε 1e-8), both written out; answers after each image."""
    start = [model.norm.weight.detach().clone(), model.norm.bias.detach().clone()]
    answers, theta = [], start
    for i, image in enumerate(images):
        if i == 0 or not carry:
            theta, m, v, k = start, [0, 0], [0, 0], 0
        for _ in range(steps):
            theta = [p.detach().requires_grad_() for p in theta]
            p = tiny.written_out(model, image, *theta, own).softmax(1)
            loss = -(p * p.log()).sum(1).mean()
            gradients, k = torch.autograd.grad(loss, theta), k + 1
            m = [0.9 * a + 0.1 * g for a, g in zip(m, gradients, strict=True)]
            v = [0.999 * a + 0.001 * g**2 for a, g in zip(v, gradients, strict=True)]
            theta = [
                p.detach() - lr * (a / (1 - 0.9**k)) / ((b / (1 - 0.999**k)).sqrt() + 1e-8)
                for p, a, b in zip(theta, m, v, strict=True)
            ]
        with torch.no_grad():
            answers.append(tiny.written_out(model, image, *theta, own))
    return answers


@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=6))
def test_entropy_is_its_sum(row):
    logits = torch.tensor([row])
    p = np.exp(np.array(row) - max(row))
    p /= p.sum()
    expected = -sum(q * np.log(q) for q in p if q > 0)
    assert entropy(logits).item() == pytest.approx(expected, abs=1e-5)
    assert entropy(logits[:, :, None, None].expand(1, -1, 2, 3)).shape == (1, 2, 3)
    assert -1e-6 <= entropy(logits).item() <= np.log(len(row)) + 1e-5


@pytest.mark.parametrize("own", [True, False], ids=["own statistics", "running statistics"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("episodic", [True, False], ids=["episodic", "online"])
def test_a_stream_is_entropy_and_adam_written_out(network, episodic, steps, own):
    """Per image and per pixel; online, weights and moments are carried from image to image."""
    model, images = network
    expected = adam_on_entropy(model, images, 0.05, steps, own, carry=not episodic)
    with torch.no_grad():
        unadapted = model(images[-1])
    method = tent(model, steps=steps, episodic=episodic, batch_statistics=own)
    for image, reference in zip(images, expected, strict=True):
        answer = method(image)
        torch.testing.assert_close(answer, reference, rtol=1e-3, atol=1e-4)
        assert not answer.requires_grad
        assert len(method.losses) == steps
    assert not torch.allclose(answer, unadapted, atol=1e-3)


def test_it_makes_the_network_surer(network):
    model, (image, *_) = network
    method = tent(model, lr=0.01, steps=5)
    answer = method(image)
    assert all(b < a for a, b in zip(method.losses, method.losses[1:], strict=False))
    assert entropy(answer).mean() < method.losses[-1]


def test_layer_norm_does_not_notice(image):
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 3))
    a, b = (tent(model, batch_statistics=own)(image) for own in (True, False))
    assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["sgd", "nesterov"])
def test_the_authors_loop_answers_before_the_step(name):
    """Online, three batches of four, with their way to use the batch's statistics and momentum written out."""
    problem, x = tiny.problem(), tiny.images(12)
    theirs, expected = copy.deepcopy(problem.model), []
    theirs.norm.running_mean = theirs.norm.running_var = None
    parameters, velocity = list(theirs.norm.parameters()), [0.0, 0.0]
    for batch in x.split(4):
        logits = theirs(batch)
        expected.append(logits.detach())
        loss = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean(0)
        gradients = torch.autograd.grad(loss, parameters)
        velocity = [0.9 * v + g for v, g in zip(velocity, gradients, strict=True)]
        with torch.no_grad():
            for p, v, g in zip(parameters, velocity, gradients, strict=True):
                p -= 0.5 * (g + 0.9 * v if name == "nesterov" else v)
    settings = dict(optimizer=name, lr=0.5, episodic=False)
    ours = build(problem, "tent", answer_before_step=True, **settings)
    for batch, answer in zip(x.split(4), expected, strict=True):
        torch.testing.assert_close(ours(batch), answer, rtol=1e-4, atol=1e-5)
    after = build(tiny.problem(), "tent", **settings)
    assert not torch.allclose(after(x[:4]), expected[0], atol=1e-3)
