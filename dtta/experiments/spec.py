"""Experiment files: the runs of a table of results, and the settings to try for each. One TOML file a table.

    about = "Every baseline under every shift"
    problem = "digits"
    test_images = 40               # for each shift and seed
    validation_images = 24         # for each shift, to choose settings from the grids
    seeds = [0, 1, 2]              # of the shifts and of the methods; each seed has different images
    defaults = ["tent"]            # in the book's tables: runs whose chosen settings become those of the problem
    fast = []                      # likewise, those that become its fast settings (``dtta.build(..., fast=True)``)

    [start]                        # the settings from which a method's runs start; not named: from the problem's
    tent = { optimizer = "adam" }

    [runs.none]

    [runs.tent]
    batch = 16
    settings = { steps = 1 }       # these override the settings from which it starts
    grid = { lr = [0.001, 0.01] }  # every combination is tried on validation images, the best one is used
    choose = "best"                # or "cheapest": the fewest evaluations among those not shown to lose (``selection``)

    [runs."tent, online"]
    extends = "tent"               # starts from the settings chosen for that run
    settings = { episodic = false }
    test_images = 20               # fewer for a slow run; validation_images likewise

A file may also extend a table, given by its name or path, for example on another problem:

    extends = "digits-test"
    problem = "imagenet"
    network = "resnet50"             # the default network; of `diffusion` the same is true
    networks = { vit = "vit-b-32" }  # in place of the network that the table calls "vit"; so for `diffusions`
    test_images = 10                 # of every run; so for `validation_images`, where 0 means: try no grid
    leave_out = ["sar, online, 1"]   # runs
    limits = { samples = 48 }        # settings above a limit, in the table or by default, are lowered to it
    settings = { lr = 0.005 }        # of Diffusion-TTA, in place of the problem's

Everything else stays as it is in the table, but on another problem runs start from that problem's settings; [runs.NAME]
adds or replaces a run. Runs that the new problem does not allow (a network or diffusion model that is not named; EATA
without validation images), and all that build on a run that is left out, are left out too.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import get_type_hints

from dtta.core.problem import Problem
from dtta.evaluation.run import Run, spread
from dtta.experiments.limits import lower, lower_defaults, with_settings
from dtta.experiments.selection import combinations
from dtta.methods.registry import settings_of
from dtta.methods.types import check_type
from dtta.problems import load
from dtta.problems.corruptions import SEVERITIES

FOLDER = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Entry:
    """One run of a table.

    Args:
        run, settings: `run` has the settings it starts from, the problem's included; `settings`, those in the file.
        grid: settings to try on validation images; empty: try none.
        extends, baseline: the entries from whose chosen settings it starts, and with which it is compared.
        test_images, validation_images: for each shift.
        choose: by which rule among the settings of the grid (see ``selection.best_run``).
    """

    run: Run
    settings: dict
    grid: tuple[dict, ...]
    extends: str | None
    baseline: str
    test_images: int
    validation_images: int
    choose: str = "best"


@dataclass(frozen=True)
class Table:
    """The content of an experiment file; see the module's docstring.

    `pool`: each shift's images are spread over this many (see ``dtta.evaluation.run.spread``); 0: all have the same.
    `precision`: of the diffusion models (see ``dtta.core.precision``). It depends on the machine, so no file has it.
    """

    name: str
    about: str
    problem: str
    shifts: tuple[str, ...]
    severity: int
    test_images: int
    validation_images: int
    pool: int
    seeds: tuple[int, ...]
    network: str | None = None
    diffusion: str | None = None
    precision: str = "float32"
    entries: dict[str, Entry] = field(default_factory=dict)

    @property
    def max_test_images(self) -> int:
        """Test images for each shift and seed of the run that has most."""
        return max(entry.test_images for entry in self.entries.values())

    def image_indices(self, count: int, seed: int) -> dict[str, list[int]]:
        """Return the indices of `count` images for each shift, clean ones included; each seed has different images."""
        shifts = ("clean", *self.shifts)
        size = self.pool or self.max_test_images
        first = size * self.seeds.index(seed)
        indices = spread(shifts, count, size) if self.pool else {shift: list(range(count)) for shift in shifts}
        return {shift: [first + index for index in indices[shift]] for shift in shifts}


_NOT_IN_FILES = {"problem", "settings", "split", "seed", "precision"}
_RUN = tuple(f.name for f in fields(Run) if f.name not in _NOT_IN_FILES)
_ENTRY = {*_RUN, "settings", "grid", "extends", "baseline", "test_images", "validation_images", "choose"}
_REQUIRED = ("about", "problem", "test_images", "runs")
_OPTIONAL = ("network", "diffusion", "shifts", "severity", "validation_images", "pool", "seeds", "start")
_TABLE = {*_REQUIRED, *_OPTIONAL, "defaults", "fast"}
_EXTENSION = {*_TABLE, "extends", "networks", "diffusions", "leave_out", "limits", "settings"}
_TYPES = (
    get_type_hints(Table) | get_type_hints(Run) | dict(extends=str, baseline=str, choose=str, grid=dict | list[dict])
)
_TYPES |= dict.fromkeys(("leave_out", "defaults", "fast"), list[str])
_TYPES |= dict.fromkeys(("runs", "start", "networks", "diffusions", "limits"), dict)


def names() -> tuple[str, ...]:
    """Return the names of the book's tables, first those that choose the problems' settings."""
    return tuple(sorted((path.stem for path in FOLDER.glob("*.toml")), key=lambda n: (not n.endswith("-test"), n)))


def read(table: Path | str | Mapping, precision: str = "float32") -> Table:
    """Read a table's file and check every name and setting in it.

    `table`: one of `names`, a file's path, or the content of a file that extends a table, whose name it then has.
    `precision`: of the diffusion models. Raises FileNotFoundError; ValueError: what is wrong in the file, and where.
    """
    name, where, spec = _spec(table)
    for key in _REQUIRED:
        if key not in spec:
            raise ValueError(f"{where}: {key} is missing")

    @cache
    def load_problem(network: str | None, diffusion: str | None, classes: int | None = None) -> Problem:
        problem = load(spec["problem"], network, diffusion, classes)
        problem = replace(problem, settings=problem.settings | spec.get("start", {}))
        return with_settings(problem, spec.get("limits"), **spec.get("settings", {}))

    for key in ("defaults", "fast"):
        _check(spec.get(key, ()), spec["runs"], f"{where}: {key}")
    for method, settings in spec.get("start", {}).items():
        _check(settings, settings_of(method), f"{where}: start, {method}")
    try:
        problem = load_problem(spec.get("network"), spec.get("diffusion"))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    table = Table(
        name=name,
        about=spec["about"],
        problem=spec["problem"],
        shifts=tuple(spec.get("shifts", problem.shifts)),
        severity=spec.get("severity", 3),
        test_images=spec["test_images"],
        validation_images=spec.get("validation_images", 0),
        pool=spec.get("pool", 0),
        seeds=tuple(spec.get("seeds", [0])),
        network=spec.get("network"),
        diffusion=spec.get("diffusion"),
        precision=precision,
    )
    _check(table.shifts, ("clean", *problem.shifts), f"{where}: shifts")
    _check([table.severity], SEVERITIES, f"{where}: severity")
    for run, entry in spec["runs"].items():
        if "extends" in spec and not _is_possible(run, entry, table, problem):
            continue
        try:
            table.entries[run] = _entry(run, entry, table, spec.get("limits", {}), load_problem)
        except ValueError as error:
            raise ValueError(f"{where}: {run}: {error}") from error
    highest = max(max(i) for seed in table.seeds for i in table.image_indices(table.max_test_images, seed).values())
    size = problem.size("test")
    if highest >= size:
        seeds = f"{len(table.seeds)} seeds in all"
        raise ValueError(f"{where}: it needs {highest + 1} test images, {seeds}; there are {size}")
    return table


def defaults(name: str, key: str = "defaults") -> list[str]:
    """Return the runs of a book's table whose chosen settings are the problem's; with key "fast": its fast ones."""
    return _spec(name)[-1].get(key, [])


def _spec(table: Path | str | Mapping, folder: Path = Path()) -> tuple[str, str, dict]:
    """Return a table's name, where it is from, and its content, merged with the table that it extends."""
    if isinstance(table, Mapping):
        spec, name = dict(table), Path(table["extends"]).stem
        where = f"an extension of {table['extends']}"
    else:
        path = FOLDER / f"{table}.toml" if str(table) in names() else folder / table
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path} and no table of that name; tables: {', '.join(names())}")
        try:
            spec = tomllib.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not TOML: {error}") from error
        name, where, folder = path.stem, f"{path}", path.parent
    _check_keys(spec, _EXTENSION if "extends" in spec else _TABLE, where)
    for run, entry in spec.get("runs", {}).items():
        check_type(f"{where}: {run}", entry, dict)
        _check_keys(entry, _ENTRY, f"{where}: {run}")
    if "extends" not in spec:
        return name, where, spec
    *_, base = _spec(spec["extends"], folder)
    _check(spec.get("leave_out", ()), base["runs"], f"{where}: leave_out")
    return name, where, _merge(base, spec)


