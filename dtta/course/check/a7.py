"""Checks of assignment 7: how timesteps are drawn and weighed, and how noisy a gradient is."""

from __future__ import annotations

import torch
from torch import Tensor

from dtta.course.judge import Student, public
from dtta.course.runner.variants import normal


@public
def stratified_times(student: Student) -> None:
    """t_k = ⌊(k + u_k) T / B⌋ for u (N, B): one timestep from each of B equal parts of 0..T-1."""
    u, T = torch.tensor([[0.11, 0.93, 0.42, 0.77], [0.61, 0.27, 0.846, 0.38]]), 100
    k = torch.arange(4)
    part = (k + u) / 4
    if isinstance(came := student(u, T), Tensor) and came.is_floating_point():
        student.fail("should return whole numbers: round down with .long()", (u, T))
    student.gives(
        (part * T).long(),
        u, T,
        what="t",
        reasons={
            "this is uniform sampling: u T, wherever it falls": (u * T).long(),
            "rounded to the nearest number; timesteps are rounded down": (part * T).round().long(),
            "k counts from 1; it counts from 0": ((k + 1 + u) / 4 * T).long(),
            "the parts overlap: u must be divided by B as well": ((k / 4 + u) * T).long(),
            "the parts overlap: u must be divided by B as well, and t was cut off at T - 1": ((k / 4 + u) * T)
            .long()
            .clamp(max=T - 1),
            "u is missing: each t is at the lower end of its part": (k / 4 * T).long().expand(2, 4),
            "T - 1 in place of T": (part * (T - 1)).long(),
            "the division by B is missing": ((k + u) * T).long(),
            "k counts the images, not the pairs": ((torch.arange(2)[:, None] + u) / 2 * T).long(),
        },
    )  # fmt: skip


@public
def antithetic_times(student: Student) -> None:
    """First t = ⌊u T⌋ for half of the u, then the partners T - 1 - t; B timesteps for each of N images."""
    u, T = torch.tensor([[0.117, 0.934, 0.423, 0.771], [0.618, 0.273, 0.846, 0.382]]), 100
    t = (u[:, :2] * T).long()
    if isinstance(came := student(u, T), Tensor) and came.is_floating_point():
        student.fail("should return whole numbers: round down with .long()", (u, T))
    student.gives(
        torch.cat([t, T - 1 - t], 1),
        u, T,
        what="t",
        reasons={
            "the mirror is off by one: the partner of 0 is T - 1, not T": torch.cat([t, T - t], 1),
            "each partner follows its t; first come all t, then all partners": torch.stack(
                [t, T - 1 - t], 2
            ).flatten(1),
            "the partners are in reversed order": torch.cat([t, (T - 1 - t).flip(1)], 1),
            "no partners: this is uniform sampling": (u * T).long(),
            "the second half of u was used instead of the first": torch.cat(
                [(u[:, 2:] * T).long(), T - 1 - (u[:, 2:] * T).long()], 1
            ),
            "all of the u were mirrored, and the t themselves are missing": T - 1 - (u * T).long(),
            "the second half repeats the first; it must be mirrored": torch.cat([t, t], 1),
        },
    )  # fmt: skip


@public
def importance_weights(student: Student) -> None:
    """w(t) = mean of q over q in the part of t, in t's shape."""
    q, T = torch.tensor([1.0, 5.0, 3.0, 2.0]), 40
    t = torch.tensor([[0, 11, 39], [25, 10, 30]])
    part = (t + 0.5) / T * 4
    own = q[part.long()]
    student.gives(
        q.mean() / own,
        q, t, T,
        what="the weights",
        reasons={
            "upside down: what is drawn often must count less": own / q.mean(),
            "the mean of q is missing: 1 / q": 1 / own,
            "the sum of q instead of its mean": q.sum() / own,
            "this is q itself at each timestep": own,
            "divided by the mean of the q drawn, not of all K parts": own.mean() / own,
            "weights that add up to 1 over the timesteps given; the mean over draws must be kept": (1 / own)
            / (1 / own).sum(),
            "the parts are counted from the high end": q.mean() / q.flip(0)[part.long()],
        },
    )  # fmt: skip


