"""Tables of results from committed files: what was tried on validation images, and what came out on test images.

    dtta evaluate --table loss              all rows of dtta/experiments/loss.toml; it goes on where it stopped
    dtta evaluate --table loss --only L1    one row again, the others as they are stored
    dtta evaluate --table own.toml          a file of your own

A file says which runs stand in a table:

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
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch
from tqdm.auto import tqdm

from dtta import stored
from dtta.evaluate import AFTER, Row, Run, evaluate, paired_gain, spread
from dtta.methods import METHODS, build, settings_of
from dtta.problems import load
from dtta.ranks import Ranks

FOLDER = Path(__file__).parent / "experiments"


@dataclass(frozen=True)
class Entry:
    """One run of a table.

    Args:
        run: with the settings that are fixed, those of the problem included.
        own: the settings that the file says for it.
        grid: settings to try on validation images; empty: nothing is tried.
        like: the entry whose chosen settings are the starting point.
        against: the entry it is compared with when settings are chosen, and on the page.
        images: test images for each shift.
    """

    run: Run
    own: dict
    grid: tuple[dict, ...]
    like: str | None
    against: str
    images: int


@dataclass(frozen=True)
class Table:
    """What a file says; see the module's docstring.

    of: each shift's images are spread over so many (see ``dtta.evaluate.spread``); 0: all shifts have the same ones.
    network, diffusion: those of runs that name none; None: the problem's usual ones.
    precision: in which the diffusion models compute (see ``dtta.speed``); no file says it, since it is the machine's.
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
_RUN = ("method", "network", "diffusion", "classes", "batch", "stream", "by_class", "recalled")
_ENTRY = {*_RUN, "settings", "grid", "like", "against", "images"}


def names() -> tuple[str, ...]:
    """The tables of the book; first those that choose the problems' settings, which the others start from."""
    return tuple(sorted((path.stem for path in FOLDER.glob("*.toml")), key=lambda n: (not n.endswith("-test"), n)))


def read(table: Path | str, change: Callable[[dict], dict] = lambda said: said, precision: str = "float32") -> Table:
    """Read a table's file and check every name in it.

    Args:
        table: its name, one of `names`; or the path of a file.
        change: what the file says -> what is to be taken instead (see ``dtta.elsewhere``).
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
    if grid and not table.tried:
        raise ValueError(f"{where}: a grid needs `tried`, the number of validation images for each shift")
    problem = known(run.problem, run.network, run.diffusion, run.classes)
    quick = {"anchors": 1} if "anchors" in settings_of(run.method) else {}  # EATA's take a second for each setting
    for settings in grid or ({},):
        build(problem, run.method, **quick | run.settings | settings)  # unknown settings fail here, before any work
    return Entry(run, own, grid, like, against, said.get("images", whole["images"]))


def _many(values: object) -> list:
    return values if isinstance(values, list) else [values]


def make(
    table: Table,
    workers: int = 2,
    only: Iterable[str] | None = None,
    rows: Path = Path("runs/tables"),
    out: Path = stored.FOLDER,
    ranks: Ranks | None = None,
    compile: bool = False,
) -> list[str]:
    """Choose settings on validation images, run the table on test images, and store both.

    Args:
        only: names of runs. They are made again, and of those they build on what is not stored as the file says it;
            the others are taken from the stored table. One that is neither leaves the table as it is.
        rows: where single rows are kept, so that a run that was stopped goes on; to make one again, delete its file.
        out: where the finished table is stored.
        ranks: the processes that share each run, instead of `workers`; see ``dtta.ranks.join``.
        compile: compile the diffusion models' blocks (see ``dtta.speed``).

    Returns:
        The runs that are missing, so that no table was stored; empty after all went well.

    Raises:
        ValueError: no such run in the table.
    """
    only = None if only is None else list(only)
    if unknown := set(only or ()) - set(table.entries):
        raise ValueError(f"{table.name} has no run {', '.join(sorted(unknown))}; it has {', '.join(table.entries)}")
    folder, tried, runs, found, spent = rows / table.name, {}, {}, {}, []
    wanted = _with_those_before(table, only)
    again, kept = (wanted, {}) if only is None else (set(only), _as_stored(table, out))
    left = list(table.entries)
    with at_work(workers, ranks, compile) as work:

        def do(jobs: list[Job], text: str) -> list[list[Row]]:
            done = work(jobs, text) if jobs else []
            spent.append(sum(row.seconds for rows in done for row in rows))
            return done

        while wave := [name for name in left if set(_needs(table, name)) <= set(runs)]:  # their predecessors are done
            left = [name for name in left if name not in wave]
            first = {name: start(table, name, runs) for name in wave}
            for name in set(wave) & set(kept) - set(again):
                begun, run, settings, done = kept[name]
                if begun == first[name]:
                    runs[name], found[name], tried[name] = run, done, settings
            first = {name: run for name, run in first.items() if name in wanted and name not in runs}
            grids = {name: run for name, run in first.items() if table.entries[name].grid}
            tried |= choose(table, grids, runs, folder, do)
            now = {name: best(run, tried.get(name, [])) for name, run in first.items()}
            cells = [(shift, table.severity) for shift in ("clean", *table.shifts)]
            jobs = [
                (replace(run, seed=seed), cells, table.numbers(table.entries[name].images, seed),
                 folder / f"{_file(name)}-{seed}.jsonl")
                for name, run in now.items()
                for seed in table.seeds
            ]  # fmt: skip
            results = iter(do(jobs, f"{table.name}, test images"))
            for name in now:
                found[name] = [replace(r, seed=seed) for seed in table.seeds for r in next(results)]
            runs |= now
    if missing := [name for name in table.entries if name not in found]:
        return missing
    seconds = sum(spent)
    if kept:  # a run made again takes what it took; a new one comes on top
        before = stored.names(table.name, out)
        seconds = stored.seconds(table.name, out)
        seconds += sum(row.seconds for name, done in found.items() if name not in before for row in done)
    if ranks is None or ranks.first:
        whole = {name: (runs[name], found[name]) for name in table.entries}
        _save(table, whole, [row for name in table.entries for row in tried.get(name, [])], seconds, out)
    return []


def _as_stored(table: Table, out: Path) -> dict[str, tuple[Run, Run, list[dict], list[Row]]]:
    """The runs that are stored as the file says them: before a choice, after it, what was tried, and the rows."""
    if not (out / f"{table.name}.json").is_file():
        return {}
    told, found, size = stored.names(table.name, out), {}, load(table.problem).size("test")
    tried = stored.tried(table.name, out) if (out / f"{table.name}-settings.csv").is_file() else []
    for name, entry in table.entries.items():
        if not {name, *_needs(table, name)} <= set(told):
            continue
        first, rows = start(table, name, told), stored.rows(table.name, name, out)
        settings = [row for row in tried if row["run"] == name]
        wanted = set()
        for seed in table.seeds:
            numbers = table.numbers(entry.images, seed)
            recalled = {AFTER + shift: range(size - first.recalled, size) for shift in numbers}
            wanted |= {(s, table.severity, i, seed) for s, of in (numbers | recalled).items() for i in of}
        asked = [(first.settings | own, table.tried * len(table.shifts)) for own in entry.grid]
        same = [(row["settings"], row["images"]) for row in settings] == asked
        if same and told[name] == best(first, settings) and {row.key for row in rows} == wanted:
            found[name] = first, told[name], settings, rows
    return found


def _needs(table: Table, name: str) -> list[str]:
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


Job = tuple[Run, list[tuple[str, int]], dict[str, list[int]], Path]


@contextmanager
def at_work(
    workers: int, ranks: Ranks | None = None, compile: bool = False
) -> Iterator[Callable[[list[Job], str], list[list[Row]]]]:
    """A function that does evaluations, side by side in so many processes of one thread; 1: here.

    The processes stay until the end: starting one takes longer than many an evaluation. With `ranks` it does one
    evaluation after the other, each shared by all of them.
    """
    if workers <= 1 or ranks:
        quiet = {"disable": True} if ranks and not ranks.first else {}
        yield lambda jobs, text: [_do(job, ranks, compile) for job in tqdm(jobs, text, unit="run", **quiet)]
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        yield lambda jobs, text: list(tqdm(pool.map(partial(_do, compile=compile), jobs), text, len(jobs), unit="run"))


def _do(job: Job, ranks: Ranks | None = None, compile: bool = False) -> list[Row]:
    return evaluate(*job, progress=False, ranks=ranks, compile=compile)


def _with_those_before(table: Table, only: Iterable[str] | None) -> list[str]:
    """The runs wanted and those they need, in the table's order."""
    if only is None:
        return list(table.entries)
    needed, todo = set(), list(only)
    while todo:
        name = todo.pop()
        needed.add(name)
        todo += [n for n in _needs(table, name) if n not in needed]
    return [name for name in table.entries if name in needed]


