"""Checks of assignment 5: depth as a condition, its gradient, its alignment, and its errors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dtta.course.judge import Student, public
from dtta.course.runner.variants import generator

NEAR, FAR = 1.5, 12.0
DEPTH = torch.tensor([[[2.0, 3.0, 4.5], [1.0, 7.0, 11.0]], [[6.0, 2.5, 15.0], [9.0, 1.2, 5.0]]])  # some lie outside


@public
def log_depth(student: Student) -> None:
    """c = 2 log(d / near) / log(far / near) - 1, for depths held within [near, far]."""
    depth = DEPTH.clone().requires_grad_()
    held, span = depth.clamp(NEAR, FAR), math.log(FAR / NEAR)
    right = 2 * (held / NEAR).log() / span - 1
    student.gives(
        right,
        depth, NEAR, FAR,
        what="c",
        reasons={
            "depths outside near and far are not clamped": 2 * (depth / NEAR).log() / span - 1,
            "this goes from 0 to 1; it must go from -1 to 1": (right + 1) / 2,
            "the logarithm is missing: these are equal steps of depth": 2 * (held - NEAR) / (FAR - NEAR) - 1,
            "near must become -1 and far 1; here it is the other way": -right,
            "log(near) was not subtracted": 2 * held.log() / span - 1,
            "divided by log(far) instead of log(far) - log(near)": 2 * (held / NEAR).log() / math.log(FAR) - 1,
            "the logarithm of far - near instead of log(far) - log(near)": 2
            * (held / NEAR).log() / math.log(FAR - NEAR) - 1,
        },
    )  # fmt: skip


@public
def log_depth_gradient(student: Student) -> None:
    """∂L/∂d = ∂L/∂c · 2 / (d log(far / near)) inside the range, and 0 outside."""
    c_grad = torch.randn(DEPTH.shape, generator=generator(1))
    inside, span = (DEPTH > NEAR) & (DEPTH < FAR), math.log(FAR / NEAR)
    slope = 2 / (DEPTH * span)
    right = slope * c_grad * inside
    with torch.inference_mode():
        student.gives(
            right,
            DEPTH.clone(), NEAR, FAR, c_grad,
            what="the gradient at the depth",
            reasons={
                "outside near and far the clamp is constant: the gradient is 0 there": slope * c_grad,
                "this is only the slope; multiply it by the gradient at the condition": slope * inside,
                "the factor 2 is missing": right / 2,
                "1/d is missing: the derivative of the logarithm": 2 / span * c_grad * inside,
                "the derivative of log d is 1/d, not 1/(d / near)": right * NEAR,
                "log(far / near) is missing": right * span,
                "this divides by the slope; multiply by it": (c_grad / slope) * inside,
            },
        )  # fmt: skip


@public
def scale_and_shift(student: Student) -> None:
    """For each image the line s a + b that fits 1 / d best, over the valid pixels."""
    g = generator(3)
    truth = 1 + 4 * torch.rand(2, 3, 4, generator=g)
    answer = 0.5 + 2 / truth + 0.2 * torch.randn(2, 3, 4, generator=g)
    valid = torch.rand(2, 3, 4, generator=g) < 0.7
    both = torch.ones_like(valid)

    def fit(target: Tensor, valid: Tensor, a: Tensor = answer) -> Tensor:
        rows = []
        for x, y, there in zip(a, target, valid, strict=True):
            x, y = x[there], y[there]
            s = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
            rows.append(torch.stack([s, y.mean() - s * x.mean()]))
        return torch.stack(rows)

    right = fit(1 / truth, valid)
    at_once = fit((1 / truth).view(1, 6, 4), valid.view(1, 6, 4), answer.view(1, 6, 4))
    only = torch.stack(
        [(a[v] / d[v]).sum() / a[v].square().sum() for a, d, v in zip(answer, truth, valid, strict=True)]
    )
    student.gives(
        right,
        answer, truth, valid,
        what="scale and shift",
        tolerance=1e-4,
        reasons={
            "pixels that are not valid were counted": fit(1 / truth, both),
            "fitted to the depth, not to its inverse 1/d": fit(truth, valid),
            "one fit for all images; fit each image separately": at_once.expand(2, 2),
            "shift and scale are swapped: the scale comes first": right.flip(1),
            "only a scale was fitted, no shift": torch.stack([only, torch.zeros(2)], dim=1),
            "the truth was fitted to the prediction; scale the prediction": fit(answer, valid, 1 / truth),
        },
    )  # fmt: skip


@public
def distance_errors(student: Student) -> None:
    """AbsRel and RMSE of each image, over the pixels whose true depth is below far."""
    far = 12.0
    truth = torch.tensor([[[2.0, 4.0, 12.0], [5.0, 8.0, 3.0]], [[12.0, 12.0, 12.0], [6.0, 10.0, 2.0]]])
    depth = torch.tensor([[[2.5, 3.0, 9.0], [7.0, 8.8, 2.0]], [[10.0, 12.0, 7.0], [12.0, 8.0, 2.2]]])

    def errors(sky: bool = False, by: Tensor = truth, root: bool = True) -> Tensor:
        rows = []
        for d, t, b in zip(depth, truth, by, strict=True):
            there = (t < far) | sky
            square = (d - t)[there].square().mean()
            rows.append(torch.stack([((d - t).abs() / b)[there].mean(), square.sqrt() if root else square]))
        return torch.stack(rows)

    right = errors()
    at_once = torch.stack(
        [((depth - truth).abs() / truth)[truth < far].mean(), (depth - truth)[truth < far].square().mean().sqrt()]
    )
    seen = (truth < far).flatten(1).sum(1)[:, None]
    share, root_share = seen / 6, (seen / 6).sqrt()
    student.gives(
        right,
        depth, truth, far,
        what="AbsRel and RMSE",
        reasons={
            "the sky was counted: leave out pixels whose true depth is not below far": errors(sky=True),
            "AbsRel is relative to the truth, not to the prediction": errors(by=depth),
            "AbsRel was not divided by the truth": errors(by=torch.ones_like(truth)),
            "the square root of the RMSE is missing": errors(root=False),
            "RMSE and AbsRel are swapped": right.flip(1),
            "the images were pooled; each has errors of its own": at_once.expand(2, 2),
            "the sky is in the count: divide by the pixels that are left": right * torch.cat([share, root_share], 1),
        },
    )  # fmt: skip


@public
def ssim_window(student: Student) -> None:
    """The structural similarity of two patches under one window of weights."""
    g = generator(5)
    p, w, R = torch.rand(3, 4, generator=g), torch.rand(3, 4, generator=g), 2.0
    q, w = (0.7 * p + 0.3 * torch.rand(3, 4, generator=g)).requires_grad_(), w / w.sum()

    def ssim(w: Tensor = w, k1: float = (0.01 * R) ** 2, k2: float = (0.03 * R) ** 2, level: bool = True) -> Tensor:
        m, n = (w * p).sum(), (w * q).sum()
        both, own = (w * (p - m) * (q - n)).sum(), (w * ((p - m) ** 2 + (q - n) ** 2)).sum()
        first = (2 * m * n + k1) / (m**2 + n**2 + k1) if level else 1.0
        return first * (2 * both + k2) / (own + k2)

    deviation = ((w * (p - (w * p).sum()) ** 2).sum(), (w * (q - (w * q).sum()) ** 2).sum())
    k = (0.03 * R) ** 2
    student.gives(
        ssim(),
        p, q, w, R,
        what="SSIM",
        reasons={
            "the weights were not used": ssim(torch.full_like(w, 1 / 12)),
            "the range R is missing from the two constants": ssim(k1=0.01**2, k2=0.03**2),
            "the two constants are not squared": ssim(k1=0.01 * R, k2=0.03 * R),
            "the two constants are swapped": ssim(k1=(0.03 * R) ** 2, k2=(0.01 * R) ** 2),
            "the two constants are missing": ssim(k1=0.0, k2=0.0),
            "the factor of the means is missing": ssim(level=False),
            "this is only the factor of the means; structure is missing": ssim() / ssim(level=False),
            "deviations instead of variances": ssim() * (deviation[0] + deviation[1] + k)
            / (deviation[0].sqrt() + deviation[1].sqrt() + k),
        },
    )  # fmt: skip
