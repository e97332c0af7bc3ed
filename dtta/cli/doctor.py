"""dtta doctor: what a machine lacks for a problem (checkpoints, data, memory, disk), and the time of an image on it."""

from __future__ import annotations

import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dtta.cli.options import add_problem_options, load_problem, new_command, resolve
from dtta.core.plugins import listing
from dtta.problems.registry import PROBLEMS, is_own, load, module

if TYPE_CHECKING:
    from dtta.core.problem import Problem
    from dtta.problems.data.hub import Requirement

MARKS = {True: "ok", False: "MISSING", None: "-"}


@dataclass(frozen=True)
class Finding:
    """One line of the report; `good`: True: available; False: missing; None: for information only."""

    what: str
    good: bool | None
    text: str

    def __str__(self) -> str:
        return f"{MARKS[self.good]:8} {self.what:12} {self.text}"


def add_command(commands) -> None:
    """Add ``doctor`` and its options to the commands."""
    text = "what this machine lacks for a problem, and how long an image takes"
    command = new_command(commands, "doctor", run, text)
    text = (
        f"one of: {listing(PROBLEMS)}; or a folder or CSV file of your own pictures, or nothing, for pieces of your own"
    )
    command.add_argument("name", nargs="?", metavar="problem", help=text)
    add_problem_options(command)
    command.add_argument("--quick", action="store_true", help="without timing an image")


def run(options: Namespace) -> None:
    """Print the findings; exit with status 1 if anything is missing."""
    options.problem = options.name or options.problem
    resolve(options)
    findings = examine(
        options.problem, options.network, options.diffusion, not options.quick, lambda: load_problem(options)
    )
    print("\n".join(map(str, findings)))
    missing = [finding.what for finding in findings if finding.good is False]
    if missing:
        print(f"\nmissing: {', '.join(dict.fromkeys(missing))}")
        sys.exit(1)
    print("\nnothing is missing")


def examine(
    name: str,
    network: str | None = None,
    diffusion: str | None = None,
    timed: bool = True,
    make: Callable[[], Problem] | None = None,
) -> list[Finding]:
    """Return all findings about a problem. Raises ValueError: unknown problem, network or diffusion model.

    `make`: loads the problem; None: ``dtta.load`` with these arguments.
    """
    make = make or partial(load, name, network, diffusion)
    requirements_of = getattr(module(name), "requirements", None)
    needs, check_data = requirements_of(name, network, diffusion) if requirements_of else ([], lambda: None)
    findings = [checkpoint(need) for need in needs] or [shipped(make)]
    findings.append(
        data(check_data, name) if requirements_of else Finding("data", True, "made here, or part of a library")
    )
    missing = sum(need.location.checkpoint.gigabytes for need in needs if _to_download(need))
    whole = sum(need.location.checkpoint.gigabytes for need in needs if need.location and need.location.checkpoint)
    findings += [disk(missing), memory(whole), gpu()]
    if not timed:
        text = "not requested"
    elif any(finding.good is False for finding in findings):
        text = "unknown: it can be timed when nothing is missing"
    else:
        text = seconds_for_an_image(make())
    return [*findings, Finding("time", None, text)]


def _to_download(need: Requirement) -> bool:
    from dtta.problems.data.hub import is_cached

    on_hub = (
        need.location is not None and need.location.checkpoint is not None and not need.location.checkpoint.conversion
    )
    return on_hub and not all(is_cached(need.location, part) for part in need.parts)


def checkpoint(need: Requirement) -> Finding:
    """Report whether a checkpoint is available, where it comes from, and how large it is."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from dtta.problems.data.hub import WEIGHTS, is_cached

    if need.location is None:
        there = need.file.is_file()
        return Finding(need.what, there, str(need.file) if there else f"{need.file}; make it with: {need.command}")
    lacking = [part for part in need.parts if not is_cached(need.location, part)]
    published = need.location.checkpoint
    if published is None:
        text = f" has no {' or '.join(WEIGHTS)} in: {', '.join(p or '.' for p in lacking)}" if lacking else ""
        return Finding(need.what, not lacking, f"{need.location.path}{text}")
    about = f"{need.location.path} at {published.revision or 'its newest commit'}, {published.gigabytes:.2g} GB"
    if not lacking:
        return Finding(need.what, True, f"{about}, in the cache")
    if published.conversion:
        text = f"{about}; not published as safetensors, make them once with: {published.conversion}"
        return Finding(need.what, False, text)
    return Finding(need.what, False, f"{about}; it is downloaded at first use, to {HF_HUB_CACHE}")


def shipped(make: Callable[[], Problem]) -> Finding:
    """Report whether the weights that ship with the package are complete."""
    from dtta.problems.training.weights import WeightsError

    try:
        make()
    except WeightsError as error:
        return Finding("weights", False, str(error))
    return Finding("weights", True, "shipped with the package")


def data(check: Callable[[], object], name: str) -> Finding:
    """Report whether the data are available and complete."""
    from dtta.problems.data.folders import data_folder

    try:
        check()
    except (FileNotFoundError, ValueError) as error:
        return Finding("data", False, str(error))
    if name == "own":
        return Finding("data", None, "no pictures are named")
    return Finding("data", True, f"in {name if is_own(name) else data_folder()}")


def disk(gigabytes: float) -> Finding:
    """Report whether what has to be downloaded fits on the disk of the hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    place = Path(HF_HUB_CACHE)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    text = f"{free:.0f} GB free at {place}, {gigabytes:.2g} GB to download"
    return Finding("disk", None if not gigabytes else free > gigabytes, text)


def memory(gigabytes: float) -> Finding:
    """Report whether the checkpoints fit into main memory, where they are read first."""
    import psutil

    total = psutil.virtual_memory().total / 1e9
    return Finding("memory", total > 1.5 * gigabytes, f"{total:.0f} GB; the checkpoints are {gigabytes:.2g} GB")


def gpu() -> Finding:
    """Report the GPU, if there is one."""
    import torch

    from dtta.problems.device import device

    kind = device().type
    if kind != "cuda":
        none = "none available to torch; full-scale problems also run without one, slowly"
        return Finding("GPU", None, "Apple's, by MPS; it shares the main memory" if kind == "mps" else none)
    about = torch.cuda.get_device_properties(0)
    return Finding("GPU", None, f"{about.name}, {about.total_memory / 1e9:.0f} GB")


def seconds_for_an_image(problem: Problem) -> str:
    """Estimate the time of an image from short runs of one step with 1 and 5 pairs (t, ε)."""
    import torch

    from dtta.evaluation.evaluate import image_generator
    from dtta.methods.registry import build

    settings = problem.settings.get("diffusion-tta", {})
    steps, samples = settings.get("steps", 5), settings.get("samples", 180)
    if problem.sizes:
        image, _ = problem.image(0)
    else:  # without pictures
        image = torch.full((1, *problem.shape), 0.5, device=next(problem.model.parameters()).device)

    def timed(pairs: int) -> float:
        method = build(problem, "diffusion-tta", steps=1, samples=pairs)
        start = time.perf_counter()
        method(image, image_generator(0, 0)).sum().item()  # .item() waits for the GPU
        return time.perf_counter() - start

    timed(1)  # warm up: the first run is slower
    few = min(timed(1) for _ in range(2))
    many = min(timed(5) for _ in range(2))
    pair = max(many - few, 0) / 4
    whole = steps * (max(few - pair, 0) + samples * pair)
    return f"about {whole:.2g} s for an image, {steps} steps of {samples} pairs (from steps of 1 and 5 pairs)"
