"""Tables of results from committed files: what was tried on validation images, and what came out on test images.

    dtta evaluate --table loss              all rows of dtta/experiments/loss.toml; it goes on where it stopped
    dtta evaluate --table loss --only L1    one row again, the others as they are stored
    dtta evaluate --table own.toml          a file of your own

What a file may say: `dtta.experiments`.
"""

from __future__ import annotations

import csv
import json
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm

from dtta.evaluation import journal
from dtta.evaluation.distributed import Processes
from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import AFTER, Row, Run
from dtta.evaluation.statistics import paired_gain
from dtta.experiments import stored
from dtta.experiments.spec import Table, best, needs, start
from dtta.problems import load

log = logging.getLogger(__name__)


def make(
    table: Table,
    workers: int = 2,
    only: Iterable[str] | None = None,
    rows: Path = Path("runs/tables"),
    out: Path = stored.FOLDER,
    processes: Processes | None = None,
    compile: bool = False,
) -> list[str]:
    """Choose settings on validation images, run the table on test images, and store both.

    Args:
        only: names of runs. They are made again; so is what they build on, if it is not stored as the file says it,
            and what builds on them, if other settings were chosen for them now. The others are taken from the stored
            table. One that is not there as the file says it leaves the table as it is.
        rows: where single rows are kept, so that a run that was stopped goes on; to make one again, delete its file.
            Rows made under other settings stay beside the new ones, under a name that says so.
        out: where the finished table is stored.
        processes: the processes that share each run, instead of `workers`; see ``dtta.evaluation.distributed.join``.
        compile: compile the diffusion models' blocks (see ``dtta.core.precision``).

    Returns:
        The runs that are missing, so that no table was stored; empty after all went well.

    Raises:
        ValueError: no such run in the table.
    """
    only = None if only is None else list(only)
    if unknown := set(only or ()) - set(table.entries):
        raise ValueError(f"{table.name} has no run {', '.join(sorted(unknown))}; it has {', '.join(table.entries)}")
    folder, tried, runs, found, seconds = rows / table.name, {}, {}, {}, {}
    wanted = _with_those_before(table, only)
    again, kept = (wanted, {}) if only is None else (set(only), _as_stored(table, out))
    left = list(table.entries)
    with at_work(workers, processes, compile) as work:

        def do(jobs: list[Job], text: str) -> list[list[Row]]:
            if processes is None:
                _set_aside(jobs)
            else:
                processes.broadcast(lambda: _set_aside(jobs))
            return work(jobs, text) if jobs else []

        # All choices first: they need no test images, and the cores then wait for each other once, at the end.
        while wave := [name for name in left if set(needs(table, name)) <= set(runs)]:  # their predecessors are done
            left = [name for name in left if name not in wave]
            first = {name: start(table, name, runs) for name in wave}
            for name in set(wave) & set(kept) - set(again):
                begun, run, settings, done = kept[name]
                if begun == first[name]:
                    runs[name], found[name], tried[name] = run, done, settings
            due = {*wanted, *kept} - set(runs)  # what is kept, but was to start from something else, is due as well
            first = {name: run for name, run in first.items() if name in due}
            grids = {name: run for name, run in first.items() if table.entries[name].grid}
            told, spent = choose(table, grids, runs, folder, do)
            tried |= told
            seconds |= spent
            runs |= {name: best(run, tried.get(name, [])) for name, run in first.items()}
        before = stored.seconds(table.name, out)
        rest = sorted(set(runs) - set(found), key=lambda name: (-before.get(name, 0), name))  # long ones are not last
        cells = [(shift, table.severity) for shift in ("clean", *table.shifts)]
        jobs = [
            (replace(runs[name], seed=seed), cells, table.numbers(table.entries[name].images, seed),
             folder / f"{_file(name)}-{seed}.jsonl")
            for name in rest
            for seed in table.seeds
        ]  # fmt: skip
        results = iter(do(jobs, f"{table.name}, test images"))
        for name in rest:
            found[name] = [replace(r, seed=seed) for seed in table.seeds for r in next(results)]
            seconds[name] = seconds.get(name, 0) + sum(r.seconds for r in found[name])
    if missing := [name for name in table.entries if name not in found]:
        return missing
    if kept:  # what those took that were not made again
        seconds = before | seconds
    if processes is None or processes.first:
        whole = {name: (runs[name], found[name]) for name in table.entries}
        took = {name: round(seconds.get(name, 0), 1) for name in table.entries}
        _save(table, whole, [row for name in table.entries for row in tried.get(name, [])], took, out)
    return []


def _set_aside(jobs: list[Job]) -> None:
    for run, _, _, path in jobs:
        for moved in journal.archive(path, run):
            log.warning("%s held rows of other settings; they are kept in %s", path, moved)


