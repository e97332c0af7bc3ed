"""Several images at once compared with one by one: the diffusion model's part, the adaptation, the book's tables.

Both are timed in turn in one process, and the ratio is the median over the pairs. The seconds are those of this process
on its processors, so that other programs do not change them; on a GPU those of the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean, median

import torch

from dtta.core.adapter import gradients_only_for
from dtta.core.problem import Problem
from dtta.evaluation.run import AFTER, Run
from dtta.evaluation.scorer import Part, Scorer
from dtta.experiments import spec, stored
from dtta.methods import build
from dtta.methods.together import Together
from dtta.problems import load

CASES = (("unet", 6), ("unet", 24), ("dit", 24))  # diffusion model of the digits, pairs (t, ε) in each step


@dataclass(frozen=True)
class Ratio:
    """Seconds of an image: one by one, together, and the median ratio of the pairs."""

    one_by_one: float
    together: float
    ratio: float


def compare(one_by_one: Callable[[], object], together: Callable[[], object], images: int, repeats: int = 7) -> Ratio:
    """Time two ways of the same work in turn; the first run of work is slower, so let there be one before."""
    on_gpu = torch.cuda.is_available()
    clock = time.perf_counter if on_gpu else time.process_time

    def seconds(work: Callable[[], object]) -> float:
        start = clock()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        return (clock() - start) / images

    pairs = [(seconds(one_by_one), seconds(together)) for _ in range(repeats)]
    return Ratio(
        median(first for first, _ in pairs),
        median(second for _, second in pairs),
        median(second / first for first, second in pairs),
    )


def bench_together(problem: Problem, samples: int, images: int = 8, steps: int = 1, repeats: int = 7) -> list[Ratio]:
    """Return the ratios of the diffusion model's part (L and ∂L/∂c of a step) and of the whole adaptation by SGD."""
    tta = build(problem, "diffusion-tta", samples=samples, steps=steps, timesteps="stratified")
    x = torch.cat([problem.image(n)[0] for n in range(images)])
    generators = [torch.Generator() for _ in range(images)]
    stack = Together(tta)
    with torch.no_grad():
        z0, c = tta.diffusion.encode(x), tta.condition(problem.model(x))
    c = c.requires_grad_()
    t, noise = tta.sampling.draw(z0, samples, tta.diffusion.timesteps, torch.Generator().manual_seed(0))

    def parts() -> None:
        for n in range(images):
            tta.feedback(*(v[n : n + 1] for v in (z0, t, noise, c)))

    def one_by_one() -> None:
        for image, generator in zip(x.split(1), generators, strict=True):
            tta(image, generator.manual_seed(0))

    def together() -> None:
        stack(x, [generator.manual_seed(0) for generator in generators])

    one_by_one()
    together()
    with gradients_only_for((), *tta.networks):
        diffusion = compare(parts, lambda: stack.method.feedback(z0, t, noise, c), images, repeats)
    return [diffusion, compare(one_by_one, together, images, repeats)]


def sampled_runs(count: int) -> Iterator[tuple[str, str, Run, tuple[str, ...]]]:
    """Yield table, name, run and shifts of `count` stored runs, each in place of the same share of all stored seconds.

    The runs of all tables are laid end to end, each as long as its seconds, grouped by method; one is taken every
    1/`count` of the length.
    """
    runs = [
        (seconds[name], table, name, run)
        for table in spec.names()
        for seconds in [stored.seconds(table)]
        for name, run in stored.runs(table).items()
    ]
    runs.sort(key=lambda entry: (entry[3].problem, entry[3].method, entry[3].online, entry[0]))
    total = sum(seconds for seconds, *_ in runs)
    end, number = 0.0, 0
    for seconds, table, name, run in runs:
        end += seconds
        while number < count and (number + 0.5) * total / count < end:
            yield (
                table,
                name,
                run,
                tuple({row.shift: 0 for row in stored.rows(table, name) if not row.shift.startswith(AFTER)}),
            )
            number += 1


def bench_results(count: int, images: int = 8, repeats: int = 1) -> Iterator[tuple[str, str, Ratio]]:
    """Yield table, run and ratio of a sample of the stored runs: from drawing the images to their rows.

    Of an online run the same number of streams, of two images each.
    """
    for table, name, run, shifts in sampled_runs(count):
        run = replace(run, forgetting_images=0)
        cells = [[(shifts[k % len(shifts)], 3, k // len(shifts))] for k in range(images)]
        if run.streamed:
            cells = [[(part[0][0], 3, n) for n in range(max(2, run.batch))] for part in cells]
        single, several = Scorer(run), Scorer(run, together=images)
        for scorer in (single, several):
            _score(scorer, cells[:2])
        ratio = compare(partial(_score, single, cells), partial(_score, several, cells), sum(map(len, cells)), repeats)
        yield table, name, ratio


def _score(scorer: Scorer, parts: list[Part]) -> None:
    for _ in scorer(parts):
        pass


def print_together(images: int) -> None:
    """Print the ratios of `CASES`."""
    print(f"{images} images at once over one by one, one thread, seconds of an image and step, median of pairs\n")
    for name, samples in CASES:
        ratios = bench_together(load("digits", diffusion=name), samples, images)
        for part, ratio in zip(("diffusion model", "whole step"), ratios, strict=True):
            print(f"{name}, {samples} pairs, {part}".ljust(34) + _line(ratio), flush=True)


def print_results(count: int, images: int) -> None:
    """Print the ratios of a sample of the stored runs, and their mean, the ratio of the time of ``make results``."""
    print(f"{count} runs in place of equal shares of all stored seconds; {images} images at once over one by one\n")
    ratios = []
    for table, name, ratio in bench_results(count, images):
        ratios.append(ratio.ratio)
        print(f"{table}, {name}"[:50].ljust(52) + _line(ratio), flush=True)
    print(f"\nmean ratio {mean(ratios):.2f}")


def _line(ratio: Ratio) -> str:
    return f"{1e3 * ratio.one_by_one:8.1f} ms {1e3 * ratio.together:8.1f} ms {ratio.ratio:6.2f}"
