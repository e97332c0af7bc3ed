"""The time of adapting to one image: the fast loop, eager and compiled, the naive loop, and a matrix product.

The *matrix-product time* is what the operations of the fast loop would take at the speed of a large matrix product in
the same precision, measured in the same run. It is no lower bound: convolutions can be faster. The naive loop is that
of the released code: float32, and the task network forward and backward again for each micro-batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

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
from dtta.problems.compilation import compile_blocks, is_compiled, is_on_gpu

LONG = 10.0  # seconds; longer runs are timed once


@dataclass(frozen=True)
class Timing:
    """One image by each loop, and what they are compared with.

    Args:
        naive, eager, compiled: seconds; compiled: with compiled blocks, None: not measured.
        matmul: seconds of the fast loop's operations at the speed of a large matrix product.
        evaluations: of the diffusion model: steps x samples.
        cosine, difference: between the first step's gradient and the naive float32 one; the difference is relative.
        naive_memory, memory, compiled_memory: peak in GiB on a GPU; elsewhere None.
        micro_batch: pairs in one pass of the fast loop.
        tf32: where float32 is computed in TF32, see `tf32_state`.
    """

    naive: float
    eager: float
    compiled: float | None
    matmul: float
    evaluations: int
    cosine: float
    difference: float
    naive_memory: float | None
    memory: float | None
    compiled_memory: float | None
    micro_batch: int
    precision: str
    tf32: str

    def __str__(self) -> str:
        def row(name: str, milliseconds: str, evaluations: str, memory: float | None) -> str:
            peak = "" if memory is None else f"{memory:7.1f}"
            return f"{name:18}{milliseconds:>9}{evaluations:>15}{peak}"

        def loop(name: str, seconds: float, memory: float | None) -> str:
            return row(name, f"{1e3 * seconds:.1f}", f"{self.evaluations / seconds:.0f}", memory)

        loops = {"eager": (self.eager, self.memory), "compiled": (self.compiled, self.compiled_memory)}
        loops = {name: values for name, values in loops.items() if values[0] is not None}
        lines = [
            f"{'':18}{'ms':>9}{'evaluations/s':>15}" + ("" if self.memory is None else f"{'GiB':>7}"),
            loop("naive, as released", self.naive, self.naive_memory),
            *(loop(f"fast, {name}", *values) for name, values in loops.items()),
            row("matrix product", f"{1e3 * self.matmul:.1f}", "", None),
            "  as many operations; convolutions can be faster",
            self.tf32,
        ]
        for name, (seconds, _) in loops.items():
            lines += [f"  naive / {name} = {self.naive / seconds:.2f}"]
            lines += [f"  matrix product / {name} = {self.matmul / seconds:.2f}"]
        lines += [f"gradients differ by {self.difference:.0e}, cosine {self.cosine:.5f}"]
        return "\n".join(line.rstrip() for line in lines)


def tf32_state(device: torch.device | str) -> str:
    """Return in words where a device computes float32 in TF32, with 10 bits of the mantissa instead of 23."""
    if torch.device(device).type != "cuda":
        return f"no TF32 on {torch.device(device).type.upper()}"
    backends = {"matrix products": torch.backends.cuda.matmul, "convolutions": torch.backends.cudnn.conv}
    used = {name: "on" if backend.fp32_precision == "tf32" else "off" for name, backend in backends.items()}
    return "TF32 of float32: " + ", ".join(f"{name} {state}" for name, state in used.items())


def naive_backward(
    model: nn.Module, diffusion: Diffusion, condition: nn.Module,
    x: Tensor, z0: Tensor, t: Tensor, noise: Tensor, micro_batch: int,
) -> None:  # fmt: skip
    """Compute ∂L/∂θ naively: every micro-batch runs the task network forward and backward again."""
    N, B = t.shape
    for pair in torch.arange(N * B, device=x.device).split(micro_batch):
        c = condition(model(x))
        losses = diffusion.loss(z0[pair // B], t.flatten()[pair], noise.flatten(0, 1)[pair], c[pair // B])
        (losses.sum() / (N * B)).backward()


def fast_backward(tta: DiffusionTTA, x: Tensor, z0: Tensor, t: Tensor, noise: Tensor) -> None:
    """Compute ∂L/∂θ as ``DiffusionTTA`` does: one forward and one backward pass through the task network."""
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
    compile: bool | None = None,
    fast_micro_batch: int | None = None,
) -> Timing:
    """Time the adaptation to one image, as `steps` steps of B = `samples` pairs each.

    Args:
        problem: its diffusion model ends up in the given precision.
        micro_batch, fast_micro_batch: pairs in one pass of the naive, the fast loop; None: all, or as many as fit.
        repeats: the fastest of this many runs counts; runs of more than ten seconds are timed once.
        joint: adapt φ too.
        precision: of the fast loop; see ``dtta.core.precision.prepare``.
        compile: time the fast loop with compiled blocks too. None: on a GPU, if the compiler works.
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
        gradients = [p.grad.flatten().float().cpu() for p in weights if p.grad is not None]
        tta.optimizer.zero_grad(set_to_none=True)
        return torch.cat(gradients)

    with gradients_only_for(weights, *parts):
        truth = gradient(lambda *drawn: naive_backward(*parts, x, *drawn, micro_batch))
        naive_seconds, naive_memory = _best(naive, repeats, tta.reset)
    prepare(tta, diffusion, precision)
    with gradients_only_for(weights, *parts), FlopCounterMode(display=False) as counter:
        fast = gradient(lambda *drawn: fast_backward(tta, x, *drawn))

    def adapt() -> None:
        tta(x, torch.Generator().manual_seed(seed))

    eager, memory = _best(adapt, repeats)
    compiled, compiled_memory = None, None
    if compile or (compile is None and is_on_gpu(diffusion)):
        network = diffusion.network
        compile_blocks(network, fallback=not compile)
        adapt()  # compiles
        if is_compiled(network):
            compiled, compiled_memory = _best(adapt, repeats)
    return Timing(
        naive_seconds,
        eager,
        compiled,
        steps * counter.get_total_flops() / matmul_rate(x.device, precision),
        steps * samples,
        torch.cosine_similarity(truth, fast, dim=0).item(),
        ((truth - fast).norm() / truth.norm()).item(),
        naive_memory,
        memory,
        compiled_memory,
        tta.micro_batch or samples,
        precision,
        tf32_state(x.device),
    )


def matmul_rate(
    device: torch.device | str = "cpu", precision: str = "float32", size: int | None = None, repeats: int = 5
) -> float:
    """Return the highest rate of a product of matrices of this `size` (None: fills the device), in operations/s."""
    size = size or (8192 if torch.device(device).type == "cuda" else 1024)
    a = torch.randn(size, size, device=device, dtype=DTYPES[precision])
    return 2 * size**3 / min(_seconds(lambda: a @ a) for _ in range(repeats + 1))


def _best(
    work: Callable[[], object], repeats: int, after: Callable[[], object] = lambda: None
) -> tuple[float, float | None]:
    """Return the fastest time, and on a GPU the peak memory in GiB."""
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
    wait = torch.accelerator.synchronize if torch.accelerator.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start
