"""Make a table of results: choose settings on validation images, run on test images, store both.

dtta evaluate --table loss              all runs of dtta/experiments/tables/loss.toml; resumes where it stopped
dtta evaluate --table loss --only L1    one run again; the others are taken from the stored table
dtta evaluate --table own.toml          a file of your own (see ``dtta.experiments.spec``)
"""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from dtta.evaluation import journal
from dtta.evaluation.distributed import end_with_parent
from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import AFTER, SHIFTED, Row, Run
from dtta.evaluation.statistics import paired_gain
from dtta.experiments import defaults, stored
from dtta.experiments.selection import best_run
from dtta.experiments.spec import Entry, Table, initial_run, needs
from dtta.problems import load

if TYPE_CHECKING:
    from dtta.evaluation.distributed import Processes

log = logging.getLogger(__name__)

Job = tuple[Run, list[tuple[str, int]], dict[str, list[int]], Path]  # the first arguments of `evaluate`
Work = Callable[[list[Job], str], list[list[Row]]]  # jobs and a title for the progress bar -> the rows of each job


@dataclass
class Result:
    """What an entry of a table has so far; `seconds`: of trials' and test rows, None: taken from the stored table."""

    run: Run  # with the chosen settings
    trials: list[dict]
    rows: list[Row] | None = None
    seconds: float | None = None


def make(
    table: Table,
    workers: int = 2,
    only: Iterable[str] | None = None,
    rows: Path = Path("runs/tables"),
    out: Path = stored.FOLDER,
    processes: Processes | None = None,
    compile: bool | None = None,
    together: int | None = 1,
) -> list[str]:
    """Choose settings on validation images, run the table on test images, and store both.

    Args:
        workers: processes of one thread each.
        only: runs to make again, with those that they build on, unless stored as the file describes them, and those
            that build on them, if their settings change. The others are taken from the stored table.
        rows: folder of the single rows, from which a stopped run resumes; to make a run again, delete its file.
        out: folder of the finished table.
        processes: share each run, instead of `workers`; see ``dtta.evaluation.distributed.join``.
        compile: compile the diffusion models' blocks; None: on a GPU, see ``evaluate``.
        together: images adapted at the same time; see ``evaluate``.

    Returns the runs that are neither made nor stored as the file describes them; if there are any, no table is stored.
    Raises ValueError: no such run in the table.
    """
    requested = list(table.entries) if only is None else list(only)
    unknown = sorted(set(requested) - set(table.entries))
    if unknown:
        raise ValueError(f"{table.name} has no run {', '.join(unknown)}; it has {', '.join(table.entries)}")
    kept = {} if only is None else _stored_results(table, out)
    results: dict[str, Result] = {}
    with workforce(workers, processes, compile=compile, together=together) as work:
        # Choose all settings first: this needs no test images, so that the workers wait for each other only once.
        for wave in _waves(table):
            runs = {name: result.run for name, result in results.items()}
            initial = {name: initial_run(table, name, runs) for name in wave if set(needs(table, name)) <= set(runs)}
            for name in set(initial) & set(kept) - set(requested):
                before, result = kept[name]
                if before == initial[name]:
                    results[name] = result
            due = {*_with_needs(table, requested), *kept} - set(results)
            initial = {name: run for name, run in initial.items() if name in due}
            results |= choose(table, initial, results, rows / table.name, work)
        previous = stored.seconds(table.name, out)
        todo = [name for name, result in results.items() if result.rows is None]
        todo.sort(key=lambda name: (-previous.get(name, 0), name))  # long runs first, to end together
        jobs = [_test_job(table, name, results[name].run, seed, rows) for name in todo for seed in table.seeds]
        made = iter(work(jobs, f"{table.name}, test images"))
        for name in todo:
            result = results[name]
            result.rows = [replace(row, seed=seed) for seed in table.seeds for row in next(made)]
            result.seconds += sum(row.seconds for row in result.rows)
    missing = [name for name in table.entries if name not in results]
    if not missing and (processes is None or processes.first):
        _store(table, results, previous if kept else {}, out)
    return missing