def _as_stored(table: Table, out: Path) -> dict[str, tuple[Run, Run, list[dict], list[Row]]]:
    """The runs that are stored as the file says them: before a choice, after it, what was tried, and the rows."""
    if not (out / f"{table.name}.json").is_file():
        return {}
    told, found, size = stored.runs(table.name, out), {}, load(table.problem).size("test")
    tried = stored.trials(table.name, out) if (out / f"{table.name}-settings.csv").is_file() else []
    for name, entry in table.entries.items():
        if not {name, *needs(table, name)} <= set(told):
            continue
        first, rows = start(table, name, told), stored.rows(table.name, name, out)
        settings = [row for row in tried if row["run"] == name]
        wanted = set()
        for seed in table.seeds:
            numbers = table.numbers(entry.images, seed)
            forgetting_images = {AFTER + shift: range(size - first.forgetting_images, size) for shift in numbers}
            wanted |= {(s, table.severity, i, seed) for s, of in (numbers | forgetting_images).items() for i in of}
        asked = [(first.settings | own, entry.tried * len(table.shifts)) for own in entry.grid]
        same = [(row["settings"], row["images"]) for row in settings] == asked
        if same and told[name] == best(first, settings) and {row.key for row in rows} == wanted:
            found[name] = first, told[name], settings, rows
    return found


Job = tuple[Run, list[tuple[str, int]], dict[str, list[int]], Path]


@contextmanager
def at_work(
    workers: int, processes: Processes | None = None, compile: bool = False
) -> Iterator[Callable[[list[Job], str], list[list[Row]]]]:
    """A function that does evaluations, side by side in so many processes of one thread; 1: here.

    The processes stay until the end: starting one takes longer than many an evaluation. With `processes` it does one
    evaluation after the other, each shared by all of them.
    """
    if workers <= 1 or processes:
        quiet = {"disable": True} if processes and not processes.first else {}
        yield lambda jobs, text: [_do(job, processes, compile) for job in tqdm(jobs, text, unit="run", **quiet)]
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        yield lambda jobs, text: list(tqdm(pool.map(partial(_do, compile=compile), jobs), text, len(jobs), unit="run"))


def _do(job: Job, processes: Processes | None = None, compile: bool = False) -> list[Row]:
    try:
        return evaluate(*job, progress=False, processes=processes, compile=compile)
    except FloatingPointError as error:  # which of hundreds of runs it was; what the others have done stays
        raise FloatingPointError(f"{job[-1].stem}: {error}, or take it out of the table") from error


def _with_those_before(table: Table, only: Iterable[str] | None) -> list[str]:
    """The runs wanted and those they need, in the table's order."""
    if only is None:
        return list(table.entries)
    needed, todo = set(), list(only)
    while todo:
        name = todo.pop()
        needed.add(name)
        todo += [n for n in needs(table, name) if n not in needed]
    return [name for name in table.entries if name in needed]


def choose(
    table: Table, runs: dict[str, Run], others: dict[str, Run], folder: Path, do: Callable
) -> tuple[dict[str, list[dict]], dict[str, float]]:
    """Try the grids of some runs on validation images, with the first seed.

    Args:
        runs: name -> run, before anything is chosen. others: the runs they are compared with.
        do: see ``at_work``.

    Returns:
        name -> a row for each setting: run, method, settings, and the mean gain over the shifts, with its interval.
        name -> the seconds that all its settings took.
    """
    cells = [(shift, table.severity) for shift in table.shifts]
    most = max((table.entries[name].tried for name in runs), default=0)

    def job(run: Run, name: str, images: int) -> Job:
        numbers = table.numbers(images, table.seeds[0])
        path = folder / f"{_file(name)}-validation.jsonl"
        return replace(run, split="validation", seed=table.seeds[0], forgetting_images=0), cells, numbers, path

    jobs = {}
    for name, run in runs.items():
        entry = table.entries[name]
        jobs[entry.against, ""] = job(others[entry.against], entry.against, most)
        for settings in entry.grid:
            text = json.dumps(settings)
            jobs[name, text] = job(replace(run, settings=run.settings | settings), f"{name} {text}", entry.tried)
    rows = dict(zip(jobs, do(list(jobs.values()), f"{table.name}, validation images"), strict=True)) if jobs else {}
    problem = load(table.problem, table.network, table.diffusion)
    metric = problem.metrics.get(problem.metric)
    told, seconds = {}, {}
    for name, run in runs.items():
        before = rows[table.entries[name].against, ""]
        told[name], seconds[name] = [], 0.0
        for settings in table.entries[name].grid:
            after = rows[name, json.dumps(settings)]
            seconds[name] += sum(row.seconds for row in after)
            gain = paired_gain(*stored.align(before, after), metric)
            about = {"run": name, "method": run.method, "settings": run.settings | settings}
            rounded = {k: v if k == "images" else round(float(v), 2) for k, v in gain.items()}
            told[name].append(about | rounded)
    return told, seconds


def _file(text: str) -> str:
    return "-".join("".join(c if c.isalnum() or c in ".φ" else " " for c in text).split())


def _save(table: Table, found: dict[str, tuple[Run, list[Row]]], tried: list[dict], seconds: dict, out: Path) -> None:
    about = dict(about=table.about, command=f"dtta evaluate --table {table.name}", seeds=table.seeds)
    about |= dict(seconds=seconds, torch=torch.__version__)  # of all rows, those of the grids too
    about["baselines"] = {name: entry.against for name, entry in table.entries.items() if entry.run.method != "none"}
    stored.save(table.name, found, out, **about)
    if tried:
        with (out / f"{table.name}-settings.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(tried[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | {"settings": json.dumps(row["settings"])} for row in tried)
