"""Choose the settings of the digits problem on validation images, and write down what was tried.

    python tools/choose_settings.py            dtta/results/digits-settings.csv, half an hour on two cores

Every row is one setting: its mean gain over all shift families at severity 3, on the first validation
images, with its 95% paired bootstrap interval. The best mean gain is taken; test images are never seen here.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from dtta.evaluate import Run, evaluate, paired_gain
from dtta.problems.shifts import SHIFTS

RANGES = ((0.0, 1.0), (0.25, 0.75), (0.4, 0.8))
COMMON = dict(steps=5, samples=24, timesteps="stratified")
GRIDS: dict[str, dict[str, list[dict]]] = {
    "unet": {
        "diffusion-tta": [
            dict(COMMON, optimizer="sgd", lr=lr, low=low, high=high) for low, high in RANGES for lr in (0.005, 0.02)
        ],
        "logits": [dict(COMMON, optimizer="sgd", lr=lr, low=0.25, high=0.75) for lr in (0.3, 1.0, 10.0, 30.0)],
        "diffusion-classifier": [dict(samples=24, low=low, high=high) for low, high in RANGES[:2]],
        "ensemble": [dict(samples=24, low=0.25, high=0.75, temperature=t) for t in (0.1, 0.3, 1.0)],
    }
}
# For the DiT, what might make it robust: a later range of timesteps, and adapting φ too.
_DIT = dict(COMMON, optimizer="sgd", lr=0.02)
GRIDS["dit"] = {
    "diffusion-tta": [
        dict(_DIT, low=0.25, high=0.75),
        dict(_DIT, low=0.4, high=0.8),
        dict(_DIT, low=0.4, high=0.8, adapt_diffusion=True, lr_diffusion=0.001),
        dict(_DIT, low=0.4, high=0.8, adapt_diffusion=True, lr_diffusion=0.01),
    ]
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=24, help="validation images a shift (default: 24)")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--diffusion", nargs="+", default=list(GRIDS))
    options.add_argument("--rows", type=Path, default=Path("runs/settings"), help="where single rows are kept")
    options.add_argument("--out", type=Path, default=Path("dtta/results/digits-settings.csv"))
    chosen = options.parse_args()
    cells = [(shift, 3) for shift in SHIFTS]
    images = range(chosen.images)
    before = evaluate(Run("none", split="validation"), cells, images, progress=False)
    found = []
    for diffusion in chosen.diffusion:
        for method, grid in GRIDS[diffusion].items():
            for i, settings in enumerate(grid):
                run = Run(method, diffusion=diffusion, settings=settings, split="validation")
                rows = evaluate(run, cells, images, chosen.rows / f"{diffusion}-{method}-{i}.jsonl", chosen.workers)
                gain = {k: round(float(v), 2) for k, v in paired_gain(before, rows).items()} | {"images": len(rows)}
                found.append(dict(diffusion=diffusion, method=method, settings=json.dumps(settings), **gain))
                print(found[-1], flush=True)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    with chosen.out.open("w", newline="") as file:
        table = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(found)


if __name__ == "__main__":
    main()
