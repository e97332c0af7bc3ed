"""The posterior over the network's top classes, against loops over images, candidates and pairs."""

from __future__ import annotations

import math
from statistics import mean, stdev

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtta.core.sampling import Sampling
from dtta.methods.diffusion_posterior import DiffusionPosterior
from dtta.methods.registry import build

CLASSES = tiny.CLASSES
PROBLEM = tiny.problem()


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def method(**options) -> DiffusionPosterior:
    return DiffusionPosterior(PROBLEM.model, PROBLEM.diffusion, **options)


def stages(image, sizes) -> list[list[list[list[float]]]]:
    """The loss summed over elements of each image, class and pair, one evaluation at a time; pairs stage by stage."""
    phi, generator = PROBLEM.diffusion, seeded()
    losses = [[[] for _ in range(CLASSES)] for _ in image]
    for size in sizes:
        t, noise = Sampling("stratified").draw(2 * image - 1, size, 1000, generator)
        for n, of_image in enumerate(losses):
            for j, of_class in enumerate(of_image):
                z0, l = 2 * image[n : n + 1] - 1, phi.class_embeddings[j : j + 1]
                with torch.no_grad():
                    of_class += [64 * phi.loss(z0, t[n, b : b + 1], noise[n, b : b + 1], l).item() for b in range(size)]
    return losses


def belief(image) -> list[list[float]]:
    with torch.no_grad():
        return PROBLEM.model(image).softmax(1).tolist()


@pytest.mark.parametrize("micro_batch", [1, 4, 512])
def test_the_posterior_is_the_belief_times_the_likelihood(micro_batch):
    image, beta = tiny.images(2), 0.3
    posterior = method(top=3, samples=6, stage=4, beta=beta, micro_batch=micro_batch)
    answers = posterior(image, seeded()).exp()
    for p, answer, losses in zip(belief(image), answers, stages(image, (4, 2)), strict=True):
        top = sorted(range(CLASSES), key=lambda j: -p[j])[:3]
        weight = {j: p[j] * math.exp(-beta * mean(losses[j]) + beta * mean(losses[top[0]])) for j in top}
        shared = sum(p[j] for j in top) / sum(weight.values())
        expected = [weight[j] * shared if j in top else p[j] for j in range(CLASSES)]
        torch.testing.assert_close(answer, torch.tensor(expected), rtol=1e-3, atol=1e-6)
    assert posterior.evaluations == 2 * 3 * 6
    assert not answers.requires_grad


@pytest.mark.parametrize("bound", [0.0, 0.5, 1.5, 4.0])
def test_candidates_are_dropped_as_they_fall_behind(bound):
    """Against the race written out: who is dropped after which stage, at what cost, and how far behind."""
    image, beta, sizes = tiny.images(4), 0.5, (2, 2, 2, 1)
    posterior = method(top=4, samples=7, stage=2, beta=beta, bound=bound)
    answers = posterior(image, seeded())
    evaluations = 0
    for p, answer, losses in zip(belief(image), answers, stages(image, sizes), strict=True):
        top = sorted(range(CLASSES), key=lambda j: -p[j])[:4]
        left, behind = list(top), {}
        for stage, size in enumerate(sizes):
            if len(left) == 1:
                break
            n = sum(sizes[: stage + 1])
            evaluations += size * len(left)
            score = {j: math.log(p[j]) - beta * mean(losses[j][:n]) for j in left}
            leader = max(left, key=score.__getitem__)
            behind |= {j: score[leader] - score[j] for j in left}
            error = {
                j: beta * stdev(a - b for a, b in zip(losses[j][:n], losses[leader][:n], strict=True)) / math.sqrt(n)
                for j in left
            }
            left = [j for j in left if behind[j] <= bound * error[j]]
        shared = sum(p[j] for j in top) / sum(math.exp(-behind[j]) for j in top)
        expected = [math.exp(-behind[j]) * shared if j in top else p[j] for j in range(CLASSES)]
        torch.testing.assert_close(answer.exp(), torch.tensor(expected), rtol=1e-3, atol=1e-6)
    assert posterior.evaluations == evaluations
    if bound == 0:  # the leader of the first stage wins
        assert evaluations == 4 * 4 * 2


