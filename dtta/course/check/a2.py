"""Checks of assignment 2: conditions from classes, pixels and depths, and the gradient that comes back."""

from __future__ import annotations

import torch
from torch import Tensor

from dtta.course.judge import Student, public
from dtta.course.runner.variants import normal


@public
def mix_classes(student: Student) -> None:
    """c = Σ_j softmax(logits)_j l_j, for logits (N, L) and embeddings (L, D), with a gradient."""
    logits, l = normal(2, 4).requires_grad_(), normal(4, 3, seed=1)
    y = logits.softmax(1)
    student.gives(
        y @ l,
        logits, l,
        what="c",
        reasons={
            "the logits themselves were mixed; their softmax is the belief": logits @ l,
            "the softmax runs over the images; it must run over the classes, axis 1": logits.softmax(0) @ l,
            "a sigmoid for each class: beliefs must add up to 1": logits.sigmoid() @ l,
            "only the likeliest class counts; the mixture takes all": l[logits.argmax(1)],
            "the mean over the classes instead of the sum": y @ l / 4,
            "this is log_softmax, not softmax": logits.log_softmax(1) @ l,
        },
    )  # fmt: skip


@public
def mixture_gradient(student: Student) -> None:
    """The gradient at the logits by hand: y_j (g · l_j - Σ_k y_k g · l_k)."""
    logits, l, c_grad = 1.5 * normal(2, 4), normal(4, 3, seed=1), normal(2, 3, seed=2)
    y, score = logits.softmax(1), c_grad @ l.T
    mean = (y * score).sum(1, keepdim=True)
    with torch.inference_mode():
        student.gives(
            y * (score - mean),
            logits, l, c_grad,
            what="the gradient at the logits",
            reasons={
                "the softmax was forgotten: this is the gradient at the beliefs": score,
                "the sum over k is missing": y * score,
                "only y_j (1 - y_j) of the class itself counts; the softmax couples all classes": y * (1 - y) * score,
                "the factor y_j is missing": score - mean,
                "the bracket takes the plain mean of the scores; weight it by the beliefs": y
                * (score - score.mean(1, keepdim=True)),
                "the bracket subtracts the scores of all images; subtract those of the image only": y
                * (score - (y * score).sum()),
            },
        )  # fmt: skip


@public
def mix_pixels(student: Student) -> None:
    """The mixture of class embeddings at every pixel: logits (N, L, H, W), embeddings (L, D) -> (N, D, H, W)."""
    logits, l = (2 * normal(2, 4, 2, 3)).requires_grad_(), normal(4, 5, seed=1)

    def mixed(y: Tensor) -> Tensor:
        return torch.einsum("nlhw,ld->ndhw", y, l)

    y = logits.softmax(1)
    moved = y.movedim(1, -1) @ l
    student.gives(
        mixed(y),
        logits, l,
        what="c",
        reasons={
            "the softmax is missing": mixed(logits),
            "the softmax runs over the columns; it must run over the classes, axis 1": mixed(logits.softmax(-1)),
            "the softmax runs over the rows; it must run over the classes, axis 1": mixed(logits.softmax(2)),
            "only the likeliest class of each pixel counts": l[logits.argmax(1)].movedim(-1, 1),
            "reshape does not move an axis; use movedim, permute or einsum": moved.reshape(2, 5, 2, 3),
            "reshape does not move the axis of the classes; use movedim, permute or einsum": (
                y.reshape(2, 2, 3, 4) @ l
            ).movedim(-1, 1),
        },
    )  # fmt: skip


