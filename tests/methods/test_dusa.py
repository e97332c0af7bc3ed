"""DUSA against its loss by the network's own predictions, its closed-form gradient, and what is saved by it."""

from __future__ import annotations

import math

import pytest
import tiny
import torch

from dtta.core.parameters import select
from dtta.core.sampling import Sampling
from dtta.methods.dusa import Dusa, candidates
from dtta.methods.registry import build


def method(family="unet", lr=0.1, phi=False, **options) -> Dusa:
    model, diffusion = tiny.classifier(), tiny.diffusion(family)
    weights = [*select(model), *(select(diffusion.network) if phi else [])]
    optimizer = torch.optim.SGD(weights, lr=lr)
    return Dusa(model, optimizer, diffusion, lambda: diffusion.class_embeddings, **options)


def pairs(wrapped, x, seed):
    """What the first step draws, when no candidate is left to chance."""
    z0 = wrapped.diffusion.encode(x)
    t, noise = wrapped.sampling.draw(z0, wrapped.samples, 1000, torch.Generator().manual_seed(seed))
    return z0, t, noise


def naive(wrapped, x, seed, classes):
    """The loss by mixing predictions, one evaluation at a time."""
    z0, t, noise = pairs(wrapped, x, seed)
    logits = wrapped.model(x)
    if wrapped.tau:
        logits = logits / (wrapped.tau * (logits**2).sum(1, keepdim=True) ** 0.5)
    total = 0
    for n in range(len(x)):
        p = logits[n, classes[n]].softmax(0)
        for b in range(wrapped.samples):
            z_t = wrapped.diffusion.add_noise(z0[n : n + 1], t[n, b : b + 1], noise[n, b : b + 1])
            l = wrapped.diffusion.class_embeddings
            predicted = [wrapped.diffusion.predict(z_t, t[n, b : b + 1], l[j : j + 1]) for j in classes[n]]
            if wrapped.mix == "noise":
                mixed = sum(q * e for q, e in zip(p, predicted, strict=True))
                error = (mixed - noise[n, b]).square().mean()
            else:
                error = sum(q * (e - noise[n, b]).square().mean() for q, e in zip(p, predicted, strict=True))
            total = total + error / wrapped.samples / len(x)
    return total


@pytest.mark.parametrize("family", ["unet", "dit"])
@pytest.mark.parametrize("mix", ["noise", "loss"])
@pytest.mark.parametrize(("top", "tau"), [(3, None), (9, 0.2)])
@pytest.mark.parametrize(("phi", "micro_batch"), [(False, None), (False, 1), (True, None), (True, 1), (True, 3)])
def test_loss_and_gradient_are_those_of_the_mixture(family, mix, top, tau, phi, micro_batch):
    wrapped = method(family, phi=phi, mix=mix, top=top, others=0, tau=tau, samples=2, micro_batch=micro_batch)
    x, sizes = tiny.images(2), []
    wrapped.diffusion.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    classes = wrapped.model(x).argsort(1, descending=True)[:, :top].tolist()
    expected = naive(wrapped, x, 5, classes)
    theirs = torch.autograd.grad(expected, wrapped.adapted, allow_unused=True)
    sizes.clear()
    found = wrapped.objective(x, torch.Generator().manual_seed(5))
    pairs_in_a_pass = {None: [4], 1: [1] * 4, 3: [2, 2]}[micro_batch]  # whole images where one fits
    assert sizes == [len(classes[0]) * pairs for pairs in pairs_in_a_pass]
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    found.backward()
    for p, gradient in zip(wrapped.adapted, theirs, strict=True):
        assert (p.grad is None and gradient is None) or torch.allclose(p.grad, gradient, atol=1e-5)


@pytest.mark.parametrize("phi", [False, True])
def test_passes_are_halved_until_they_fit_in_memory(phi):
    """The same answer to rounding, nothing counted twice, and the size is kept for the next image."""
    x, sizes = tiny.images(2), []
    plain, small = (method(phi=phi, top=2, others=1, samples=4, steps=2, episodic=True) for _ in range(2))

    def fits(_, inputs):
        sizes.append(len(inputs[0]) // 3)
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    small.diffusion.network.register_forward_pre_hook(fits)
    expected, found = (m(x, torch.Generator().manual_seed(0)) for m in (plain, small))
    assert sizes == [8, 4, *[2] * 8] and small.micro_batch == 2 and small.evaluations == plain.evaluations
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="micro_batch must be a whole number of at least 1, not 0"):
        method(micro_batch=0)


def test_nothing_goes_backward_through_a_frozen_diffusion_model():
    wrapped = method(top=9)
    calls = []
    handle = wrapped.diffusion.network.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    wrapped(tiny.images(1))
    handle.remove()
    assert calls == [False]


@pytest.mark.parametrize(("fixed", "rounds"), [(True, 1), (False, 4)])
def test_fixed_pairs_are_predicted_once_for_all_steps(fixed, rounds):
    wrapped = method(top=2, others=1, samples=3, steps=4, sampling=Sampling(reuse_noise=fixed))
    wrapped(tiny.images(2))
    assert wrapped.evaluations == rounds * 2 * 3 * 3
    wrapped(tiny.images(2, seed=1))  # another image is another matter
    assert wrapped.evaluations == rounds * 2 * 3 * 3


