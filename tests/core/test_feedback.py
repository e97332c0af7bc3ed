"""The accumulated gradient: against one graph, in float16, and where memory runs out."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from adapting import pairs, seeded, tta

from dtta.core import tta as tta_module
from dtta.core.feedback import accumulate, run_in_passes_that_fit, run_with_scaled_gradients
from dtta.core.parameters import select
from dtta.core.sampling import Sampling


def test_accumulate_gives_the_gradient_at_the_condition(diffusion):
    """∂L/∂c against one graph over all pairs, and none where the condition asks for none."""
    z0, c = tiny.images(2) * 2 - 1, tiny.normal(2, len(diffusion.class_embeddings[0]), seed=4).requires_grad_()
    t, noise = Sampling().draw(z0, 5, 1000, seeded())
    losses = [diffusion.loss(z0, t[:, b], noise[:, b], c) for b in range(5)]
    expected = torch.stack(losses).mean()
    (reference,) = torch.autograd.grad(expected, c)
    for micro_batch in (1, 3, 7, 10, 11, None):
        loss, grad = accumulate(diffusion, z0, t, noise, c, micro_batch)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert not loss.requires_grad
        torch.testing.assert_close(grad, reference, rtol=1e-4, atol=1e-5 * reference.abs().max().item())
    assert c.grad is None


@pytest.mark.parametrize("power", [1, 10, 24])
def test_a_power_of_two_changes_no_bit_of_the_gradient(family, power):
    diffusion = tiny.diffusion(family)
    z0, t, noise = pairs(diffusion)
    c = torch.randn(2, diffusion.class_embeddings.shape[1]).requires_grad_()
    loss, grad = accumulate(diffusion, z0, t, noise, c, 4)
    phi = [p.grad.clone() for p in diffusion.network.parameters() if p.grad is not None]
    diffusion.network.zero_grad(set_to_none=True)
    same_loss, scaled = accumulate(diffusion, z0, t, noise, c, 4, scale=2.0**power)
    assert torch.equal(same_loss, loss) and torch.equal(scaled / 2.0**power, grad)
    for before, p in zip(phi, (p for p in diffusion.network.parameters() if p.grad is not None), strict=True):
        assert torch.equal(p.grad / 2.0**power, before)


def test_float16_loses_the_gradient_without_a_scale_and_keeps_it_with_one(monkeypatch):
    """A mean over as many pixels as a latent has: unscaled, most of it falls below what float16 can hold."""
    diffusion = tiny.diffusion("dit")
    z0, t, noise = pairs(diffusion, 24)
    c = torch.randn(2, diffusion.class_embeddings.shape[1]).requires_grad_()
    shrink = 2.0**-20  # as many more pixels
    _, truth = accumulate(diffusion, z0, t, noise, c, scale=shrink)

    def half(scale):
        with torch.autocast("cpu", torch.float16):
            return accumulate(diffusion, z0, t, noise, c, scale=scale)[1]

    assert torch.cosine_similarity(half(shrink).flatten(), truth.flatten(), dim=0) < 0.9
    scaled = half(shrink * 2**20) / 2**20
    assert torch.cosine_similarity(scaled.flatten(), truth.flatten(), dim=0) > 0.999


def test_a_scale_that_is_too_large_is_halved_until_it_fits(monkeypatch):
    scales, original = [], tta_module.accumulate

    def counted(*args):
        scales.append(args[-1])
        loss, grad = original(*args[:-1], args[-1])
        return loss, grad * (float("inf") if len(scales) < 4 else 1)

    method = tta("dit", joint=True, autocast=torch.float16)
    z0, t, noise = pairs(method.diffusion)
    c = method.condition(method.model(tiny.images(2)))
    expected = method.feedback(z0, t, noise, c)[1]
    wanted = [p.grad.clone() for p in select(method.diffusion.network) if p.grad is not None]
    method.optimizer.zero_grad(set_to_none=True)
    monkeypatch.setattr(tta_module, "accumulate", counted)
    c = method.condition(method.model(tiny.images(2)))
    found = method.feedback(z0, t, noise, c)[1]
    first = 2.0 ** round(math.log2(t.numel() * z0[0].numel()))
    assert scales == [first, first / 2, first / 4, first / 8]
    assert torch.allclose(found, expected, rtol=1e-2, atol=1e-3 * expected.abs().max())
    got = [p.grad for p in select(method.diffusion.network) if p.grad is not None]
    for a, b in zip(got, wanted, strict=True):  # not four times as much
        assert (a - b).norm() < 0.5 * b.norm() + 1e-7


def short_of_memory(monkeypatch, diffusion, fits: int) -> list[int]:
    """The diffusion model runs out of memory on more than so many pairs; the sizes it was asked for."""
    asked, original = [], diffusion.loss

    def loss(z0, *args):
        asked.append(len(z0))
        if len(z0) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(z0, *args)

    monkeypatch.setattr(diffusion, "loss", loss)
    return asked


@pytest.mark.parametrize("joint", [False, True])
def test_the_largest_micro_batch_that_fits_is_found_by_halving(monkeypatch, joint):
    plain, small = tta(joint=joint, samples=12), tta(joint=joint, samples=12)
    asked = short_of_memory(monkeypatch, small.diffusion, 3)
    x = tiny.images(1)
    expected = plain(x, seeded(0))
    found = small(x, seeded(0))
    assert asked == [12, 6, 3, 3, 3, 3, 3, 3, 3, 3]  # twice over all pairs, and nothing twice
    assert small.micro_batch == 3
    assert torch.allclose(found, expected, atol=1e-5)
    small(x)
    assert max(asked[10:]) == 3


def test_where_memory_runs_out_in_the_middle_nothing_is_counted_twice(monkeypatch):
    plain, small = tta(joint=True, samples=8), tta(joint=True, samples=8, micro_batch=4)
    calls, original = [], small.diffusion.loss

    def loss(*args):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return original(*args)

    monkeypatch.setattr(small.diffusion, "loss", loss)
    z0, t, noise = pairs(plain.diffusion, 8)
    for method in (plain, small):
        method.feedback(z0, t, noise, method.condition(method.model(tiny.images(2))))
    for a, b in zip(plain.adapted, small.adapted, strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.allclose(a.grad, b.grad, atol=1e-5)


@pytest.mark.parametrize(("pairs", "fits", "sizes"), [
    (180, 44, [180, 90, 45, 20]), (180, 15, [180, 90, 45, 20, 10]), (181, 50, [181, 91, 46]), (7, 3, [7, 4, 2]),
    (12, 12, [12]),
])  # fmt: skip
def test_passes_made_smaller_divide_the_pairs_where_they_can(pairs, fits, sizes):
    """180 = 9 x 20. A prime number of pairs is not worth passes of one; its last pass is smaller."""
    tried, method = [], tta(micro_batch=None)

    def attempt(size):
        tried.append(size)
        if size > fits:
            raise torch.OutOfMemoryError
        return "answer"

    assert run_in_passes_that_fit(method, pairs, attempt) == "answer" and tried == sizes
    assert run_in_passes_that_fit(method, pairs, attempt) == "answer" and tried == [*sizes, sizes[-1]]  # found once


def test_a_model_of_which_not_one_pair_fits_says_so(monkeypatch):
    method = tta()
    asked = short_of_memory(monkeypatch, method.diffusion, 0)
    with pytest.raises(torch.OutOfMemoryError):
        method(tiny.images(1))
    assert asked == [6, 3, 2, 1]


def test_a_gradient_that_is_never_finite_is_an_error():
    c = torch.full((1,), torch.nan)
    with pytest.raises(FloatingPointError, match="not finite in float16 at any scale; use bfloat16 or float32"):
        run_with_scaled_gradients(1000, lambda scale: (torch.zeros(()), c), [])


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", range(3))
def test_one_number_of_all_gradients_that_is_not_finite_halves_the_scale(bad, place):
    parameters = [
        torch.nn.Parameter(torch.ones(4, 3)),
        torch.nn.Parameter(torch.ones(2)),
        torch.nn.Parameter(torch.ones(1)),
    ]
    scales = []

    def attempt(scale):
        scales.append(scale)
        gradients = [torch.full((5,), scale), torch.full((4, 3), scale), torch.full((2,), scale)]
        if len(scales) == 1:
            gradients[place].view(-1)[-1] = bad
        for p, grad in zip(parameters, gradients[1:], strict=False):
            p.grad = grad
        return torch.ones(()), gradients[0]

    _, c_grad = run_with_scaled_gradients(64, attempt, parameters)
    assert scales == [64, 32] and c_grad.eq(1).all() and all(p.grad.eq(1).all() for p in parameters[:2])


def test_a_loss_that_is_not_finite_is_returned_at_once():
    scales = []
    attempt = lambda scale: (scales.append(scale), (torch.full((), torch.nan), torch.full((2,), torch.nan)))[1]  # noqa: E731
    assert run_with_scaled_gradients(64, attempt, [])[0].isnan() and scales == [64]


@pytest.mark.parametrize(("images", "conditions"), [(2, 4), (2, 1), (3, 2)])
def test_conditions_of_other_images_are_refused(diffusion, images, conditions):
    z0, t, noise = pairs(diffusion)
    z0, c = z0[:1].expand(images, -1, -1, -1), diffusion.class_embeddings[[0] * conditions]
    with pytest.raises(ValueError, match=f"must be of the same images, not {images}, 2 and {conditions}"):
        accumulate(diffusion, z0, t, noise, c)


def test_an_unknown_norm_is_refused_wherever_the_loss_is_computed(diffusion):
    z0, t, noise = pairs(diffusion)
    c = diffusion.class_embeddings[[0, 1]]
    with pytest.raises(ValueError, match="norm must be one of l2, l1, not 'L1'"):
        diffusion.loss(z0, t[:, 0], noise[:, 0], c, "L1")
    with pytest.raises(ValueError, match="not 'huber'"):
        accumulate(diffusion, z0, t, noise, c, norm="huber")
