"""How long `make results` takes on free cores: writes "seconds" of dtta/results/*.json, from which that command tells.

    python tools/time_results.py          with nothing else at work: five minutes
    python tools/time_results.py loss     one table

Every run of every table, and every setting of its grid, sees a few images under two shifts, on one core, as in `make
results`; times the images that it has there. What a table's rows took when they were made says less: other work ran
beside them.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import torch
from tqdm.auto import tqdm

from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import Run
from dtta.experiments import spec as experiments
from dtta.experiments import stored


def jobs(name: str) -> list[tuple[str, str, Run, int]]:
    """A table, a run of it, that run with some settings on images apart, and how many `make results` gives to it."""
    table, runs, found = experiments.read(name), stored.runs(name), []
    for run, entry in table.entries.items():
        first = replace(experiments.start(table, run, runs), forgetting_images=0, stream="apart")
        tested = entry.images * (1 + len(table.shifts)) * len(table.seeds)
        found.append((name, run, replace(first, settings=runs[run].settings), tested))
        for own in entry.grid:
            tried = replace(first, settings=first.settings | own)
            found.append((name, run, tried, entry.tried * len(table.shifts)))
    return found


def seconds(job: tuple[str, str, Run, int]) -> float:
    """Of all images of a job, by the time of a few after the first batch, in which a process is still warming up."""
    *_, run, count = job
    rows = evaluate(run, [("contrast", 3), ("gaussian_noise", 3)], range(max(run.batch, 2)), progress=False)
    return count * sum(row.seconds for row in rows[run.batch :]) / len(rows[run.batch :])


def main(names: list[str]) -> None:
    names = names or list(experiments.names())
    todo = [job for name in names for job in jobs(name)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, torch.set_num_threads, (1,)) as pool:
        found = list(tqdm(pool.map(seconds, todo), "settings", len(todo)))
    total: dict[str, dict[str, float]] = {name: {} for name in names}
    for (name, run, *_), spent in zip(todo, found, strict=True):
        total[name][run] = total[name].get(run, 0) + spent
    for name, spent in total.items():
        path = stored.FOLDER / f"{name}.json"
        told = {"seconds": {run: round(each, 1) for run, each in spent.items()}}
        path.write_text(json.dumps(json.loads(path.read_text()) | told, indent=2) + "\n")
        print(f"{name:26} {sum(spent.values()) / 120:5.1f} minutes with two at work")
    print(f"{'all':26} {sum(sum(stored.seconds(name).values()) for name in experiments.names()) / 120:5.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