def choose(
    table: Table, initial: Mapping[str, Run], others: Mapping[str, Result], folder: Path, work: Work
) -> dict[str, Result]:
    """Try the grids of some runs on validation images, with the first seed; return results without rows, by name.

    `initial`: runs before their settings are chosen; those without a grid keep them. `others`: with all baselines.
    A trial has run, method, settings, and the mean gain over the shifts with its interval.
    """
    entries = {name: table.entries[name] for name in initial if table.entries[name].grid}
    most = max((entry.validation_images for entry in entries.values()), default=0)
    jobs = {}
    for name, entry in entries.items():
        baseline = entry.baseline
        jobs[baseline, ""] = _validation_job(table, baseline, others[baseline].run, most, folder)
        for settings in entry.grid:
            text = json.dumps(settings)
            run = replace(initial[name], settings=initial[name].settings | settings)
            jobs[name, text] = _validation_job(table, f"{name} {text}", run, entry.validation_images, folder)
    rows = dict(zip(jobs, work(list(jobs.values()), f"{table.name}, validation images"), strict=True))
    results = {name: Result(run, [], seconds=0.0) for name, run in initial.items()}
    if entries:
        problem = load(table.problem, table.network, table.diffusion)
        metric = problem.metrics.get(problem.metric)
    for name, entry in entries.items():
        result, run = results[name], initial[name]
        before = rows[entry.baseline, ""]
        for settings in entry.grid:
            after = rows[name, json.dumps(settings)]
            gain = paired_gain(*stored.align(before, after), metric)
            rounded = {key: value if key == "images" else round(float(value), 2) for key, value in gain.items()}
            rounded["evaluations"] = round(sum(row.evaluations or 0 for row in after) / len(after), 1)
            result.trials.append({"run": name, "method": run.method, "settings": run.settings | settings} | rounded)
            result.seconds += sum(row.seconds for row in after)
        result.run = best_run(run, result.trials, entry.choose)
    return results


def _validation_job(table: Table, name: str, run: Run, images: int, folder: Path) -> Job:
    seed = table.seeds[0]
    cells = [(shift, table.severity) for shift in table.shifts]
    run = replace(run, split="validation", seed=seed, forgetting_images=0)
    return run, cells, table.image_indices(images, seed), folder / f"{_file_name(name)}-validation.jsonl"


def _test_job(table: Table, name: str, run: Run, seed: int, rows: Path) -> Job:
    cells = [(shift, table.severity) for shift in ("clean", *table.shifts)]
    indices = table.image_indices(table.entries[name].test_images, seed)
    return replace(run, seed=seed), cells, indices, rows / table.name / f"{_file_name(name)}-{seed}.jsonl"


def _file_name(text: str) -> str:
    return "-".join("".join(c if c.isalnum() or c in ".φ" else " " for c in text).split())


def _waves(table: Table) -> Iterator[list[str]]:
    """Yield the runs of a table in groups, each of which needs only those before it."""
    done: set[str] = set()
    while len(done) < len(table.entries):
        wave = [name for name in table.entries if name not in done and set(needs(table, name)) <= done]
        yield wave
        done |= set(wave)


def _with_needs(table: Table, names: Iterable[str]) -> set[str]:
    """Return these runs and all that they need."""
    todo, needed = list(names), set()
    while todo:
        name = todo.pop()
        needed.add(name)
        todo += set(needs(table, name)) - needed
    return needed


