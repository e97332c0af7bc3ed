"""What is tried and what is reported: for each problem a grid of settings and the runs of a stored table.

``tools/choose_settings.py`` goes through the grid on validation images; ``tools/remake_results.py`` makes the
table on test images. Both at severity 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dtta.evaluate import Run, spread
from dtta.problems import digits
from dtta.problems.scenes import clip, depth, segmentation
from dtta.problems.scenes.shifts import SHIFTS as SCENE_SHIFTS
from dtta.problems.shifts import SHIFTS

SEVERITY = 3


@dataclass(frozen=True)
class Experiment:
    """One problem's tables.

    Args:
        shifts: the shift families.
        grid: (the run without settings, the settings to try), on validation images.
        tried: validation images for each shift.
        runs: name -> (run, test images for each shift).
        total: how many different images all shifts together take theirs from; 0: all take the first ones.
    """

    shifts: tuple[str, ...]
    grid: tuple[tuple[Run, list[dict]], ...]
    tried: int
    runs: dict[str, tuple[Run, int]]
    total: int = 0

    def images(self, count: int) -> dict[str, list[int]]:
        """The numbers of each shift's images, clean ones included."""
        shifts = ("clean", *self.shifts)
        return spread(shifts, count, self.total) if self.total else {s: list(range(count)) for s in shifts}


# --- digits -------------------------------------------------------------------------------------------

_ranges = ((0.0, 1.0), (0.25, 0.75), (0.4, 0.8))
_common = dict(steps=5, samples=24, timesteps="stratified", optimizer="sgd")
_middle = dict(_common, low=0.25, high=0.75)
_late = dict(_common, lr=0.02, low=0.4, high=0.8)
_chosen = digits.SETTINGS["diffusion-tta"]
_everywhere = {**_chosen, "low": 0.0, "high": 1.0}
_tta = Run("diffusion-tta", settings=_chosen)

DIGITS = Experiment(
    shifts=tuple(SHIFTS),
    tried=24,
    grid=(
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
    ),
    runs={
        "none": (Run("none"), 60),
        "diffusion-tta": (_tta, 60),
        "diffusion-classifier": (
            Run("diffusion-classifier", settings=digits.SETTINGS["diffusion-classifier"]),
            60,
        ),
        "ensemble": (Run("ensemble", settings=digits.SETTINGS["ensemble"]), 40),
        "logits": (Run("logits", settings=digits.SETTINGS["logits"]), 40),
        "diffusion-tta, all timesteps": (replace(_tta, settings=_everywhere), 24),
        "diffusion-tta, dit": (replace(_tta, diffusion="dit"), 24),
        "diffusion-tta, dit, all timesteps": (replace(_tta, diffusion="dit", settings=_everywhere), 24),
        "diffusion-tta, unet-hard": (replace(_tta, diffusion="unet-hard"), 24),
        "diffusion-tta, dit-hard": (replace(_tta, diffusion="dit-hard"), 24),
        "none, vit": (Run("none", network="vit"), 24),
        "diffusion-tta, vit": (replace(_tta, network="vit"), 24),
    },
)

# --- scenes -------------------------------------------------------------------------------------------

_dense = dict(steps=5, samples=12, timesteps="stratified")
_optimizers = [dict(optimizer="adam", lr=lr) for lr in (3e-5, 1e-4, 3e-4)]
_optimizers += [dict(optimizer="sgd", lr=lr) for lr in (0.01, 0.03)]


