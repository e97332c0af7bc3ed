"""A page at full scale, where nothing is stored: what it runs on, and the book's tables on another problem."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from dtta.core.precision import native
from dtta.core.problem import Problem
from dtta.experiments import stored
from dtta.experiments.runner import make
from dtta.experiments.spec import read
from dtta.methods.registry import METHODS, methods_for, settings_of
from dtta.problems import load, module

# Timesteps spread evenly over all there are; and where ablations start from: these, the paper's SGD, and φ at rest. One
# thing at a time is changed then, as in the mini tables.
EVEN = dict(timesteps="stratified", t_min=0.0, t_max=1.0)
PLAIN = dict(optimizer="sgd", lr=5e-3, adapt_diffusion=False) | EVEN


def elsewhere(
    name: str,
    problem: str,
    images: int,
    folder: Path | str | None = None,
    *,
    shifts: Iterable[str] | None = None,
    seeds: Iterable[int] = (0,),
    tried: int = 0,
    networks: Mapping[str, str] | None = None,
    diffusions: Mapping[str, str] | None = None,
    most: Mapping[str, int] | None = None,
    start: Mapping[str, object] | None = None,
    workers: int = 1,
    precision: str | None = None,
) -> Path:
    """Make a table of the book on another problem; a run that was stopped goes on.

    Args:
        images: test images of each shift, no image under two of them.
        folder: where the table and its rows are kept; what is there already is not done again. None: see
            ``dtta.experiments.stored.own_folder``.
        shifts: those of the problem, or some. seeds: see ``Table``.
        tried: validation images of each shift, for the grids; 0: no settings are tried. A run that has a grid then
            keeps the settings that it starts from.
        networks, diffusions: what stands for the networks and diffusion models that the file names; "": for the
            problem's usual one. A run that needs another one is left out, and so are those that build on it.
        most: of a setting, such as {"samples": 48}: what the file or the method's default says above it is cut down to
            it.
        start: settings of Diffusion-TTA that count in place of the problem's own, where the file says nothing, such
            as PLAIN.
        precision: of the diffusion model; None: that which the device is fast in (see ``dtta.core.precision.native``).

    Returns:
        The folder, for ``dtta.experiments.stored``.
    """
    folder = Path(folder) if folder else stored.own_folder()
    networks, diffusions, limits = dict(networks or {}), dict(diffusions or {}), dict(most or {})
    models = {"network": networks, "diffusion": diffusions}

    @cache
    def begun(network: str, diffusion: str) -> Problem:
        return starting(load(problem, network or None, diffusion or None), limits, **(start or {}))

    usual = begun(networks.get("", ""), diffusions.get("", ""))
    precision = precision or native(next(usual.diffusion.parameters()).device)

    def change(said: dict) -> dict:
        runs = {}
        for run, entry in said["runs"].items():
            first = "like" not in entry
            parts = {k: entry.get(k, "") for k in ("network", "diffusion") if first or k in entry}
            if any(part and part not in models[kind] for kind, part in parts.items()):
                continue
            if any(entry.get(k, "none") not in runs for k in ("like", "against") if k in entry):
                continue
            if entry.get("method", run) == "eata" and "validation" not in usual.sizes:
                continue  # it measures which weights matter on validation images
            own = {kind: place for kind, part in parts.items() if (place := models[kind].get(part))}
            method, settings = entry.get("method", run), entry.get("settings", {})
            if first:  # on its own network, which may have settings of its own
                pair = (own.get(kind, models[kind].get("", "")) for kind in models)
                settings = begun(*pair).settings.get(method, {}) | settings
                settings = _limits_of(method, settings, limits) | settings
            own["settings"] = {k: _cut(v, limits.get(k)) for k, v in settings.items()}
            if "forgetting_images" in entry:
                own["forgetting_images"] = min(entry["forgetting_images"], images)
            left_out = ("images", "network", "diffusion", *(() if tried else ("grid",)))
            runs[run] = {k: v for k, v in entry.items() if k not in left_out} | own
        wanted = list(shifts or usual.shifts)
        given = dict(problem=problem, images=images, tried=tried, seeds=list(seeds), runs=runs)
        given |= {kind: known[""] for kind, known in models.items() if known.get("")}
        return said | given | dict(shifts=wanted, of=images * (1 + len(wanted)))

    make(read(name, change, precision), workers, rows=folder / problem, out=folder)
    return folder


def opened(
    scale: str,
    tables: Iterable[str],
    mini: str,
    full: str,
    images: int,
    seed: int,
    *,
    shifts: Iterable[str] | None = None,
    networks: Mapping[str, str | None] | None = None,
    diffusion: str | None = None,
    most: Mapping[str, int] | None = None,
    results: Path | str | None = None,
    start: Mapping[str, object] | None = None,
) -> tuple[Problem, list[str], Path]:
    """What a page runs on. At full scale no results are stored: they are made now, and a run that was stopped goes on.

    Args:
        scale: "mini" or "full". mini, full: the problem of each.
        tables: those of the book from which the page tells.
        networks: what stands for those that the tables name; "": for the problem's usual one. None for one: nothing.
        images, seed, shifts, diffusion, most, results, start: see `elsewhere`; only `shifts` and models count at mini.

    Returns:
        The problem, with the settings that its methods start from; its shifts; the folder of results.
    """
    if scale not in ("mini", "full"):
        raise ValueError(f'scale must be "mini" or "full", not {scale!r}')
    models = {name: own or "" for name, own in (networks or {}).items()}
    problem = load({"mini": mini, "full": full}[scale], models.get("") or None, diffusion)
    announce(problem, models.get("") or None, diffusion)
    shifts, folder = list(shifts or problem.shifts), stored.FOLDER
    if scale == "full":
        if start is not None:
            problem = starting(problem, most, **start)
        for table in tables:
            folder = elsewhere(
                table, problem.name, images, results, shifts=shifts, seeds=[seed], networks=models,
                diffusions={"": diffusion or ""}, most=most, start=start,
            )  # fmt: skip
    return problem, shifts, folder


def announce(problem: Problem, network: str | None = None, diffusion: str | None = None) -> None:
    """Say what a page runs on, where that is not the world that its text tells of; of a mini world nothing is said."""
    if (has := module(problem.name)).RECIPES:  # its models come with the package
        return
    f, phi = network or next(iter(has.NETWORKS)), diffusion or next(iter(has.DIFFUSIONS))
    print(f"full scale: {problem.name}, {f} under {phi}")
    print("The text of this page tells of its mini world. Numbers, tables and figures below are of this problem.")


def starting(problem: Problem, most: Mapping[str, int] | None = None, **changed) -> Problem:
    """A problem whose methods start from other settings than its own.

    Args:
        most: see `elsewhere`. changed: settings of Diffusion-TTA.
    """
    limits, found = dict(most or {}), {}
    for method in methods_for(problem.task):
        settings = problem.settings.get(method, {}) | (changed if method == "diffusion-tta" else {})
        settings = _limits_of(method, settings, limits) | settings
        found[method] = {k: _cut(v, limits.get(k)) for k, v in settings.items()}
    return replace(problem, settings=problem.settings | {method: said for method, said in found.items() if said})


def _limits_of(method: str, said: Mapping[str, object], limits: Mapping[str, int]) -> dict[str, int]:
    """What limits the settings that a method has by default, and of which nothing is said."""
    parameters = inspect.signature(METHODS[method]).parameters
    own = {k: parameters[k].default for k in settings_of(method) if k in limits and k not in said}
    return {k: limits[k] for k, value in own.items() if type(value) is int and value > limits[k]}


def _cut(value: object, limit: int | None) -> object:
    if limit is None:
        return value
    if isinstance(value, list):  # of stages, which stay in proportion
        return [max(1, v * limit // max(value)) for v in value] if max(value) > limit else value
    return min(value, limit)
