"""Run again what the book's stored tables hold (test images, settings from validation).

    python tools/remake_results.py             about twenty minutes on two cores; goes on where it stopped

Writes dtta/results/digits-test.csv (a score for each run, shift and image) and .json (the runs).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from dtta import stored
from dtta.evaluate import Run, evaluate
from dtta.problems.digits import SETTINGS
from dtta.problems.shifts import SHIFTS

SEVERITY = 3
EVERYWHERE = {**SETTINGS["diffusion-tta"], "low": 0.0, "high": 1.0}

# name: (run, test images for each shift)
RUNS: dict[str, tuple[Run, int]] = {
    "none": (Run("none"), 60),
    "diffusion-tta": (Run("diffusion-tta", settings=SETTINGS["diffusion-tta"]), 60),
    "diffusion-classifier": (Run("diffusion-classifier", settings=SETTINGS["diffusion-classifier"]), 60),
    "ensemble": (Run("ensemble", settings=SETTINGS["ensemble"]), 40),
    "logits": (Run("logits", settings=SETTINGS["logits"]), 40),
    "diffusion-tta, all timesteps": (Run("diffusion-tta", settings=EVERYWHERE), 24),
    "diffusion-tta, dit": (Run("diffusion-tta", diffusion="dit", settings=SETTINGS["diffusion-tta"]), 24),
    "diffusion-tta, dit, all timesteps": (Run("diffusion-tta", diffusion="dit", settings=EVERYWHERE), 24),
    "diffusion-tta, unet-hard": (Run("diffusion-tta", diffusion="unet-hard", settings=SETTINGS["diffusion-tta"]), 24),
    "diffusion-tta, dit-hard": (Run("diffusion-tta", diffusion="dit-hard", settings=SETTINGS["diffusion-tta"]), 24),
    "none, vit": (Run("none", network="vit"), 24),
    "diffusion-tta, vit": (Run("diffusion-tta", network="vit", settings=SETTINGS["diffusion-tta"]), 24),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--rows", type=Path, default=Path("runs/results"), help="where rows are kept while running")
    options.add_argument("--out", type=Path, default=stored.FOLDER)
    options.add_argument("--only", nargs="+", default=list(RUNS), help="some of the runs, to fill the rows only")
    chosen = options.parse_args()
    found = {}
    for name in chosen.only:
        run, images = RUNS[name]
        cells = [(shift, SEVERITY) for shift in ("clean", *SHIFTS)]
        path = chosen.rows / f"{name.replace(', ', '-').replace(' ', '-')}.jsonl"
        found[name] = run, evaluate(run, cells, range(images), path, 1 if run.method == "none" else chosen.workers)
    if set(chosen.only) == set(RUNS):
        stored.save("digits-test", found, chosen.out, command="python tools/remake_results.py", torch=torch.__version__)


if __name__ == "__main__":
    main()
