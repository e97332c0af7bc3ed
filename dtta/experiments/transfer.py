"""A page at full scale, where no results are stored: what it runs on, and the book's tables on another problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from dtta.core.precision import native
from dtta.core.problem import Problem
from dtta.experiments import stored
from dtta.experiments.limits import with_settings
from dtta.experiments.runner import make
from dtta.experiments.spec import read
from dtta.problems import load, module

# EVEN: timesteps spread evenly over the whole range. PLAIN: where ablations start from, with the paper's SGD and φ not
# adapted; they then change one thing at a time, as in the mini tables.
EVEN = dict(timesteps="stratified", t_min=0.0, t_max=1.0)
PLAIN = dict(optimizer="sgd", lr=5e-3, adapt_diffusion=False) | EVEN


def transfer(
    table: str,
    problem: str,
    images: int,
    folder: Path | str | None = None,
    *,
    network: str | None = None,
    diffusion: str | None = None,
    shifts: Iterable[str] | None = None,
    workers: int = 1,
    precision: str | None = None,
    **changes: object,
) -> Path:
    """Make a table of the book on another problem, with different images under each shift; resumes where it stopped.

    Args:
        images: test images of each shift.
        folder: of the table and its rows, which are not made twice; returned. None: ``stored.results_folder()``.
        shifts: some of the problem's; None: all.
        precision: of the diffusion model; None: see ``dtta.core.precision.native``.
        changes: further keys of a file that extends a table (``dtta.experiments.spec``), such as ``seeds``, [0] by
            default; those that are None are left out, as are runs on a network or diffusion model replaced by None.
    """
    folder = Path(folder) if folder else stored.results_folder()
    loaded = load(problem, network, diffusion)
    shifts = list(shifts or loaded.shifts)
    extension = {
        "extends": table,
        "problem": problem,
        "network": network,
        "diffusion": diffusion,
        "shifts": shifts,
        "seeds": [0],
        "test_images": images,
        "validation_images": 0,
        "pool": images * (1 + len(shifts)),  # no image is used under two shifts
    } | {key: value for key, value in changes.items() if value is not None}
    for kind in {"networks", "diffusions"} & extension.keys():
        extension[kind] = {name: other for name, other in extension[kind].items() if other}
    precision = precision or native(next(loaded.diffusion.parameters()).device)
    make(read(extension, precision), workers, rows=folder / problem, out=folder)
    return folder


def open_page(
    scale: str,
    tables: Iterable[str],
    mini: str,
    full: str,
    images: int,
    seed: int,
    *,
    shifts: Iterable[str] | None = None,
    network: str | None = None,
    diffusion: str | None = None,
    networks: Mapping[str, str | None] | None = None,
    limits: Mapping[str, int] | None = None,
    settings: Mapping[str, object] | None = None,
    results: Path | str | None = None,
) -> tuple[Problem, list[str], Path]:
    """Load what a page runs on; at full scale, make its tables now, since no results are stored.

    Args:
        scale: "mini" or "full": which of the problems `mini` and `full`.
        network, diffusion: at both scales; None: the problem's default.
        tables: of the book, made at full scale.
        results, others: as `folder` and the others of `transfer`; only at full scale.

    Returns the problem, with the settings from which its methods start; its shifts; the folder of results.
    """
    problems = {"mini": mini, "full": full}
    if scale not in problems:
        raise ValueError(f'scale must be "mini" or "full", not {scale!r}')
    problem = load(problems[scale], network, diffusion)
    announce(problem, network, diffusion)
    shifts, folder = list(shifts or problem.shifts), stored.FOLDER
    if scale == "mini":
        return problem, shifts, folder
    for table in tables:
        folder = transfer(
            table, full, images, results, network=network, diffusion=diffusion, networks=networks, shifts=shifts,
            seeds=[seed], limits=limits, settings=settings,
        )  # fmt: skip
    if settings is not None:
        problem = with_settings(problem, limits, **settings)
    return problem, shifts, folder


def announce(problem: Problem, network: str | None = None, diffusion: str | None = None) -> None:
    """Print what a page runs on if that is not the mini world described in its text."""
    source = module(problem.name)
    if hasattr(source, "RECIPES"):  # its models come with the package
        return
    network = network or next(iter(source.NETWORKS))
    diffusion = diffusion or next(iter(source.DIFFUSIONS))
    print(f"full scale: {problem.name}, {network} under {diffusion}")
    print("The text of this page describes its mini world. Numbers, tables and figures below are of this problem.")