def choose(
    table: Table, runs: dict[str, Run], others: dict[str, Run], folder: Path, do: Callable
) -> dict[str, list[dict]]:
    """Try the grids of some runs on validation images, with the first seed.

    Args:
        runs: name -> run, before anything is chosen. others: the runs they are compared with.
        do: see ``at_work``.

    Returns:
        name -> a row for each setting: run, method, settings, and the mean gain over the shifts, with its interval.
    """
    cells = [(shift, table.severity) for shift in table.shifts]
    numbers = table.numbers(table.tried, table.seeds[0])

    def job(run: Run, name: str) -> Job:
        path = folder / f"{_file(name)}-validation.jsonl"
        return replace(run, split="validation", seed=table.seeds[0], recalled=0), cells, numbers, path

    jobs = {}
    for name, run in runs.items():
        entry = table.entries[name]
        jobs[entry.against, ""] = job(others[entry.against], entry.against)
        for settings in entry.grid:
            text = json.dumps(settings)
            jobs[name, text] = job(replace(run, settings=run.settings | settings), f"{name} {text}")
    rows = dict(zip(jobs, do(list(jobs.values()), f"{table.name}, validation images"), strict=True)) if jobs else {}
    problem = load(table.problem, table.network, table.diffusion)
    metric = problem.metrics.get(problem.metric)
    told = {}
    for name, run in runs.items():
        before = rows[table.entries[name].against, ""]
        told[name] = []
        for settings in table.entries[name].grid:
            gain = paired_gain(*stored.shared(before, rows[name, json.dumps(settings)]), metric)
            about = {"run": name, "method": run.method, "settings": run.settings | settings}
            rounded = {k: v if k == "images" else round(float(v), 2) for k, v in gain.items()}
            told[name].append(about | rounded)
    return told


def _file(text: str) -> str:
    return "-".join("".join(c if c.isalnum() or c in ".φ" else " " for c in text).split())


def _save(table: Table, found: dict[str, tuple[Run, list[Row]]], tried: list[dict], seconds: float, out: Path) -> None:
    about = dict(about=table.about, command=f"dtta evaluate --table {table.name}", seeds=table.seeds)
    about |= dict(seconds=round(seconds, 1), torch=torch.__version__)  # of all rows, those of the grids too
    about["against"] = {name: entry.against for name, entry in table.entries.items() if entry.run.method != "none"}
    stored.save(table.name, found, out, **about)
    if tried:
        with (out / f"{table.name}-settings.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(tried[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | {"settings": json.dumps(row["settings"])} for row in tried)
