"""How fast is one image: the fast loop against the naive one, and both against arithmetic.

    dtta bench --case dit-256 --case dit-256-joint --case sd-512 --out bench.json     the published sizes, on a GPU
    dtta bench --case dit-toy --steps 1 --samples 8                                  the same in small, anywhere

The *floor* is the time this machine would need if it did nothing but the multiplications of the fast loop, at the speed
of a large matrix product in the same precision, measured in the same run. The naive loop is float32, and runs the task
network forward and backward again for each micro-batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dtta.core.adapter import gradients_only_for
from dtta.core.diffusion import Diffusion
from dtta.core.parameters import select
from dtta.core.precision import DTYPES, prepare
from dtta.core.problem import Problem
from dtta.core.sampling import Sampling
from dtta.core.tta import DiffusionTTA

LONG = 10.0  # seconds; what takes longer is timed once


@dataclass(frozen=True)
class Timing:
    """One image by both loops, and what they are to be judged against.

    Args:
        naive, fast: seconds.
        floor: seconds that the arithmetic of the fast loop takes.
        evaluations: of the diffusion model: steps x samples.
        cosine, difference: of the first step's gradient to the naive float32 one; the difference is relative.
        naive_memory, memory: GiB at the most, on a GPU; elsewhere None.
        micro_batch: pairs in one pass of the fast loop.
    """

    naive: float
    fast: float
    floor: float
    evaluations: int
    cosine: float
    difference: float
    naive_memory: float | None
    memory: float | None
    micro_batch: int
    precision: str

    def __str__(self) -> str:
        def line(name: str, seconds: float, memory: float | None) -> str:
            held = "" if memory is None else f"   {memory:6.1f} GiB"
            return f"{name:11} {1e3 * seconds:9.1f} ms   {self.evaluations / seconds:7.0f} evaluations/s{held}\n"

        return (
            line("naive loop", self.naive, self.naive_memory)
            + line("fast loop", self.fast, self.memory)
            + f"floor       {1e3 * self.floor:9.1f} ms   the arithmetic alone, at this machine's matrix-product speed\n"
            f"naive / fast = {self.naive / self.fast:.2f}     floor / fast = {self.floor / self.fast:.2f}     "
            f"gradients differ by {self.difference:.0e}     cosine {self.cosine:.5f}"
        )


def naive_backward(
    model: nn.Module, diffusion: Diffusion, condition: nn.Module,
    x: Tensor, z0: Tensor, t: Tensor, noise: Tensor, micro_batch: int,
) -> None:  # fmt: skip
    """∂L/∂θ the obvious way: every micro-batch runs the task network forward and backward again."""
    N, B = t.shape
    for pair in torch.arange(N * B, device=x.device).split(micro_batch):
        c = condition(model(x))
        losses = diffusion.loss(z0[pair // B], t.flatten()[pair], noise.flatten(0, 1)[pair], c[pair // B])
        (losses.sum() / (N * B)).backward()


def fast_backward(tta: DiffusionTTA, x: Tensor, z0: Tensor, t: Tensor, noise: Tensor) -> None:
    """∂L/∂θ as Algorithm 1 takes it here: the task network once, one backward through it."""
    c = tta.condition(tta.model(x))
    _, c_grad = tta.feedback(z0, t, noise, c)
    c.backward(c_grad)


def bench(
    problem: Problem,
    samples: int = 48,
    micro_batch: int = 12,
    repeats: int = 5,
    seed: int = 0,
    steps: int = 1,
    joint: bool = False,
    precision: str = "float32",
    compile: bool = False,
    fast_micro_batch: int | None = None,
) -> Timing:
    """Time the adaptation to one image, as `steps` steps of B = `samples` pairs each.

    Args:
        problem: its diffusion model ends up in the given precision.
        micro_batch: pairs in one pass of the naive loop.
        fast_micro_batch: of the fast one; None: all at once, or as many as fit.
        repeats: the fastest of so many counts; what takes longer than ten seconds is timed once.
        joint: φ moves too.
        precision, compile: of the fast loop; see ``dtta.core.precision.prepare``.
    """
    if min(samples, micro_batch, repeats, steps) < 1:
        given = f"{samples}, {micro_batch}, {repeats}, {steps}"
        raise ValueError(f"samples, micro_batch, repeats, steps must be at least 1, not {given}")
    parts = model, diffusion, _ = problem.model, problem.diffusion, problem.condition
    x, _ = problem.image(0)
    weights = [*select(model), *(select(diffusion.network) if joint else [])]
    tta = DiffusionTTA(*parts, torch.optim.SGD(weights, lr=5e-3, momentum=0.9), steps, samples)
    tta.micro_batch = fast_micro_batch

    def drawn(z0: Tensor) -> tuple[Tensor, Tensor]:
        return Sampling().draw(z0, samples, diffusion.timesteps, torch.Generator().manual_seed(seed))

    def naive() -> None:
        z0 = diffusion.encode(x)
        for _ in range(steps):
            tta.optimizer.zero_grad(set_to_none=True)
            naive_backward(*parts, x, z0, *drawn(z0), micro_batch)
            tta.optimizer.step()

    def gradient(backward: Callable) -> list[Tensor]:
        z0 = diffusion.encode(x)
        tta.optimizer.zero_grad(set_to_none=True)
        backward(z0, *drawn(z0))
        found = [p.grad.flatten().float().cpu() for p in weights if p.grad is not None]
        tta.optimizer.zero_grad(set_to_none=True)
        return torch.cat(found)

    with gradients_only_for(weights, *parts):
        truth = gradient(lambda *drawn: naive_backward(*parts, x, *drawn, micro_batch))
        naive_seconds, naive_memory = _best(naive, repeats, tta.reset)
    prepare(tta, diffusion, precision, compile, fit=False)
    with gradients_only_for(weights, *parts), FlopCounterMode(display=False) as counter:
        found = gradient(lambda *drawn: fast_backward(tta, x, *drawn))
    fast_seconds, memory = _best(lambda: tta(x, torch.Generator().manual_seed(seed)), repeats, lambda: None)
    return Timing(
        naive_seconds,
        fast_seconds,
        steps * counter.get_total_flops() / matmul_rate(x.device, precision),
        steps * samples,
        torch.cosine_similarity(truth, found, dim=0).item(),
        ((truth - found).norm() / truth.norm()).item(),
        naive_memory,
        memory,
        tta.micro_batch or samples,
        precision,
    )


def matmul_rate(
    device: torch.device | str = "cpu", precision: str = "float32", size: int | None = None, repeats: int = 5
) -> float:
    """Floating-point operations per second of a square matrix product, at its best.

    Args:
        size: of its side; None: large enough to fill the device.
    """
    size = size or (8192 if torch.device(device).type == "cuda" else 1024)
    a = torch.randn(size, size, device=device, dtype=DTYPES[precision])
    return 2 * size**3 / min(_seconds(lambda: a @ a) for _ in range(repeats + 1))


def cases(options) -> None:
    """The command ``dtta bench --case``: each case is printed, and kept in a file as soon as it is there."""
    from dtta.core.precision import native
    from dtta.evaluation.summary import about_here
    from dtta.profiling.networks import random_problem

    found, samples = [], 180 if options.samples is None else options.samples
    for case in options.case:
        problem = random_problem(case.removesuffix("-joint"))
        device = next(problem.model.parameters()).device
        precision = native(device) if options.precision == "auto" else options.precision
        timing = bench(
            problem, samples, options.micro_batch, repeats=3, steps=options.steps,
            joint=case.endswith("-joint"), precision=precision, compile=options.compile,
        )  # fmt: skip
        print(
            f"{case}: {options.steps} steps of {options.samples or 180} pairs, {precision}, random weights\n{timing}\n"
        )
        found.append({"case": case, "steps": options.steps} | asdict(timing) | about_here())
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            Path(options.out).write_text(json.dumps(found, indent=1) + "\n")


def _best(work: Callable[[], object], repeats: int, after: Callable[[], object]) -> tuple[float, float | None]:
    """The fastest time, and on a GPU the most memory in GiB."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = float("inf")
    for _ in range(repeats):
        seconds = min(seconds, _seconds(work))
        after()
        if seconds > LONG:
            break
    return seconds, torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None


def _seconds(work: Callable[[], object]) -> float:
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start
