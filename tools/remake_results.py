"""Run again what the book's stored tables hold (test images, settings from validation).

    python tools/remake_results.py             every problem's table; it goes on where it stopped
    python tools/remake_results.py digits      one problem's: about twenty minutes on two cores

Writes dtta/results/PROBLEM-test.csv (each run's score for each shift and image) and .json (the runs).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from _experiments import EXPERIMENTS, SEVERITY

from dtta import stored
from dtta.evaluate import evaluate


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("problem", nargs="*", default=list(EXPERIMENTS), help=f"of {', '.join(EXPERIMENTS)}")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--rows", type=Path, default=Path("runs/results"), help="where rows are kept while running")
    options.add_argument("--out", type=Path, default=stored.FOLDER)
    options.add_argument("--only", nargs="+", help="some of the runs, to fill the rows only")
    chosen = options.parse_args()
    if unknown := set(chosen.problem) - set(EXPERIMENTS):
        options.error(f"no experiments for {', '.join(sorted(unknown))}; there are those of {', '.join(EXPERIMENTS)}")
    for problem in chosen.problem:
        experiment, found = EXPERIMENTS[problem], {}
        for name, (run, count) in experiment.runs.items():
            if chosen.only and name not in chosen.only:
                continue
            run = replace(run, problem=problem)
            cells = [(shift, SEVERITY) for shift in ("clean", *experiment.shifts)]
            path = chosen.rows / problem / f"{name.replace(', ', '-').replace(' ', '-')}.jsonl"
            workers = 1 if run.method == "none" else chosen.workers
            found[name] = run, evaluate(run, cells, experiment.images(count), path, workers)
        if not chosen.only:
            command = f"python tools/remake_results.py {problem}"
            stored.save(f"{problem}-test", found, chosen.out, command=command, torch=torch.__version__)


if __name__ == "__main__":
    main()