def _scenes(
    settings: dict[str, dict],
    baselines: dict[str, list[dict]],
    joint: dict,
    online: dict,
    sgd: dict,
    others: dict[str, tuple[Run, int]] | None = None,
) -> Experiment:
    """What segmentation and depth share. 240 different scenes: twelve for each of nineteen shifts and for clean ones.

    Args:
        settings: the problem's, chosen by the grid.
        baselines: method -> its grid.
        joint, online, sgd: what adapting φ, carrying θ along, and plain gradient descent change in the settings,
            chosen by the grid too.
        others: further runs.
    """
    chosen = settings["diffusion-tta"]
    tta = Run("diffusion-tta", settings=chosen)
    frozen = [dict(_dense, low=low, high=high, **o) for low, high in ((0.1, 0.6), (0.3, 0.8)) for o in _optimizers]
    frozen.append(dict(_dense, low=0.5, high=1.0, **_optimizers[1]))  # later still
    with_phi = [dict(chosen, adapt_diffusion=True, lr_diffusion=lr) for lr in (1e-5, 1e-4)]
    streams = [dict(chosen, episodic=False, lr=lr) for lr in (1e-5, 3e-5, 1e-4)]
    return Experiment(
        shifts=tuple(SCENE_SHIFTS),
        tried=6,
        total=240,
        grid=(
            (Run("diffusion-tta"), frozen),
            *((Run(method), grid) for method, grid in baselines.items()),
            (Run("diffusion-tta"), with_phi + streams),
        ),
        runs={
            "none": (Run("none"), 24),
            "diffusion-tta": (tta, 24),
            **{method: (Run(method, settings=settings[method]), 24) for method in baselines},
            "diffusion-tta, online": (replace(tta, settings={**chosen, "episodic": False, **online}), 24),
            "diffusion-tta, φ adapted": (replace(tta, settings={**chosen, "adapt_diffusion": True, **joint}), 12),
            "diffusion-tta, sgd": (replace(tta, settings={**chosen, "optimizer": "sgd", **sgd}), 12),
            "diffusion-tta, all timesteps": (replace(tta, settings={**chosen, "low": 0.0, "high": 1.0}), 12),
            **(others or {}),
        },
    )


SEGMENTATION = _scenes(
    segmentation.SETTINGS,
    baselines={
        "tent": [dict(lr=lr, steps=steps) for lr in (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1) for steps in (1, 5)],
        "augmentation": [dict(scales=scales) for scales in ([1.0], [0.75, 1.0, 1.25])],
    },
    joint=dict(lr_diffusion=1e-5),
    online=dict(lr=3e-5),
    sgd=dict(lr=0.01),
)
DEPTH = _scenes(
    depth.SETTINGS,
    baselines={
        "augmentation": [{}],
        "consistency": [dict(lr=lr, jitter=jitter) for lr in (1e-5, 1e-4, 1e-3) for jitter in (0.2, 0.5)],
    },
    joint=dict(lr_diffusion=1e-5),
    online=dict(lr=1e-4),
    sgd=dict(lr=0.03),
    others={
        "none, glpn": (Run("none", network="glpn"), 12),
        "diffusion-tta, glpn": (Run("diffusion-tta", network="glpn", settings=depth.SETTINGS["diffusion-tta"]), 12),
    },
)

# --- open vocabulary ----------------------------------------------------------------------------------

_text = dict(steps=5, samples=12, timesteps="stratified", part="lora", rank=4)
_chosen = clip.SETTINGS["diffusion-tta"]
_middle_t, _late_t = dict(low=0.2, high=0.8), dict(low=0.4, high=1.0)
_rates = {
    "all": [0.3, 1.0, 3.0],
    "norm": [3.0, 30.0, 100.0, 300.0],
    "head": [3.0, 30.0, 100.0, 300.0],
    "prompt": [1.0, 10.0, 30.0, 100.0],
}  # to try, by SGD
# What other weights need: the best of the grid, which a test holds in step.
_moving = {
    "all": dict(part="all", lr=0.3),
    "norm": dict(part="norm", lr=100.0),
    "head": dict(part="head", lr=100.0),
    "prompt": dict(part="prompt", lr=1.0),
    "φ by LoRA": dict(adapt_diffusion="lora", lr_diffusion=1.0),
}
_staged = dict(clip.SETTINGS["diffusion-classifier"], samples=[4, 12], keep=5)
_numbers = (5, 10, 50)  # of names, besides the usual one


