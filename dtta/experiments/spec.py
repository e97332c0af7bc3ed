"""Experiment files: which runs stand in a table of results, and what is tried for them. One file a table.

A file says:

    about = "Every baseline under every shift"
    problem = "digits"
    images = 40                  # test images for each shift and seed
    tried = 24                   # validation images for each shift, for the grids
    seeds = [0, 1, 2]            # of the shifts and of the methods; each seed has images of its own

    [runs.none]

    [runs.tent]
    batch = 16
    settings = { steps = 1 }     # as they are
    grid = { lr = [0.001, 0.01] }  # every combination is tried on validation images, the best one is used

    [runs."tent, online"]
    like = "tent"                # the settings chosen for that run, but for what is said here
    settings = { episodic = false }
    images = 20                  # its own number of images, where one takes long; so for `tried`

Most of the book's grids hold the best value found and its neighbours: of what was tried once and did far worse, most
was taken out again, so that all tables are made within three hours.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path

from dtta.evaluation.run import Run, spread
from dtta.methods.registry import METHODS, build, settings_of
from dtta.problems import load

FOLDER = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Entry:
    """One run of a table.

    Args:
        run: with the settings that are fixed, those of the problem included.
        own: the settings that the file says for it.
        grid: settings to try on validation images; empty: nothing is tried.
        like: the entry whose chosen settings are the starting point.
        against: the entry it is compared with when settings are chosen, and on the page.
        images: test images for each shift. tried: validation images for each shift, for the grid.
    """

    run: Run
    own: dict
    grid: tuple[dict, ...]
    like: str | None
    against: str
    images: int
    tried: int


@dataclass(frozen=True)
class Table:
    """What a file says; see the module's docstring.

    of: each shift's images are spread over so many (see ``dtta.evaluation.run.spread``); 0: all shifts have the same ones.
    network, diffusion: those of runs that name none; None: the problem's usual ones.
    precision: in which the diffusion models compute (see ``dtta.core.precision``); no file says it, since it is the machine's.
    """

    name: str
    about: str
    problem: str
    shifts: tuple[str, ...]
    severity: int
    tried: int
    of: int
    seeds: tuple[int, ...]
    precision: str = "float32"
    entries: dict[str, Entry] = field(default_factory=dict)
    network: str | None = None
    diffusion: str | None = None

    @property
    def most(self) -> int:
        """Test images for each shift and seed, of the run that has most."""
        return max(entry.images for entry in self.entries.values())

    def numbers(self, count: int, seed: int) -> dict[str, list[int]]:
        """The images of each shift, clean ones included, under a seed.

        Another seed for the same image would tell little that is new: so each has images of its own, one block after
        the other.
        """
        shifts, total = ("clean", *self.shifts), self.of or self.most
        found = spread(shifts, count, total) if self.of else {s: list(range(count)) for s in shifts}
        first = total * self.seeds.index(seed)
        return {shift: [first + number for number in numbers] for shift, numbers in found.items()}


_TABLE = {"about", "problem", "network", "diffusion", "shifts", "severity", "images", "tried", "of", "seeds", "runs"}
_RUN = ("method", "network", "diffusion", "classes", "batch", "stream", "by_class", "forgetting_images")
_ENTRY = {*_RUN, "settings", "grid", "like", "against", "images", "tried"}


def names() -> tuple[str, ...]:
    """The tables of the book; first those that choose the problems' settings, which the others start from."""
    return tuple(sorted((path.stem for path in FOLDER.glob("*.toml")), key=lambda n: (not n.endswith("-test"), n)))


