"""Checks of assignment 1: the forward process, its schedule, and the diffusion loss."""

from __future__ import annotations

import torch
from torch import Tensor

from dtta.course.judge import Student, public
from dtta.course.runner.variants import normal


@public
def forward_process(student: Student) -> None:
    """z_t = √ᾱ_t z0 + √(1 - ᾱ_t) ε for a batch of images (N, C, H, W), each with its own ᾱ_t (N,)."""
    z0, noise, a = normal(3, 2, 4, 5), normal(3, 2, 4, 5, seed=1), torch.tensor([0.9, 0.5, 0.04])
    b = a.view(3, 1, 1, 1)
    student.gives(
        b**0.5 * z0 + (1 - b) ** 0.5 * noise,
        z0, a, noise,
        what="z_t",
        reasons={
            "the square root of ᾱ_t is missing, both times": b * z0 + (1 - b) * noise,
            "the image is multiplied by ᾱ_t, not by its square root": b * z0 + (1 - b) ** 0.5 * noise,
            "the noise is multiplied by 1 - ᾱ_t, not by its square root": b**0.5 * z0 + (1 - b) * noise,
            "√ and 1 - are in the wrong order: √(1 - ᾱ_t), not 1 - √ᾱ_t": b**0.5 * z0 + (1 - b**0.5) * noise,
            "image and noise are swapped": b**0.5 * noise + (1 - b) ** 0.5 * z0,
            "every image got the first ᾱ_t": a[0] ** 0.5 * z0 + (1 - a[0]) ** 0.5 * noise,
            "the noise is missing": b**0.5 * z0,
        },
    )  # fmt: skip


@public
def linear_schedule(student: Student) -> None:
    """ᾱ_t = ∏_{s ≤ t} (1 - β_s), with β from first to last in T equal steps, both ends included."""
    T, first, last = 5, 0.1, 0.5
    beta = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    right = torch.tensor([0.9, 0.72, 0.504, 0.3024, 0.1512])
    shorter = first + (last - first) * torch.arange(T) / T
    student.gives(
        right,
        T, first, last,
        what="ᾱ",
        reasons={
            "this is the product of the β, not of the 1 - β": beta.cumprod(0),
            "these are the α_t = 1 - β_t; ᾱ_t is the product of all up to t": 1 - beta,
            "this is a sum of the β; ᾱ is a product of the 1 - β": 1 - beta.cumsum(0),
            "a sum in place of a product": (1 - beta).cumsum(0),
            "ᾱ_t includes β_t itself: this product ends one earlier": torch.cat([torch.ones(1), right[:-1]]),
            "β must reach its last value: T numbers, both ends included": (1 - shorter).cumprod(0),
            "β must begin at its first value: T numbers, both ends included": (
                1 - first - (last - first) * torch.arange(1, T + 1) / T
            ).cumprod(0),
            "β rises from first to last; here it falls": (1 - beta.flip(0)).cumprod(0),
            "this is √ᾱ": right.sqrt(),
        },
    )  # fmt: skip


@public
def loss_per_sample(student: Student) -> None:
    """The mean square of guess - noise over everything but the first axis: (N,), with a gradient."""
    guess, noise = normal(3, 2, 4, 4).requires_grad_(), normal(3, 2, 4, 4, seed=1)
    error = guess - noise
    square = error.square().flatten(1)
    student.gives(
        square.mean(1),
        guess, noise,
        what="the loss of each sample",
        reasons={
            "the sum over the elements of a sample instead of their mean": square.sum(1),
            "the square is missing: this is the mean size of the error": error.abs().flatten(1).mean(1),
            "the square is missing, so positive and negative errors cancel": error.flatten(1).mean(1),
            "the square root of the loss": square.mean(1).sqrt(),
            "the length of the error vector; its square over the number of elements is the loss": square.sum(1).sqrt(),
        },
    )  # fmt: skip


