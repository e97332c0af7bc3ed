"""One of the book's tables on another problem than its own: what a page does at full scale, where nothing is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from dtta import stored
from dtta.problems import load
from dtta.speed import native
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
    precision: str | None = None,
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
        most: of a setting, such as {"samples": 48}: what the file says above it is cut down to it.
        precision: of the diffusion model; None: that which the device is fast in (see ``dtta.speed.native``).

    Returns:
        The folder, for ``dtta.stored``.
    """
    folder = Path(folder) if folder else stored.own_folder()
    networks, diffusions, limits = dict(networks or {}), dict(diffusions or {}), dict(most or {})
    usual = load(problem, networks.get("") or None, diffusions.get("") or None)
    precision = precision or native(next(usual.diffusion.parameters()).device)

    def change(said: dict) -> dict:
        runs = {}
        for run, entry in said["runs"].items():
            first = "like" not in entry
            parts = {k: entry.get(k, "") for k in ("network", "diffusion") if first or k in entry}
            known = {"network": networks, "diffusion": diffusions}
            if any(part and part not in known[kind] for kind, part in parts.items()):
                continue
            if any(entry.get(k, "none") not in runs for k in ("like", "against") if k in entry):
                continue
            own = {kind: place for kind, part in parts.items() if (place := known[kind].get(part))}
            settings = (usual.settings.get(entry.get("method", run), {}) if first else {}) | entry.get("settings", {})
            own["settings"] = {k: _cut(v, limits.get(k)) for k, v in settings.items()}
            if "recalled" in entry:
                own["recalled"] = min(entry["recalled"], images)
            left_out = ("images", "network", "diffusion", *(() if tried else ("grid",)))
            runs[run] = {k: v for k, v in entry.items() if k not in left_out} | own
        wanted = list(shifts or usual.shifts)
        given = dict(problem=problem, images=images, tried=tried, seeds=list(seeds), runs=runs)
        return said | given | dict(shifts=wanted, of=images * (1 + len(wanted)))

    make(read(name, change, precision), workers, rows=folder / problem, out=folder)
    return folder


def _cut(value: object, limit: int | None) -> object:
    if limit is None:
        return value
    return [min(v, limit) for v in value] if isinstance(value, list) else min(value, limit)
