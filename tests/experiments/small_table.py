"""A small experiment file, and problems of tiny random models for it, named by import string."""

from __future__ import annotations

from dataclasses import replace

import tiny

SHIFTS = ["fog", "contrast"]
TEXT = """
about = "A table to try things out"
problem = "small_table:problem"
shifts = ["fog", "contrast"]
test_images = 3
validation_images = 2
seeds = [0, 4]

[runs.none]

[runs.diffusion-tta]
settings = { samples = 2, steps = 1 }
grid = { lr = [0.01, 1.0], t_min = [0.0, 0.5] }

[runs."few images"]
extends = "diffusion-tta"
test_images = 2
settings = { steps = 2 }

[runs."tent, two at once"]
method = "tent"
batch = 2
settings = { lr = 0.1 }
"""
scored = []  # the labels of all images that were scored
loaded = []  # network and diffusion model of each problem that was loaded


def problem(network=None, diffusion=None):
    """A problem whose score is the true class's probability."""
    loaded.append((network, diffusion))
    return replace(tiny.problem(settings={"tent": {"steps": 2}}), score=_probability)


def without_validation(network=None, diffusion=None):
    whole = problem(network, diffusion)
    return replace(whole, sizes={"test": whole.sizes["test"]})


def _probability(output, label):
    scored.append(int(label))
    return output.softmax(1)[0, label].item()