def _stored_results(table: Table, out: Path) -> dict[str, tuple[Run, Result]]:
    """Return the runs that are stored as the file describes them: each before and after its choice of settings."""
    if not (out / f"{table.name}.json").is_file():
        return {}
    runs = stored.runs(table.name, out)
    trials = stored.trials(table.name, out) if (out / f"{table.name}-settings.csv").is_file() else []
    size = load(table.problem, table.network, table.diffusion).size("test")
    kept = {}
    for name, entry in table.entries.items():
        if not {name, *needs(table, name)} <= set(runs):
            continue
        run = initial_run(table, name, runs)
        tried = [trial for trial in trials if trial["run"] == name]
        expected = [(run.settings | settings, entry.validation_images * len(table.shifts)) for settings in entry.grid]
        if [(trial["settings"], trial["images"]) for trial in tried] != expected or best_run(
            run, tried, entry.choose
        ) != runs[name]:
            continue
        rows = stored.rows(table.name, name, out)
        if {row.key for row in rows} == expected_keys(table, entry, size):
            kept[name] = run, Result(runs[name], tried, rows)
    return kept


def expected_keys(table: Table, entry: Entry, size: int) -> set[tuple[str, int, int, int]]:
    """Return the keys of an entry's rows in a finished table; `size`: of the problem's test split."""
    keys = set()
    for seed in table.seeds:
        for shift, indices in table.image_indices(entry.test_images, seed).items():
            keys |= {(shift, table.severity, index, seed) for index in indices}
            last = range(size - entry.run.forgetting_images, size)
            for suffix in ("", SHIFTED) if entry.run.retention else ("",):
                keys |= {(AFTER + shift + suffix, table.severity, index, seed) for index in last}
    return keys


@contextmanager
def workforce(workers: int, processes: Processes | None = None, **speed) -> Iterator[Work]:
    """Provide a function that runs jobs in parallel in worker processes of one thread; with 1 worker, in this process.

    Workers live until the end: starting one is slow. With `processes` the jobs run in turn, each shared by all.
    `speed`: `compile` and `together` of ``evaluate``.
    """
    quiet = {"disable": True} if processes and not processes.first else {}  # absent: TQDM_DISABLE decides

    def work(run_all: Callable, jobs: list[Job], title: str) -> list[list[Row]]:
        if not jobs:
            return []
        if processes:
            processes.broadcast(lambda: _archive(jobs))
        else:
            _archive(jobs)
        do = partial(_do, processes=processes, **speed)
        return list(tqdm(run_all(do, jobs), title, len(jobs), unit="run", **quiet))

    if workers <= 1 or processes:
        yield partial(work, map)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start) as pool:
        yield partial(work, pool.map)


def _start() -> None:
    end_with_parent()
    torch.set_num_threads(1)


def _archive(jobs: list[Job]) -> None:
    for run, _, _, path in jobs:
        for moved in journal.archive(path, run):
            log.warning("%s held rows of other settings; they are kept in %s", path, moved)


def _do(job: Job, processes: Processes | None = None, **speed) -> list[Row]:
    try:
        return evaluate(*job, 1, False, processes, **speed)  # 1 worker, no progress bar
    except FloatingPointError as error:  # say which of hundreds of runs it was; finished ones are kept
        raise FloatingPointError(f"{job[-1].stem}: {error}, or take it out of the table") from error


def _store(table: Table, results: Mapping[str, Result], previous: Mapping[str, float], out: Path) -> None:
    """Store a finished table. `previous`: seconds of the runs that were not made again."""
    made = {name: results[name] for name in table.entries}
    stored.save(
        table.name,
        {name: (result.run, result.rows) for name, result in made.items()},
        out,
        [trial for result in made.values() for trial in result.trials],
        about=table.about,
        command=f"dtta evaluate --table {table.name}",
        seeds=table.seeds,
        seconds={
            name: round(previous.get(name, 0.0) if result.seconds is None else result.seconds, 1)
            for name, result in made.items()
        },
        torch=torch.__version__,
        baselines={name: entry.baseline for name, entry in table.entries.items() if entry.run.method != "none"},
    )
    if out == stored.FOLDER:
        defaults.write()
