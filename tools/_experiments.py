"""What is tried and what is reported for the digits: a grid of settings and the runs of a stored table.

``tools/choose_settings.py`` goes through the grid on validation images; ``tools/remake_results.py`` makes the
table on test images. Both at severity 3, on the first images of the split. All other tables are files, in experiments/.
"""

from __future__ import annotations

from dataclasses import replace

from dtta.evaluate import Run
from dtta.problems.digits import SETTINGS
from dtta.problems.shifts import SHIFTS

CELLS = [(shift, 3) for shift in SHIFTS]
TRIED = 24  # validation images of each shift

_ranges = ((0.0, 1.0), (0.25, 0.75), (0.4, 0.8))
_common = dict(steps=5, samples=24, timesteps="stratified", optimizer="sgd")
_middle = dict(_common, low=0.25, high=0.75)
_late = dict(_common, lr=0.02, low=0.4, high=0.8)
_chosen = SETTINGS["diffusion-tta"]
_everywhere = {**_chosen, "low": 0.0, "high": 1.0}
_tta = Run("diffusion-tta", settings=_chosen)

# (the run without settings, the settings to try)
GRID: list[tuple[Run, list[dict]]] = [
    (
        Run("diffusion-tta", diffusion="unet"),
        [dict(_common, lr=lr, low=low, high=high) for low, high in _ranges for lr in (0.005, 0.02)],
    ),
    (Run("logits", diffusion="unet"), [dict(_middle, lr=lr) for lr in (0.3, 1.0, 10.0, 30.0)]),
    (
        Run("diffusion-classifier", diffusion="unet"),
        [dict(samples=24, low=low, high=high) for low, high in _ranges[:2]],
    ),
    (
        Run("ensemble", diffusion="unet"),
        [dict(samples=24, low=0.25, high=0.75, temperature=t) for t in (0.1, 0.3, 1.0)],
    ),
    # For the DiT, what might make it robust: a later range of timesteps, and adapting φ too.
    (
        Run("diffusion-tta", diffusion="dit"),
        [
            dict(_middle, lr=0.02),
            _late,
            dict(_late, adapt_diffusion=True, lr_diffusion=0.001),
            dict(_late, adapt_diffusion=True, lr_diffusion=0.01),
        ],
    ),
]

# name -> (run, test images of each shift)
RUNS: dict[str, tuple[Run, int]] = {
    "none": (Run("none"), 60),
    "diffusion-tta": (_tta, 60),
    "diffusion-classifier": (Run("diffusion-classifier", settings=SETTINGS["diffusion-classifier"]), 60),
    "ensemble": (Run("ensemble", settings=SETTINGS["ensemble"]), 40),
    "logits": (Run("logits", settings=SETTINGS["logits"]), 40),
    "diffusion-tta, all timesteps": (replace(_tta, settings=_everywhere), 24),
    "diffusion-tta, dit": (replace(_tta, diffusion="dit"), 24),
    "diffusion-tta, dit, all timesteps": (replace(_tta, diffusion="dit", settings=_everywhere), 24),
    "diffusion-tta, unet-hard": (replace(_tta, diffusion="unet-hard"), 24),
    "diffusion-tta, dit-hard": (replace(_tta, diffusion="dit-hard"), 24),
    "none, vit": (Run("none", network="vit"), 24),
    "diffusion-tta, vit": (replace(_tta, network="vit"), 24),
}
