"""How fast is one adaptation step: the fast loop against the naive one, and both against arithmetic.

The *floor* is the time this machine would need if it did nothing but the diffusion model's and the
network's multiplications at the speed of a large matrix product, measured in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dtta.adapt import accumulate, gradients_only_for
from dtta.diffusion import Diffusion
from dtta.parameters import select
from dtta.problems import Problem
from dtta.sampling import Sampling


@dataclass(frozen=True)
class Timing:
    """Seconds for one step's gradient, by both loops, and what they are to be judged against."""

    naive: float
    fast: float
    floor: float
    evaluations: int
    difference: float  # of the two gradients, relative

    def __str__(self) -> str:
        return (
            f"naive loop  {1e3 * self.naive:9.1f} ms   {self.evaluations / self.naive:7.0f} evaluations/s\n"
            f"fast loop   {1e3 * self.fast:9.1f} ms   {self.evaluations / self.fast:7.0f} evaluations/s\n"
            f"floor       {1e3 * self.floor:9.1f} ms   the arithmetic alone, at this machine's matrix-product speed\n"
            f"naive / fast = {self.naive / self.fast:.2f}     floor / fast = {self.floor / self.fast:.2f}     "
            f"gradients differ by {self.difference:.0e}"
        )


def naive_backward(
    model: nn.Module, diffusion: Diffusion, condition: nn.Module,
    x: Tensor, z0: Tensor, t: Tensor, noise: Tensor, micro_batch: int,
) -> None:  # fmt: skip
    """∂L/∂θ the obvious way: every micro-batch runs the task network forward and backward again."""
    N, B = t.shape
    for pair in torch.arange(N * B).split(micro_batch):
        c = condition(model(x))
        losses = diffusion.loss(z0[pair // B], t.flatten()[pair], noise.flatten(0, 1)[pair], c[pair // B])
        (losses.sum() / (N * B)).backward()


def fast_backward(
    model: nn.Module, diffusion: Diffusion, condition: nn.Module,
    x: Tensor, z0: Tensor, t: Tensor, noise: Tensor, micro_batch: int,
) -> None:  # fmt: skip
    """∂L/∂θ as Algorithm 1 takes it here: the task network once, one backward through it."""
    c = condition(model(x))
    _, c_grad = accumulate(diffusion, z0, t, noise, c, micro_batch)
    c.backward(c_grad)


def bench(problem: Problem, samples: int = 48, micro_batch: int = 12, repeats: int = 5, seed: int = 0) -> Timing:
    """Time one step's gradient with B = `samples` pairs on one image, φ frozen.

    Args:
        micro_batch: pairs in one pass, for both loops.
        repeats: the loops take turns this often; the fastest time of each counts.
    """
    if samples < 1 or micro_batch < 1 or repeats < 1:
        raise ValueError(f"samples, micro_batch, repeats must be at least 1, not {samples}, {micro_batch}, {repeats}")
    x, _ = problem.image(0)
    z0 = problem.diffusion.encode(x)
    generator = torch.Generator().manual_seed(seed)
    t, noise = Sampling().draw(z0, samples, problem.diffusion.timesteps, generator)
    weights = select(problem.model)
    parts = (problem.model, problem.diffusion, problem.condition)
    inputs = (*parts, x, z0, t, noise, micro_batch)
    with gradients_only_for(weights, *parts):
        gradients = []
        for backward in (naive_backward, fast_backward):
            backward(*inputs)
            gradients.append(torch.cat([p.grad.flatten() for p in weights]))
            _forget(weights)
        with FlopCounterMode(display=False) as counter:
            fast_backward(*inputs)
        _forget(weights)
        best = [float("inf"), float("inf")]
        for _ in range(repeats):
            for i, backward in enumerate((naive_backward, fast_backward)):
                best[i] = min(best[i], _seconds(lambda backward=backward: backward(*inputs)))
                _forget(weights)
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    floor = counter.get_total_flops() / matmul_rate()
    return Timing(best[0], best[1], floor, samples, difference.item())


def matmul_rate(size: int = 1024, repeats: int = 5) -> float:
    """Floating-point operations per second of a float32 matrix product of this size, at its best."""
    a = torch.randn(size, size)
    return 2 * size**3 / min(_seconds(lambda: a @ a) for _ in range(repeats))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _forget(weights: list[nn.Parameter]) -> None:
    for p in weights:
        p.grad = None