def read(table: Path | str, change: Callable[[dict], dict] = lambda said: said, precision: str = "float32") -> Table:
    """Read a table's file and check every name in it.

    Args:
        table: its name, one of `names`; or the path of a file.
        change: what the file says -> what is to be taken instead (see ``dtta.experiments.transfer``).
        precision: in which the diffusion models are to compute.

    Raises:
        FileNotFoundError: no such file. ValueError: what is wrong in it, and where.
    """
    path = FOLDER / f"{table}.toml" if str(table) in names() else Path(table)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}, and no table of that name; there are {', '.join(names())}")
    try:
        said = change(tomllib.loads(path.read_text()))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    _known(said, _TABLE, f"{path}")
    for name in ("about", "problem", "images", "runs"):
        if name not in said:
            raise ValueError(f"{path}: {name} is missing")
    known = cache(load)  # each problem once
    models = {kind: said.get(kind) for kind in ("network", "diffusion")}
    problem = known(said["problem"], *models.values())
    table = Table(
        path.stem,
        said["about"],
        said["problem"],
        tuple(said.get("shifts", problem.shifts)),
        said.get("severity", 3),
        said.get("tried", 0),
        said.get("of", 0),
        tuple(said.get("seeds", [0])),
        precision,
        **models,
    )
    for name, entry in said["runs"].items():
        table.entries[name] = _entry(f"{path}: {name}", name, entry, said, table, known)
    needed = 1 + max(max(max(found) for found in table.numbers(table.most, seed).values()) for seed in table.seeds)
    if needed > (size := problem.size("test")):
        raise ValueError(f"{path}: it needs {needed} test images, {len(table.seeds)} seeds in all; there are {size}")
    return table


def _known(said: Mapping, names: Iterable[str], where: str) -> None:
    if unknown := sorted(set(said) - set(names)):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; choose from {', '.join(sorted(names))}")


def _entry(where: str, name: str, said: dict, whole: dict, table: Table, known: Callable) -> Entry:
    _known(said, _ENTRY, where)
    like, against, own = said.get("like"), said.get("against", "none"), said.get("settings", {})
    if like is not None and like not in table.entries:
        raise ValueError(f"{where}: it is to be like {like!r}, which does not stand above it")
    if like is None:
        method = said.get("method", name)
        if method not in METHODS:
            raise ValueError(f"{where}: unknown method {method!r}; choose from {', '.join(METHODS)}")
        first = {"method": method, "problem": table.problem, "precision": table.precision}
        models = {"network": table.network, "diffusion": table.diffusion}
        run = Run(**first | models | {k: said[k] for k in _RUN if k in said})
        settings = known(table.problem, *models.values()).settings.get(method, {}) | own
    else:
        run = replace(table.entries[like].run, **{k: said[k] for k in _RUN if k in said})
        settings = run.settings | own
    run = replace(run, settings=settings)
    if against not in table.entries and run.method != "none":
        raise ValueError(f"{where}: it is to be compared with {against!r}, which does not stand above it")
    grid = [said["grid"]] if isinstance(said.get("grid"), dict) else said.get("grid", [])
    grid = tuple(dict(zip(g, values, strict=True)) for g in grid for values in product(*map(_many, g.values())))
    tried = said.get("tried", table.tried)
    if grid and not tried:
        raise ValueError(f"{where}: a grid needs `tried`, the number of validation images for each shift")
    problem = known(run.problem, run.network, run.diffusion, run.classes)
    quick = {"anchors": 1} if "anchors" in settings_of(run.method) else {}  # EATA's take a second for each setting
    for settings in grid or ({},):
        build(problem, run.method, **quick | run.settings | settings)  # unknown settings fail here, before any work
    return Entry(run, own, grid, like, against, said.get("images", whole["images"]), tried)


def _many(values: object) -> list:
    return values if isinstance(values, list) else [values]


def needs(table: Table, name: str) -> list[str]:
    """The runs that must be done before this one."""
    entry = table.entries[name]
    return [n for n in (entry.like, entry.against if entry.grid else None) if n]


def start(table: Table, name: str, runs: Mapping[str, Run]) -> Run:
    """An entry's run before anything is tried: the settings chosen for the one it is like, and its own.

    Args:
        runs: those above it, with their chosen settings.
    """
    entry = table.entries[name]
    return entry.run if entry.like is None else replace(entry.run, settings=runs[entry.like].settings | entry.own)


def best(run: Run, tried: list[dict]) -> Run:
    """A run with the settings that gained most of those tried for it; as it is, if none were."""
    return replace(run, settings=max(tried, key=lambda row: row["gain"])["settings"]) if tried else run
