"""Stand-ins for functions of the other end under torch.vmap and torch.func.grad, which cannot look into a call.

A mapped call becomes one call for each slice, and a gradient reuses the calls that were made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def transformed(values: tuple) -> bool:
    """Return whether one of the values is a tensor inside a transform."""
    return any(isinstance(value, Tensor) and wrapped(value) for value in values)


def call(function: Callable, arguments: tuple, named: dict) -> Tensor:
    """Call a function whose result is one tensor, with tensors of transforms among its arguments."""
    values = [*arguments, *named.values()]
    places = [i for i, value in enumerate(values) if isinstance(value, Tensor)]

    def plain(*tensors: Tensor) -> Tensor:
        whole = list(values)
        for place, tensor in zip(places, tensors, strict=True):
            whole[place] = tensor
        return function(*whole[: len(arguments)], **dict(zip(named, whole[len(arguments) :], strict=True)))

    return Call.apply(plain, Made(), *(values[i] for i in places))


class Made:
    """A call that was made, for its gradient; a mapped one has parts, one for each slice."""

    def __init__(self):
        self.leaves: list[Tensor] = []
        self.result: Tensor | None = None
        self.parts: list[Made] = []


def slices(info, in_dims: tuple, values: tuple) -> list[list]:
    """The arguments of each call of a mapped one."""
    pairs = list(zip(values, in_dims, strict=True))
    return [[v if d is None else v.select(d, i) for v, d in pairs] for i in range(info.batch_size)]


class Call(torch.autograd.Function):
    """A call of a function of the other end."""

    @staticmethod
    def forward(function, made, *tensors):
        with torch.enable_grad():
            made.leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in tensors]
            made.result = function(*made.leaves)
        return made.result.detach()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.made = inputs[1]

    @staticmethod
    def backward(ctx, gradient):
        return None, None, *Pullback.apply(ctx.made, gradient)

    @staticmethod
    def vmap(info, in_dims, function, made, *tensors):
        rows = slices(info, in_dims[2:], tensors)
        made.parts = [Made() for _ in rows]
        return torch.stack([Call.apply(function, part, *row) for part, row in zip(made.parts, rows, strict=True)]), 0


class Pullback(torch.autograd.Function):
    """The gradients at the arguments of a call, from the one at its result."""

    @staticmethod
    def forward(made, gradient):
        learn = [x for x in made.leaves if x.requires_grad]
        gradients = iter(torch.autograd.grad(made.result, learn, gradient, retain_graph=True, materialize_grads=True))
        return tuple(next(gradients) if x.requires_grad else torch.zeros_like(x) for x in made.leaves)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, made, gradient):
        parts = made.parts or [made] * info.batch_size  # of torch.func.jacrev, only the gradient is mapped
        pairs = zip(parts, slices(info, in_dims[1:], (gradient,)), strict=True)
        rows = [Pullback.apply(part, *row) for part, row in pairs]
        return tuple(map(torch.stack, zip(*rows, strict=True))), (0,) * len(rows[0])
