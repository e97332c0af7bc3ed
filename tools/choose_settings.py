"""Choose a problem's settings on validation images, and write down what was tried.

    python tools/choose_settings.py digits     dtta/results/digits-settings.csv, half an hour on two cores

Every row is one setting of tools/_experiments.py: its mean gain over all shift families at severity 3, in the
problem's main metric, with its 95% paired bootstrap interval. The best mean gain is taken; test images are
never seen here.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path

from _experiments import EXPERIMENTS, SEVERITY

from dtta import stored
from dtta.evaluate import Run, evaluate, paired_gain
from dtta.problems import load


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("problem", nargs="?", default="digits", choices=EXPERIMENTS)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--rows", type=Path, default=Path("runs/settings"), help="where single rows are kept")
    options.add_argument("--out", type=Path, default=stored.FOLDER)
    chosen = options.parse_args()
    experiment, problem = EXPERIMENTS[chosen.problem], load(chosen.problem)
    metric = problem.metrics.get(problem.metric)
    cells, images = [(shift, SEVERITY) for shift in experiment.shifts], experiment.images(experiment.tried)
    found, before = [], {}
    for run, grid in experiment.grid:
        run = replace(run, problem=chosen.problem, split="validation")
        if run.network not in before:
            none = Run("none", chosen.problem, run.network, split="validation")
            before[run.network] = evaluate(none, cells, images, progress=False)
        for settings in grid:
            name = "-".join(
                str(part) for part in (run.network, run.diffusion, run.method, *settings.values()) if part is not None
            )
            path = chosen.rows / chosen.problem / f"{name}.jsonl"
            rows = evaluate(replace(run, settings=settings), cells, images, path, chosen.workers)
            gain = paired_gain(before[run.network], rows, metric)
            told = {k: round(float(v), 2) for k, v in gain.items()} | {"images": len(rows)}
            about = dict(network=run.network, diffusion=run.diffusion, method=run.method, settings=json.dumps(settings))
            found.append(about | told)
            print(found[-1], flush=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    with (chosen.out / f"{chosen.problem}-settings.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(found)


if __name__ == "__main__":
    main()
