"""Why a student's numbers may differ from the expected ones: each guess is tried on the numbers themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def likely(came: Tensor, expected: Tensor, known: Mapping[str, Tensor], tolerance: float = 1e-5) -> str | None:
    """The first reason that explains every number, or None.

    Args:
        came, expected: tensors of one shape and dtype.
        known: mistakes of this task, in words, each with the answer that it leads to; tried before the general ones.
    """
    near = _near(tolerance)
    if came.isnan().any() and not expected.isnan().any():
        return "nan stands for 0/0, or the root or logarithm of a negative number"
    for words, wrong in known.items():
        if wrong.shape == came.shape and near(came, wrong.to(came)):
            return words
    for words, wrong in _general(came, expected):
        if wrong.shape == came.shape and near(came, wrong):
            return words
    return None


def _near(tolerance: float):
    def near(a: Tensor, b: Tensor) -> bool:
        a, b = a.double(), b.double()
        scale = b[b.isfinite()].abs().max().item() if b.isfinite().any() else 1.0
        return torch.allclose(a, b, rtol=tolerance, atol=tolerance * max(scale, 1e-3))

    return near


def _general(came: Tensor, right: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Mistakes that any task may see, with what each would have given."""
    if came.numel() > 1 and not came.any():
        yield "everything is 0: was the result of a loop thrown away?", came
    yield "the sign is the wrong way round", -right
    if right.dtype.is_floating_point:
        yield "a square is missing, or a root too many", right.clamp(min=0).sqrt()
        yield "a square root is missing", right.square()
        yield "1 minus this was meant", 1 - right
        yield "the logarithm was returned", right.clamp(min=1e-30).log()
    for i in range(right.ndim):
        if right.shape[i] > 1:
            yield f"the order along axis {i} is reversed", right.flip(i)
            yield f"off by one along axis {i}", right.roll(1, i)
            yield f"off by one along axis {i}", right.roll(-1, i)
    for i in range(right.ndim):
        for j in range(i + 1, right.ndim):
            if right.shape[i] == right.shape[j]:
                yield f"axes {i} and {j} are swapped", right.transpose(i, j)
    if right.dtype.is_floating_point and (scale := _factor(came, right)):
        yield (
            f"every number is {scale:.4g} times too large: a sum in place of a mean, or the wrong count?",
            right * scale,
        )


def _factor(came: Tensor, right: Tensor) -> float | None:
    """The one number by which all of `came` is larger than `right`."""
    big = right.double().abs() > 1e-6
    if not big.any():
        return None
    ratio = came.double()[big] / right.double()[big]
    return ratio.median().item() if ratio.isfinite().all() and ratio.median() > 0 else None
