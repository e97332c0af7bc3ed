"""Why a student's numbers may differ from the expected ones: each guess is tried on the numbers themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

SHOWN = 6  # numbers of a tensor in a message


def compare(came: Tensor, expected: Tensor) -> tuple[list[int], str, str]:
    """Return the place where two tensors of one shape differ most, and the expected and the other numbers around it.

    Of several numbers that one is in brackets. There are as many digits as tell the two apart.
    """
    expected, came = expected.detach(), came.detach()
    same = (came == expected) | (came.isnan() & expected.isnan())
    off = (came.double() - expected.double()).abs().nan_to_num(float("inf")).masked_fill(same, 0)
    worst = int(off.flatten().argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(worst), expected.shape)]
    first = max(0, min(worst - SHOWN // 2, expected.numel() - SHOWN))
    rows = [value.flatten()[first : first + SHOWN].tolist() for value in (expected, came)]
    digits = next((d for d in range(4, 17) if len({_text(row[worst - first], d) for row in rows}) == 2), 17)
    texts = []
    for row in rows:
        words = [_text(value, digits) for value in row]
        if len(words) > 1:
            words[worst - first] = f"[{words[worst - first]}]"
        words = ["…"] * (first > 0) + words + ["…"] * (first + SHOWN < expected.numel())
        texts.append(", ".join(words))
    return place, *texts


def _text(value: float | int | bool, digits: int) -> str:
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def likely(came: Tensor, expected: Tensor, known: Mapping[str, Tensor], tolerance: float = 1e-5) -> str | None:
    """The first reason that explains every number, or None.

    Args:
        came, expected: tensors of one shape and dtype.
        known: mistakes of this task, in words, each with the answer that it leads to; tried before the general ones.
    """
    if came.isnan().any() and not expected.isnan().any():
        return "nan results from 0/0, or from the root or logarithm of a negative number"
    for words, wrong in known.items():
        if wrong.shape == came.shape and _near(came, wrong.to(came), tolerance):
            return words
    for words, wrong in _general(came, expected):
        if wrong.shape == came.shape and _near(came, wrong, tolerance):
            return words
    return None


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    a, b = a.double(), b.double()
    scale = b[b.isfinite()].abs().max().item() if b.isfinite().any() else 1.0
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * max(scale, 1e-3))


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
        size = f"{scale:.4g} times too large" if scale > 1 else f"{1 / scale:.4g} times too small"
        yield f"every number is {size}: a sum in place of a mean, or the wrong count?", right * scale


def _factor(came: Tensor, right: Tensor) -> float | None:
    """The one number by which all of `came` is larger than `right`; None for a single number, which always has one."""
    big = right.double().abs() > 1e-6
    if big.sum() < 2:
        return None
    ratio = came.double()[big] / right.double()[big]
    return ratio.median().item() if ratio.isfinite().all() and ratio.median() > 0 else None