def _merge(base: dict, extension: dict) -> dict:
    """Return the content of a table with the changes of an extension."""
    on_other_problem = "problem" in extension
    replaced = {"network": extension.get("networks", {}), "diffusion": extension.get("diffusions", {})}
    dropped = {key for key in ("test_images", "validation_images") if key in extension}
    if extension.get("validation_images") == 0:
        dropped.add("grid")
    runs = {}
    for name, entry in base["runs"].items():
        models = {kind: entry[kind] for kind in replaced if kind in entry}
        missing = any(model not in replaced[kind] for kind, model in models.items())
        if name in extension.get("leave_out", ()) or (on_other_problem and missing):
            continue
        entry = {key: value for key, value in entry.items() if key not in dropped}
        entry |= {kind: replaced[kind].get(model, model) for kind, model in models.items()}
        if "forgetting_images" in entry and "test_images" in extension:
            entry["forgetting_images"] = min(entry["forgetting_images"], extension["test_images"])
        runs[name] = entry
    outdated = {"defaults", "fast", *(("network", "diffusion", "shifts", "start") if on_other_problem else ())}
    if "test_images" in extension:
        outdated.add("pool")
    kept = {key: value for key, value in base.items() if key not in outdated}
    return kept | extension | {"runs": runs | extension.get("runs", {})}


