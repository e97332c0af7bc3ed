"""Choose the digits' settings on validation images, and write down what was tried.

    python tools/choose_settings.py     dtta/results/digits-settings.csv, half an hour on two cores

Every row is one setting of tools/_experiments.py: its mean gain over all shift families at severity 3, with its 95%
paired bootstrap interval. The best mean gain is taken; test images are never seen here.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path

from _experiments import CELLS, GRID, TRIED

from dtta import stored
from dtta.evaluate import Run, evaluate, paired_gain


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--rows", type=Path, default=Path("runs/settings/digits"), help="where single rows are kept")
    options.add_argument("--out", type=Path, default=stored.FOLDER)
    chosen = options.parse_args()
    before = evaluate(Run("none", split="validation"), CELLS, range(TRIED), progress=False)
    found = []
    for run, grid in GRID:
        for settings in grid:
            name = "-".join(str(part) for part in (run.diffusion, run.method, *settings.values()))
            tried = replace(run, settings=settings, split="validation")
            rows = evaluate(tried, CELLS, range(TRIED), chosen.rows / f"{name}.jsonl", chosen.workers)
            gain = {k: round(float(v), 2) for k, v in paired_gain(before, rows).items()} | {"images": len(rows)}
            found.append(dict(diffusion=run.diffusion, method=run.method, settings=json.dumps(settings)) | gain)
            print(found[-1], flush=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    with (chosen.out / "digits-settings.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(found)


if __name__ == "__main__":
    main()
