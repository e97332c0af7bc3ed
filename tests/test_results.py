"""What is stored: settings that are the best of those tried, runs that used them, scores that a run gives again."""

from __future__ import annotations

import pytest

import dtta
from dtta import stored
from dtta.evaluate import evaluate
from dtta.problems import module

PROBLEMS = ("digits", "scenes-segmentation", "scenes-depth", "scenes-clip")
SCENES = PROBLEMS[1:]
VARIANTS = {"adapt_diffusion", "episodic"}  # tried for themselves, not for a problem's settings


def best(problem, method, **fixed):
    """The settings of the best gain on validation images, of those that hold what is fixed."""
    fixed = {"part": "lora"} | fixed if (problem, method) == ("scenes-clip", "diffusion-tta") else fixed
    own = [r for r in stored.tried(problem) if r["method"] == method and r.get("diffusion", "") in ("", "unet")]
    own = [r for r in own if fixed.items() <= r["settings"].items()]
    own = [r for r in own if VARIANTS & set(r["settings"]) <= set(fixed)]
    assert len(own) > 1 or method == "augmentation"
    return max(own, key=lambda row: row["gain"])["settings"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_settings_are_the_best_of_the_validation_table(problem):
    for method, settings in module(problem).SETTINGS.items():
        assert best(problem, method) == settings


@pytest.mark.parametrize("problem", PROBLEMS)
def test_stored_runs_used_the_settings(problem):
    for name, run in stored.names(f"{problem}-test").items():
        if name in module(problem).SETTINGS:
            assert run.settings == module(problem).SETTINGS[name]


VALIDATED = {
    **{(p, "diffusion-tta, φ adapted"): dict(adapt_diffusion=True) for p in ("scenes-segmentation", "scenes-depth")},
    **{(p, "diffusion-tta, sgd"): dict(optimizer="sgd") for p in ("scenes-segmentation", "scenes-depth")},
    **{(p, "diffusion-tta, online"): dict(episodic=False) for p in ("scenes-segmentation", "scenes-depth")},
    **{("scenes-clip", f"diffusion-tta, {part}"): dict(part=part) for part in ("all", "norm", "head", "prompt")},
    ("scenes-clip", "diffusion-tta, φ by LoRA"): dict(adapt_diffusion="lora"),
}


@pytest.mark.parametrize(("problem", "name"), VALIDATED)
def test_variants_have_their_own_best_settings(problem, name):
    assert stored.names(f"{problem}-test")[name].settings == best(problem, "diffusion-tta", **VALIDATED[problem, name])


@pytest.mark.parametrize("problem", SCENES)
@pytest.mark.parametrize("name", ["none", "diffusion-tta"])
def test_stored_scores_are_what_a_run_gives(problem, name):
    """On two images of four shifts; another processor may round otherwise."""
    kept = {(r.shift, r.index): r for r in stored.rows(f"{problem}-test", name)}
    images = {
        s: [i for shift, i in kept if shift == s][:2] for s in ("clean", "contrast", "depth_fog", "gaussian_noise")
    }
    run = stored.names(f"{problem}-test")[name]
    fresh = evaluate(run, [(shift, 3) for shift in images], images, progress=False)
    assert len(fresh) == 8
    assert sum(abs(kept[r.shift, r.index].score - r.score) < 0.02 for r in fresh) >= 7
    for row in fresh:
        assert row.sums.keys() == kept[row.shift, row.index].sums.keys()


@pytest.mark.parametrize("problem", SCENES)
def test_the_bar_at_least_200_images_under_every_shift(problem):
    rows = stored.rows(f"{problem}-test", "diffusion-tta")
    assert len({r.index for r in rows}) >= 200
    assert {r.shift for r in rows} == {"clean", *dtta.load(problem).shifts}


@pytest.mark.parametrize("problem", ["scenes-segmentation", "scenes-depth"])
def test_the_bar_diffusion_tta_gains_on_shifted_scenes(problem):
    loaded = dtta.load(problem)
    gain = stored.gain(f"{problem}-test", "diffusion-tta", set(loaded.shifts), metric=loaded.metrics[loaded.metric])
    assert gain["low"] > 0
