"""Run again what the digits' stored table holds (test images, settings from validation); it goes on where it stopped.

    python tools/remake_results.py     about twenty minutes on two cores

Writes dtta/results/digits-test.csv (each run's score for each shift and image) and .json (the runs).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _experiments import CELLS, RUNS

from dtta import stored
from dtta.evaluate import evaluate


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--rows", type=Path, default=Path("runs/results/digits"), help="where rows are kept")
    options.add_argument("--out", type=Path, default=stored.FOLDER)
    chosen = options.parse_args()
    found = {}
    for name, (run, count) in RUNS.items():
        path = chosen.rows / f"{name.replace(', ', '-').replace(' ', '-')}.jsonl"
        workers = 1 if run.method == "none" else chosen.workers
        found[name] = run, evaluate(run, [("clean", 3), *CELLS], range(count), path, workers)
    stored.save("digits-test", found, chosen.out, command="python tools/remake_results.py", torch=torch.__version__)


if __name__ == "__main__":
    main()