@pytest.mark.parametrize(("fixed", "draws"), [(True, 1), (False, 4)])
def test_fixed_pairs_are_drawn_once_also_where_the_diffusion_model_moves(fixed, draws, monkeypatch):
    """Candidates and pairs stay; the predictions are those of φ as it is at each step."""
    wrapped, drawn, seen = method(phi=True, top=2, others=1, steps=4, sampling=Sampling(reuse_noise=fixed)), [], []
    draw = Sampling.draw
    monkeypatch.setattr(Sampling, "draw", lambda *arguments: drawn.append(1) or draw(*arguments))
    wrapped.diffusion.network.register_forward_hook(lambda _, inputs, output: seen.append(output.sample.detach()))
    wrapped(tiny.images(2))
    assert len(drawn) == draws and wrapped.evaluations == 4 * 2 * 3
    assert not torch.equal(seen[0], seen[1])
    wrapped(tiny.images(2, seed=1))
    assert len(drawn) == 2 * draws


@pytest.mark.parametrize("tau", [1.0, 0.5, None])
def test_logits_are_brought_to_one_length_for_the_belief_and_not_for_the_draw(tau, monkeypatch):
    """p = softmax over the candidates of z / (τ ‖z‖); who is a candidate goes by softmax z."""
    asked = []
    monkeypatch.setattr("dtta.methods.dusa.candidates", lambda z, *a: asked.append(z) or candidates(z, *a))
    wrapped, x = method(top=2, others=1, tau=tau, mix="loss"), tiny.images(2)
    assert method().tau == build(tiny.problem(), "dusa").tau == 1.0
    assert build(tiny.problem(), "dusa", tau="none").tau is None
    found = wrapped.objective(x, torch.Generator().manual_seed(0))
    z, (_, chosen, _, _), (G, b, size) = wrapped.model(x).detach(), wrapped.drawn, wrapped.products
    assert torch.equal(asked[0], z)
    expected = 0.0
    for n in range(2):
        length = 1.0 if tau is None else tau * math.sqrt(sum(v**2 for v in z[n].tolist()))
        weights = [math.exp(z[n, k].item() / length) for k in chosen[n]]
        for k, w in enumerate(weights):
            expected += w / sum(weights) * (G[n, k, k] - 2 * b[n, k] + size[n]).item() / 2
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_candidates_are_the_likeliest_and_some_of_the_rest():
    logits = torch.randn(500, 10, generator=torch.Generator().manual_seed(0)) * 2
    chosen = candidates(logits, 4, 2, torch.Generator().manual_seed(1))
    assert chosen.shape == (500, 6)
    assert torch.equal(chosen[:, :4], logits.argsort(1, descending=True)[:, :4])
    assert all(len(set(row)) == 6 for row in chosen.tolist())
    fifth, last = logits.argsort(1, descending=True)[:, [4, 9]].T
    drawn = chosen[:, 4:]
    assert (drawn == fifth[:, None]).any(1).float().mean() > 2 * (drawn == last[:, None]).any(1).float().mean()
    certain = torch.tensor([[200.0, 0, 0, 0, 0, 0]])
    assert candidates(certain, 1, 2, torch.Generator().manual_seed(0)).shape == (1, 3)
    assert candidates(logits, 8, 5, torch.Generator()).shape == (500, 10)


def test_the_papers_timestep_is_100():
    wrapped = method()
    _, t, _ = pairs(wrapped, tiny.images(4), 0)
    assert t.unique().tolist() == [100]
    built = build(tiny.problem(), "dusa")
    assert built.adapts_phi and built.sampling.draw(tiny.images(3), 5, 1000, torch.Generator())[0].unique() == 100
    assert not build(tiny.problem(), "dusa", adapt_diffusion=False).adapts_phi


@pytest.mark.parametrize("family", ["unet", "dit"])
def test_the_released_code_adapts_the_position_embedding_and_not_the_class_table(family):
    problem, x = tiny.problem(family), tiny.images(2)
    network, table = problem.diffusion.network, problem.diffusion.class_embeddings.clone()
    before = network(tiny.normal(1, 1, 8, 8), torch.tensor([7]), class_labels=torch.tensor([1])).sample
    wrapped = build(problem, "dusa", as_released=True)
    after = network(tiny.normal(1, 1, 8, 8), torch.tensor([7]), class_labels=torch.tensor([1])).sample
    assert torch.equal(before, after)
    place = network.pos_embed.pos_embed.clone() if family == "dit" else None
    wrapped(x)
    assert torch.equal(problem.diffusion.class_embeddings, table)
    assert family == "unet" or not torch.equal(network.pos_embed.pos_embed, place)
    phi = {name for name, p in network.named_parameters() if any(p is q for q in wrapped.adapted)}
    left_out = {name for name, _ in network.named_parameters()} - phi
    assert left_out and all("embedding_table" in name for name in left_out)