@public
def depth_condition(student: Student) -> None:
    """Depths from near to far become -1 to 1, on a straight line; what lies outside is clamped."""
    depth = torch.tensor([[[1.0, 2.0, 3.0], [5.0, 8.0, 9.5]], [[0.5, 2.5, 4.0], [6.0, 10.0, 12.0]]]).requires_grad_()
    near, far = 2.0, 10.0
    held = depth.clamp(near, far)[:, None]
    right = 2 * (held - near) / (far - near) - 1
    student.gives(
        right,
        depth, near, far,
        what="c",
        reasons={
            "depths outside near and far are not clamped": 2 * (depth[:, None] - near) / (far - near) - 1,
            "this goes from 0 to 1; it must go from -1 to 1": (right + 1) / 2,
            "near must become -1 and far 1; here it is the other way": -right,
            "near was not subtracted: near must become -1": 2 * held / far - 1,
            "divided by far instead of the length of the range, far - near": 2 * (held - near) / far - 1,
        },
    )  # fmt: skip


@public
def gradient_in_parts(student: Student) -> None:
    """The gradient of the mean loss at c, over micro-batches of at most `size` pairs."""
    c, noise, t, size = normal(1, 3), normal(6, 3, seed=1), torch.tensor([1, 5, 2, 9, 4, 7]), 2
    seen: list[int] = []

    def loss(t_: Tensor, noise_: Tensor, c_: Tensor) -> Tensor:
        lengths = [len(t_), len(noise_), len(c_)]
        if len(set(lengths)) > 1:
            student.fail(f"calls loss with batches of different lengths: {lengths}. expand makes c as long as t")
        if lengths[0] > size:
            student.fail(f"calls loss with {lengths[0]} pairs at once; at most size = {size} fit into memory")
        seen.append(lengths[0])
        return (1 + t_) * (c_ - noise_).square().sum(1)

    each = (1 + t)[:, None] * 2 * (c - noise)
    right = each.mean(0, keepdim=True)
    student.gives(
        right,
        loss, c, t, noise, size,
        what="the gradient at c",
        reasons={
            "the sum over the pairs instead of their mean: divide by B": right * 6,
            "each part's mean was added up; divide by B, the number of all pairs": right * 3,
            "only the last part counts: was the gradient put to zero between the parts?": each[-2:].sum(0, True) / 6,
            "only the last part counts": each[-2:].mean(0, True),
            "only the first part counts": each[:2].mean(0, True),
        },
    )  # fmt: skip
    if len(seen) > 3:
        student.fail(f"calls loss {len(seen)} times for 6 pairs in parts of 2; 3 times is enough")


@public
def mix_top_classes(student: Student) -> None:
    """The mixture of the k likeliest classes of each image, their weights a softmax of their logits."""
    logits, l, k = 1.5 * normal(3, 5), normal(5, 4, seed=1), 2
    largest, chosen = logits.topk(k, dim=1)
    y = logits.softmax(1)
    kept = y * torch.zeros_like(y).scatter(1, chosen, 1.0)
    last = logits.topk(k, dim=1, largest=False)
    right = torch.einsum("nk,nkd->nd", largest.softmax(1), l[chosen])
    leaf = logits.clone().requires_grad_()
    came = student.gives(
        right.requires_grad_(),
        leaf, l, k,
        what="c",
        reasons={
            "the weights do not add up to 1: rescale those of the chosen classes": kept @ l,
            "all classes entered the mixture": y @ l,
            "all chosen classes have the same weight": l[chosen].mean(1),
            "only the likeliest class entered the mixture": l[chosen[:, 0]],
            "the logits themselves were the weights": torch.einsum("nk,nkd->nd", largest, l[chosen]),
            "the least likely classes were chosen": torch.einsum("nk,nkd->nd", last[0].softmax(1), l[last[1]]),
            "the softmax of probabilities: take that of the logits": torch.einsum(
                "nk,nkd->nd", y.gather(1, chosen).softmax(1), l[chosen]
            ),
        },
    )  # fmt: skip
    (grad,) = torch.autograd.grad(came.sum(), leaf, allow_unused=True)
    if grad is None or not grad.any():
        student.fail("gives a condition from which no gradient reaches the logits")
