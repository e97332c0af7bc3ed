"""How long `make results` takes on free cores: writes "seconds" of dtta/results/*.json, from which that command tells.

    python tools/time_results.py          with nothing else at work: a few minutes

Every run of every table sees a few images under two shifts, on one core, as in `make results`; times the images that
it has, those of its grid among them. What a table's rows took when they were made says less: other work ran beside
them.
"""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import torch
from tqdm.auto import tqdm

from dtta import experiments, stored
from dtta.evaluate import evaluate
from dtta.rows import Run


def jobs(name: str) -> list[tuple[str, Run, int]]:
    """For each run of a table: the table, a run of images apart, and how many images `make results` gives to it."""
    table, runs, found = experiments.read(name), stored.names(name), []
    for run, entry in table.entries.items():
        tested = entry.images * (1 + len(table.shifts)) * len(table.seeds)
        tried = len(entry.grid) * table.tried * len(table.shifts)
        found.append((name, replace(runs[run], recalled=0, stream="apart"), tested + tried))
    return found


def seconds(job: tuple[str, Run, int]) -> float:
    """Of all images of a job, by the time of a few."""
    _, run, count = job
    rows = evaluate(run, [("contrast", 3), ("gaussian_noise", 3)], range(max(run.batch, 2)), progress=False)
    return count * sum(row.seconds for row in rows) / len(rows)


def main() -> None:
    todo = [job for name in experiments.names() for job in jobs(name)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, torch.set_num_threads, (1,)) as pool:
        found = list(tqdm(pool.map(seconds, todo), "runs", len(todo)))
    total = dict.fromkeys(experiments.names(), 0.0)
    for (name, _, _), spent in zip(todo, found, strict=True):
        total[name] += spent
    for name, spent in total.items():
        path = stored.FOLDER / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": round(spent, 1)}, indent=2) + "\n")
        print(f"{name:26} {spent / 120:5.1f} minutes with two at work")
    print(f"{'all':26} {sum(total.values()) / 120:5.1f}")


if __name__ == "__main__":
    main()