@public
def loss_by_timestep(student: Student) -> None:
    """At each timestep asked for, the loss averaged over the draws of the noise."""
    T = 10
    alpha_bar = torch.linspace(0.95, 0.05, T)
    z0, noise = normal(1, 1, 3, 4), normal(6, 1, 3, 4, seed=1)
    times = [0, 3, 7]

    def predict(z_t: Tensor, t: Tensor) -> Tensor:
        if z_t.shape != noise.shape:
            student.fail(
                f"calls predict with z_t of shape {tuple(z_t.shape)}: expected all draws, {tuple(noise.shape)}"
            )
        if not isinstance(t, Tensor) or t.shape != (6,) or t.is_floating_point():
            student.fail("calls predict with another t than one whole number for each draw, a tensor of shape (6,)")
        return 0.5 * z_t + 0.1 * t.view(-1, 1, 1, 1)

    def losses(a: Tensor, times: list[int], noise: Tensor, told: int = 0) -> Tensor:
        rows = []
        for t in times:
            z_t = a[t] ** 0.5 * z0 + (1 - a[t]) ** 0.5 * noise
            rows.append((0.5 * z_t + 0.1 * (t + told) - noise).square().mean())
        return torch.stack(rows)

    right = losses(alpha_bar, times, noise)
    student.gives(
        right,
        predict, z0, alpha_bar, times, noise,
        what="the loss at each timestep",
        reasons={
            "only the first draw of the noise counts": losses(alpha_bar, times, noise[:1]),
            "only the last draw of the noise counts": losses(alpha_bar, times, noise[-1:]),
            "the sum over the draws instead of their mean": right * len(noise),
            "ᾱ is off by one: the noise level of timestep t is alpha_bar[t]": losses(alpha_bar.roll(1), times, noise),
            "ᾱ is off by one: the noise level of timestep t is alpha_bar[t], not [t + 1]": losses(
                alpha_bar.roll(-1), times, noise
            ),
            "ᾱ is looked up at the place in the list, not at the timestep itself": losses(
                torch.tensor([alpha_bar[times.index(t)] if t in times else 0.5 for t in range(T)]), times, noise
            ),
            "predict is given t - 1 for a z_t at t: timesteps count from 0": losses(alpha_bar, times, noise, -1),
            "predict is given t + 1 for a z_t at t: timesteps count from 0": losses(alpha_bar, times, noise, 1),
        },
    )  # fmt: skip


@public
def rank_classes(student: Student) -> None:
    """The classes from the least mean loss to the largest, all under the same pairs (t, ε)."""
    z0 = normal(1, 1, 4, 4)
    times, noise = torch.tensor([1, 5, 8, 9, 3]), normal(5, 1, 4, 4, seed=1)
    embeddings = torch.tensor([[2.0], [0.5], [1.0], [3.0]])
    part = torch.tensor(  # the loss of each class under each pair, but for what all classes share
        [[0.1, 3.0, 2.0, 2.0, 1.4], [1.5, 1.0, 0.6, 0.5, 0.4], [0.5, 0.8, 1.2, 1.4, 1.1], [0.9, 0.2, 2.5, 1.8, 0.6]]
    )

    def loss(z0: Tensor, t: Tensor, noise_: Tensor, condition: Tensor) -> Tensor:
        sizes = {len(value) for value in (z0, t, noise_, condition)}
        if len(sizes) > 1:
            found = ", ".join(str(tuple(value.shape)) for value in (z0, t, noise_, condition))
            student.fail(f"calls loss with batches of different lengths: {found}. expand makes them one length")
        which = (noise_[:, None] - noise[None]).flatten(2).abs().sum(2).argmin(1)  # which of the pairs is it?
        if not torch.equal(noise[which], noise_) or not torch.equal(t, times[which]):
            student.fail("calls loss with other pairs (t, ε) than those it was given: every class must see just those")
        kind = (condition.flatten(1)[:, :1] - embeddings.T).abs().argmin(1)
        return part[kind, which] + 0.01 * noise_.flatten(1).sum(1)

    means, order = part.mean(1), part.mean(1).argsort()
    student.gives(
        order,
        loss, z0, embeddings, times, noise,
        what="the classes from best to worst",
        reasons={
            "the largest loss comes first; the class that fits best has the smallest": means.argsort(descending=True),
            "these are the ranks of the classes: argsort once, not twice": order.argsort(),
            "only the first pair (t, ε) counts": part[:, 0].argsort(stable=True),
            "only the last pair (t, ε) counts": part[:, -1].argsort(stable=True),
            "the largest loss of a class counts instead of its mean": part.amax(1).argsort(),
            "the smallest loss of a class counts instead of its mean": part.amin(1).argsort(stable=True),
        },
    )  # fmt: skip