def _clip_run(method: str, settings: dict | None = None, classes: int | None = None) -> Run:
    return Run(method, settings=clip.SETTINGS[method] if settings is None else settings, classes=classes)


OPEN = Experiment(
    shifts=tuple(SCENE_SHIFTS),
    tried=6,
    total=240,
    grid=(
        (
            Run("diffusion-tta"),
            [
                *(
                    dict(_text, low=low, high=high, optimizer="sgd", lr=100.0)
                    for low, high in ((0.2, 0.8), (0.0, 1.0), (0.4, 1.0))
                ),
                dict(_text, **_middle_t, optimizer="sgd", lr=300.0),
                *(dict(_text, **_middle_t, optimizer="sgd", lr=lr, temperature=3.0) for lr in (100.0, 300.0)),
                dict(_text, **_late_t, optimizer="sgd", lr=100.0, temperature=3.0),
                *(dict(_text, **_late_t, optimizer="sgd", lr=300.0, temperature=T) for T in (1.0, 3.0)),
                dict(_text, **_late_t, optimizer="sgd", lr=1000.0),
                *(dict(_text, low=0.4, high=0.8, optimizer="sgd", lr=lr) for lr in (100.0, 300.0, 1000.0)),
                dict(_text, low=0.4, high=0.8, optimizer="sgd", lr=300.0, temperature=3.0),
                *(
                    dict(_text, **_middle_t, optimizer="sgd", lr=lr, temperature=T)
                    for lr, T in ((300.0, 10.0), (1000.0, 30.0))
                ),
                *(dict(_text, **_middle_t, samples=36, optimizer="sgd", lr=lr) for lr in (100.0, 300.0)),
                *(dict(_text, **_middle_t, optimizer="adam", lr=0.01, temperature=T) for T in (1.0, 3.0)),
                {**_chosen, "rank": 16},
            ],
        ),
        (
            Run("diffusion-tta"),
            [{**_chosen, "part": part, "lr": lr} for part, rates in _rates.items() for lr in rates],
        ),
        (
            Run("diffusion-tta"),
            [{**_chosen, "adapt_diffusion": "lora", "lr_diffusion": lr} for lr in (1.0, 100.0, 1000.0)],
        ),
        (Run("tent"), [dict(part="lora", lr=lr, steps=steps) for lr in (1e-3, 1e-2, 1e-1) for steps in (1, 5)]),
        (
            Run("tpt"),
            [dict(views=32, lr=lr, steps=1, keep=keep) for lr in (5e-3, 5e-2) for keep in (0.1, 0.5)],
        ),
        (
            Run("diffusion-classifier"),
            [dict(samples=12, **span) for span in (_middle_t, dict(low=0.0, high=1.0), dict(low=0.4, high=0.8))],
        ),
        (
            Run("ensemble"),
            [
                dict(samples=12, **span, temperature=T)
                for span in (_middle_t, dict(low=0.4, high=0.8))
                for T in (1.0, 0.3)
            ],
        ),
    ),
    runs={
        "none": (Run("none"), 24),
        **{method: (_clip_run(method), 24) for method in ("diffusion-tta", "tent", "tpt")},
        "diffusion-classifier": (_clip_run("diffusion-classifier"), 12),
        "ensemble": (_clip_run("ensemble"), 12),
        "diffusion-classifier, staged": (_clip_run("diffusion-classifier", _staged), 12),
        **{f"diffusion-tta, {name}": (_clip_run("diffusion-tta", _chosen | s), 12) for name, s in _moving.items()},
        **{f"none, {L} names": (_clip_run("none", {}, L), 12) for L in _numbers},
        **{f"diffusion-tta, {L} names": (_clip_run("diffusion-tta", None, L), 12) for L in _numbers},
    },
)

EXPERIMENTS = {
    "digits": DIGITS,
    "scenes-segmentation": SEGMENTATION,
    "scenes-depth": DEPTH,
    "scenes-clip": OPEN,
}