def test_a_larger_bound_costs_more_and_none_costs_all():
    image = tiny.images(6)
    costs = []
    for bound in (0.5, 1.5, 3.0, None):
        posterior = method(top=4, samples=8, stage=2, beta=0.5, bound=bound)
        posterior(image, seeded())
        costs.append(posterior.evaluations)
    assert costs == sorted(costs) and costs[0] < costs[-1] == 6 * 4 * 8


def test_unlikely_classes_are_no_candidates():
    image = tiny.images(5)
    posterior = method(top=CLASSES, samples=3, p_min=0.85)
    answers = posterior(image, seeded())
    candidates = [[j for j in range(CLASSES) if p[j] >= 0.85 * max(p)] for p in belief(image)]
    assert posterior.evaluations == 3 * sum(len(c) for c in candidates if len(c) > 1)
    assert 1 < max(map(len, candidates)) < CLASSES
    for answer, kept in zip(answers, candidates, strict=True):
        assert answer.argmax().item() in kept


def test_an_image_with_one_candidate_costs_nothing():
    image = tiny.images(3)
    posterior = method(top=1)
    torch.testing.assert_close(posterior(image), PROBLEM.model(image).log_softmax(1).detach())
    assert posterior.evaluations == 0


@given(
    seed=st.integers(0, 1000), top=st.integers(1, CLASSES + 2), samples=st.integers(1, 5), stage=st.integers(2, 5),
    beta=st.floats(0, 3), bound=st.none() | st.floats(0, 3), p_min=st.floats(0, 0.9),
)  # fmt: skip
def test_it_is_a_distribution_and_its_answer_is_a_candidate(seed, top, samples, stage, beta, bound, p_min):
    image = tiny.images(2, seed)
    posterior = method(top=top, samples=samples, stage=stage, beta=beta, bound=bound, p_min=p_min)
    answers = posterior(image, seeded(seed))
    torch.testing.assert_close(answers.exp().sum(1), torch.ones(2))
    assert posterior.evaluations <= 2 * min(top, CLASSES) * samples
    with torch.no_grad():
        logits = PROBLEM.model(image)
    for answer, before in zip(answers, logits, strict=True):
        assert answer.argmax() in before.topk(min(top, CLASSES)).indices
    if beta == 0 and bound is None and p_min == 0:
        torch.testing.assert_close(answers, logits.log_softmax(1))


def test_no_diffusion_model_no_change():
    image = tiny.images(2)
    torch.testing.assert_close(method(beta=0.0)(image), PROBLEM.model(image).log_softmax(1).detach())


def test_passes_are_halved_until_they_fit_in_memory(monkeypatch):
    image, sizes = tiny.images(2), []
    expected = method(top=3, samples=4)(image, seeded())
    posterior = method(top=3, samples=4, micro_batch=20)
    original = posterior.diffusion.loss

    def loss(z0, *rest):
        sizes.append(len(z0))
        if len(z0) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(z0, *rest)

    monkeypatch.setattr(posterior.diffusion, "loss", loss)
    torch.testing.assert_close(posterior(image, seeded()), expected, rtol=1e-4, atol=1e-5)
    assert sizes == [20, 10, 5, 5, 5, 5, 4] and posterior.micro_batch == 5 and posterior.evaluations == 24


def test_the_settings_reach_their_places():
    posterior = build(PROBLEM, "diffusion-posterior", top=2, samples=6, beta=0.7, bound=2.0, t_min=0.2, t_max=0.6)
    assert (posterior.top, posterior.samples, posterior.beta, posterior.bound) == (2, 6, 0.7, 2.0)
    assert (posterior.sampling.timesteps, posterior.sampling.t_min, posterior.sampling.t_max) == (
        "stratified",
        0.2,
        0.6,
    )


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_it_is_for_classification(task):
    with pytest.raises(ValueError, match=f"diffusion-posterior does not suit {task}; choose from none, diffusion-tta"):
        build(tiny.dense_problem(task), "diffusion-posterior")


@pytest.mark.parametrize(("settings", "message"), [
    (dict(top=0), "top must be a whole number of at least 1"),
    (dict(samples=0), "samples must be a whole number of at least 1"),
    (dict(beta=-0.1), "beta must be 0 or more"),
    (dict(p_min=1.0), r"p_min must lie in \[0, 1\)"),
    (dict(bound=-1.0), "bound must be 0 or more"),
    (dict(bound=2.0, stage=1), "needs a stage of at least 2"),
])  # fmt: skip
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        build(PROBLEM, "diffusion-posterior", **settings)
