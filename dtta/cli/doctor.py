"""What a machine lacks for a problem: checkpoints, data, memory, disk; and how long an image takes on it.

dtta doctor imagenet --network convnext-tiny
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_CACHE

from dtta.evaluation.evaluate import image_generator
from dtta.methods.registry import build
from dtta.problems import load, module
from dtta.problems.data.folders import data_folder
from dtta.problems.data.hub import Requirement, is_cached
from dtta.problems.training.weights import WeightsError

MARKS = {True: "ok", False: "MISSING", None: "-"}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        good: True: it is there; False: it is missing; None: neither, said for information.
    """

    what: str
    good: bool | None
    told: str

    def __str__(self) -> str:
        return f"{MARKS[self.good]:8} {self.what:12} {self.told}"


def examine(name: str, network: str | None = None, diffusion: str | None = None, timed: bool = True) -> list[Finding]:
    """All findings about a problem on this machine.

    Raises:
        ValueError: unknown problem, network or diffusion model.
    """
    asks = getattr(module(name), "requirements", None)
    needs, check_data = asks(name, network, diffusion) if asks else ([], lambda: None)
    found = [checkpoint(need) for need in needs] or [shipped(name, network, diffusion)]
    found.append(data(check_data) if asks else Finding("data", True, "made here, or part of a library"))
    missing = sum(need.location.checkpoint.gigabytes for need in needs if _to_download(need))
    whole = sum(need.location.checkpoint.gigabytes for need in needs if need.location and need.location.checkpoint)
    found += [disk(missing), memory(whole), gpu()]
    lacks = any(f.good is False for f in found)
    if not timed:
        told = "not asked for"
    elif lacks:
        told = "unknown: it can be timed when nothing is missing"
    else:
        told = seconds_for_an_image(name, network, diffusion)
    return [*found, Finding("time", None, told)]


def _to_download(need: Requirement) -> bool:
    on_hub = (
        need.location is not None and need.location.checkpoint is not None and not need.location.checkpoint.conversion
    )
    return on_hub and not all(is_cached(need.location, part) for part in need.parts)


def checkpoint(need: Requirement) -> Finding:
    """Whether a checkpoint is here; where it comes from, and how large it is."""
    if need.location is None:
        there = need.file.is_file()
        return Finding(need.what, there, str(need.file) if there else f"{need.file}; make it with: {need.command}")
    lacking = [part for part in need.parts if not is_cached(need.location, part)]
    known = need.location.checkpoint
    if known is None:
        told = f"{need.location.path}" + (
            f" has no safetensors in: {', '.join(p or '.' for p in lacking)}" if lacking else ""
        )
        return Finding(need.what, not lacking, told)
    about = f"{need.location.path} at {known.revision or 'its newest commit'}, {known.gigabytes:.2g} GB"
    if not lacking:
        return Finding(need.what, True, f"{about}, in the cache")
    if known.conversion:
        return Finding(
            need.what, False, f"{about}; not published as safetensors, make them once with: {known.conversion}"
        )
    return Finding(need.what, False, f"{about}; it is downloaded at first use, to {HF_HUB_CACHE}")


def shipped(name: str, network: str | None, diffusion: str | None) -> Finding:
    """Whether the weights that ship with the package are whole."""
    try:
        load(name, network, diffusion)
    except WeightsError as error:
        return Finding("weights", False, str(error))
    return Finding("weights", True, "shipped with the package")


def data(check) -> Finding:
    """Whether the data are here and complete."""
    try:
        check()
    except (FileNotFoundError, ValueError) as error:
        return Finding("data", False, str(error))
    return Finding("data", True, f"in {data_folder()}")


def disk(gigabytes: float) -> Finding:
    """Whether what has to be downloaded fits on the disk of the hub's cache."""
    place = Path(HF_HUB_CACHE)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    told = f"{free:.0f} GB free at {place}, {gigabytes:.2g} GB to download"
    return Finding("disk", None if not gigabytes else free > gigabytes, told)


def memory(gigabytes: float) -> Finding:
    """Whether the checkpoints fit into main memory, where they are read first."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return Finding("memory", None, "unknown")
    return Finding("memory", total > 1.5 * gigabytes, f"{total:.0f} GB; the checkpoints are {gigabytes:.2g} GB")


def gpu() -> Finding:
    """The GPU, if there is one."""
    if not torch.cuda.is_available():
        return Finding("GPU", None, "none that torch sees; full-scale problems run without one too, slowly")
    about = torch.cuda.get_device_properties(0)
    return Finding("GPU", None, f"{about.name}, {about.total_memory / 1e9:.0f} GB")


def seconds_for_an_image(name: str, network: str | None = None, diffusion: str | None = None) -> str:
    """From two short runs of one step: what a step costs, and what each pair (t, ε) in it."""
    problem = load(name, network, diffusion)
    settings = problem.settings.get("diffusion-tta", {})
    steps, samples = settings.get("steps", 5), settings.get("samples", 180)
    image, _ = problem.image(0)

    def timed(pairs: int) -> float:
        method = build(problem, "diffusion-tta", steps=1, samples=pairs)
        start = time.perf_counter()
        method(image, image_generator(0, 0)).sum().item()  # .item() waits for the GPU
        return time.perf_counter() - start

    timed(1)  # the first run is slower than those after it
    few, many = min(timed(1) for _ in range(2)), min(timed(5) for _ in range(2))
    pair = max(many - few, 0) / 4
    whole = steps * (max(few - pair, 0) + samples * pair)
    return f"about {whole:.2g} s for an image, {steps} steps of {samples} pairs (from steps of 1 and 5 pairs)"


def command(options: Namespace) -> None:
    """``dtta doctor``: print the findings; exit status 1 if anything is missing."""
    found = examine(options.problem, options.network, options.diffusion, not options.quick)
    print("\n".join(map(str, found)))
    if lacking := [f.what for f in found if f.good is False]:
        print(f"\nmissing: {', '.join(dict.fromkeys(lacking))}")
        sys.exit(1)
    print("\nnothing is missing")
