"""A page at full scale, where nothing is stored: what it runs on, and the book's tables on another problem."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path

from dtta import stored
from dtta.methods import METHODS, settings_of
from dtta.problems import Problem, load, module
from dtta.tables import make, read


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
    workers: int = 1,
) -> Path:
    """Make a table of the book on another problem; a run that was stopped goes on.

    Args:
        images: test images of each shift, no image under two of them.
        folder: where the table and its rows are kept; what is there already is not done again. None: see
            ``dtta.stored.own_folder``.
        shifts: those of the problem, or some. seeds: see ``Table``.
        tried: validation images of each shift, for the grids; 0: no settings are tried. A run that has a grid then
            keeps the settings that it starts from.
        networks, diffusions: what stands for the networks and diffusion models that the file names; "": for the
            problem's usual one. A run that needs another one is left out, and so are those that build on it.
        most: of a setting, such as {"samples": 48}: what the file or the method's default says above it is cut down to
            it.

    Returns:
        The folder, for ``dtta.stored``.
    """
    folder = Path(folder) if folder else stored.own_folder()
    networks, diffusions, limits = dict(networks or {}), dict(diffusions or {}), dict(most or {})
    models = {"network": networks, "diffusion": diffusions}
    usual = load(problem, networks.get("") or None, diffusions.get("") or None)

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
            settings = (usual.settings.get(entry.get("method", run), {}) if first else {}) | entry.get("settings", {})
            own["settings"] = {k: _cut(v, limits.get(k)) for k, v in settings.items()}
            if first:
                own["settings"] |= _cut_defaults(entry.get("method", run), settings, limits)
            if "recalled" in entry:
                own["recalled"] = min(entry["recalled"], images)
            left_out = ("images", "network", "diffusion", *(() if tried else ("grid",)))
            runs[run] = {k: v for k, v in entry.items() if k not in left_out} | own
        wanted = list(shifts or usual.shifts)
        given = dict(problem=problem, images=images, tried=tried, seeds=list(seeds), runs=runs)
        given |= {kind: known[""] for kind, known in models.items() if known.get("")}
        return said | given | dict(shifts=wanted, of=images * (1 + len(wanted)))

    make(read(name, change), workers, rows=folder / problem, out=folder)
    return folder


def announce(problem: Problem, network: str | None = None, diffusion: str | None = None) -> None:
    """Say what a page runs on, where that is not the world that its text tells of; of a mini world nothing is said."""
    if (has := module(problem.name)).RECIPES:  # its models come with the package
        return
    f, phi = network or next(iter(has.NETWORKS)), diffusion or next(iter(has.DIFFUSIONS))
    print(f"full scale: {problem.name}, {f} under {phi}")
    print("The text of this page tells of its mini world. Numbers, tables and figures below are of this problem.")


def _cut_defaults(method: str, said: Mapping[str, object], limits: Mapping[str, int]) -> dict:
    """What is cut of the settings that a method has by default, and of which nothing is said."""
    defaults = {name: inspect.signature(METHODS[method]).parameters[name].default for name in settings_of(method)}
    own = {name: defaults[name] for name in limits if name not in said and type(defaults.get(name)) is int}
    return {name: limits[name] for name, value in own.items() if value > limits[name]}


def _cut(value: object, limit: int | None) -> object:
    if limit is None:
        return value
    if isinstance(value, list):  # of stages, which stay in proportion
        return [max(1, v * limit // max(value)) for v in value] if max(value) > limit else value
    return min(value, limit)