@public
def gradient_noise(student: Student) -> None:
    """√(mean over draws of ‖g_s - ḡ‖² / ‖ḡ‖²) for g (S, L), in float64."""
    g = normal(5, 3) + torch.tensor([1.0, -2.0, 0.5])
    d = g.double()
    mean = d.mean(0)
    far = (d - mean).square().sum(1)
    student.gives(
        (far.mean() / mean.square().sum()).sqrt(),
        g,
        what="the noise",
        tolerance=1e-5,  # to compute in float64 is what the hidden tests ask for
        reasons={
            "the square root is missing": far.mean() / mean.square().sum(),
            "divided by S - 1; the formula divides by S": (far.sum() / 4 / mean.square().sum()).sqrt(),
            "the sum over the draws instead of their mean": (far.sum() / mean.square().sum()).sqrt(),
            "divided by the mean square of the gradients, not by the square of their mean": (
                far.mean() / d.square().sum(1).mean()
            ).sqrt(),
            "the mean was not taken away: this is the size of the gradients": (
                d.square().sum(1).mean() / mean.square().sum()
            ).sqrt(),
            "the mean length instead of the root of the mean square": far.sqrt().mean() / mean.norm(),
            "upside down: this is the signal divided by the noise": (mean.square().sum() / far.mean()).sqrt(),
            "the size of the signal is missing: divide by the length of the mean": far.mean().sqrt(),
            "a mean over the L numbers above, a sum below: both must be sums": (
                (d - mean).square().mean() / mean.square().sum()
            ).sqrt(),
            "one mean of all numbers; each of the L columns has a mean": (
                (d - d.mean()).square().sum(1).mean() / mean.square().sum()
            ).sqrt(),
        },
    )


@public
def block_means(student: Student) -> None:
    """The mean of each block of n consecutive rows of g (M, L); a rest is dropped."""
    g, n = normal(7, 4), 3
    whole = g[:6].view(2, 3, 4)
    student.gives(
        whole.mean(1),
        g, n,
        what="the means of the blocks",
        reasons={
            "the sum of each block instead of its mean": whole.sum(1),
            "the last rows were kept and the first dropped": g[1:].reshape(2, 3, 4).mean(1),
            "every second row makes a block; rows that follow each other should": g[:6].view(3, 2, 4).mean(0),
            "only the first row of each block counts": whole[:, 0],
        },
    )  # fmt: skip


@public
def snr_weights(student: Student) -> None:
    """w = min(SNR, m) / SNR over its mean over all T timesteps, looked up at t."""
    alpha_bar, t, m = torch.tensor([0.95, 0.8, 0.6, 0.4, 0.2, 0.05]), torch.tensor([[0, 2], [3, 5]]), 1.2
    snr = alpha_bar / (1 - alpha_bar)
    weight = snr.clamp(max=m) / snr

    def scaled(weight: Tensor) -> Tensor:
        return (weight / weight.mean())[t]

    student.gives(
        scaled(weight),
        alpha_bar, t, m,
        what="the weights",
        reasons={
            "min(SNR, m) weighs the loss of the denoised image; divide it by SNR for the noise loss": scaled(
                snr.clamp(max=m)
            ),
            "the cut-off at m is missing: this is 1 / SNR": scaled(1 / snr),
            "the division by the mean is missing": weight[t],
            "divided by the mean over the t given, not over all T": weight[t] / weight[t].mean(),
            "the mean was taken before the cut-off": weight[t] / (m / snr).mean(),
            "cut off after the division by the mean": (m / snr / (m / snr).mean()).clamp(max=1)[t],
            "max(SNR, m) instead of min(SNR, m)": scaled(snr.clamp(min=m) / snr),
            "upside down: this is SNR / min(SNR, m)": scaled(1 / weight),
            "√ᾱ / √(1 - ᾱ): the ratio is of variances, without the roots": scaled(snr.sqrt().clamp(max=m) / snr.sqrt()),
            "divided by SNR + 1: this is the weight of a loss on v": scaled(snr.clamp(max=m) / (snr + 1)),
            "divided by the sum, not by the mean: the weights' mean is 1/T": weight[t] / weight.sum(),
        },
    )  # fmt: skip