def _is_possible(name: str, entry: dict, table: Table, problem: Problem) -> bool:
    """Whether a run of an extended table can be made: what it builds on is there, and EATA has validation images."""
    others = [entry[key] for key in ("extends", "baseline") if key in entry]
    lacks_images = entry.get("method", name) == "eata" and "validation" not in problem.sizes
    return set(others) <= set(table.entries) and not lacks_images


def _check(names: Iterable, allowed: Iterable, where: str) -> None:
    unknown = sorted(set(names) - set(allowed))
    if unknown:
        choice = ", ".join(map(str, sorted(allowed)))
        raise ValueError(f"{where}: unknown {', '.join(map(str, unknown))}; choose from {choice}")


def _check_keys(spec: dict, allowed: Iterable[str], where: str) -> None:
    _check(spec, allowed, where)
    for key, value in spec.items():
        if value is not None:
            check_type(f"{where}: {key}", value, _TYPES[key])
        if key == "test_images" and value < 1:
            raise ValueError(f"{where}: {key} must be at least 1, not {value}")


def _entry(
    name: str, spec: dict, table: Table, limits: Mapping[str, int], load_problem: Callable[..., Problem]
) -> Entry:
    extends, baseline = spec.get("extends"), spec.get("baseline", "none")
    given = lower(spec.get("settings", {}), limits)
    changes = {key: spec[key] for key in _RUN if key in spec}
    if extends is None:
        defaults = {"method": name, "network": table.network, "diffusion": table.diffusion}
        run = Run(**defaults | {"problem": table.problem, "precision": table.precision} | changes)
        usual = load_problem(run.network, run.diffusion, run.classes).settings.get(run.method, {})
        settings = lower_defaults(run.method, usual | given, limits)
    elif extends in table.entries:
        run = replace(table.entries[extends].run, **changes)
        settings = run.settings | given
    else:
        raise ValueError(f"it extends {extends!r}, which is no run above it")
    run = replace(run, settings=settings)
    accepted = settings_of(run.method)  # raises for an unknown method
    if baseline not in table.entries and run.method != "none":
        raise ValueError(f"its baseline is {baseline!r}, which is no run above it")
    grid = tuple(lower(settings, limits) for settings in combinations(spec.get("grid", [])))
    validation_images = spec.get("validation_images", table.validation_images)
    if grid and not validation_images:
        raise ValueError("a grid needs validation_images, their number for each shift")
    problem = load_problem(run.network, run.diffusion, run.classes)
    quick = {"anchors": 1} if "anchors" in accepted else {}  # EATA's default takes a second to build
    for settings in grid or ({},):
        replace(run, settings=quick | run.settings | settings).build(problem)  # report what is wrong before any work
    _check([choose := spec.get("choose", "best")], ("best", "cheapest"), "choose")
    test_images = spec.get("test_images", table.test_images)
    return Entry(run, given, grid, extends, baseline, test_images, validation_images, choose)


def needs(table: Table, name: str) -> list[str]:
    """Return the runs that must be made before this one."""
    entry = table.entries[name]
    return [n for n in (entry.extends, entry.baseline if entry.grid else None) if n]


def initial_run(table: Table, name: str, runs: Mapping[str, Run]) -> Run:
    """Return an entry's run before its grid is tried; `runs`: those above it, with their chosen settings."""
    entry = table.entries[name]
    if entry.extends is None:
        return entry.run
    return replace(entry.run, settings=runs[entry.extends].settings | entry.settings)
