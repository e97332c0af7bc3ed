"""Checks of assignment 2: conditions from classes, pixels and depths, and the gradient that comes back."""

from __future__ import annotations

import torch
from torch import Tensor

from dtta.course.judge import Student, public
from dtta.course.variants import normal


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
            "the softmax runs over the images; it belongs over the classes, axis 1": logits.softmax(0) @ l,
            "a sigmoid for each class: beliefs must add up to 1": logits.sigmoid() @ l,
            "only the likeliest class counts; the mixture takes all": l[logits.argmax(1)],
            "the mean over the classes, where the sum belongs": y @ l / 4,
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
                "only the class's own y_j (1 - y_j) counts; beliefs compete, so all classes do": y * (1 - y) * score,
                "the factor y_j is missing": score - mean,
                "the bracket takes the plain mean of the scores; weight it by the beliefs": y
                * (score - score.mean(1, keepdim=True)),
                "the bracket takes off all images' scores; each image has its own": y * (score - (y * score).sum()),
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
            "the softmax runs over the columns; it belongs over the classes, axis 1": mixed(logits.softmax(-1)),
            "the softmax runs over the rows; it belongs over the classes, axis 1": mixed(logits.softmax(2)),
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
            "this goes from 0 to 1; -1 to 1 is wanted": (right + 1) / 2,
            "near must become -1 and far 1; here it is the other way": -right,
            "near was not taken off: near must become -1": 2 * held / far - 1,
            "divided by far, where the length of the range, far - near, belongs": 2 * (held - near) / far - 1,
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
            "the sum over the pairs, where their mean belongs: divide by B": right * 6,
            "each part's mean was added up; divide by B, the number of all pairs": right * 3,
            "only the last part counts: was the gradient put to zero between the parts?": each[-2:].sum(0, True) / 6,
            "only the last part counts": each[-2:].mean(0, True),
            "only the first part counts": each[:2].mean(0, True),
        },
    )  # fmt: skip
    if len(seen) > 3:
        student.fail(f"calls loss {len(seen)} times for 6 pairs in parts of 2; 3 times is enough")
