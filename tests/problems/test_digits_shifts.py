"""Shifts that only the digits have: rotation and shear, by the stated angles to both sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dtta.problems.corruptions import SEVERITIES
from dtta.problems.digits.shifts import SHIFTS

Y, X = torch.meshgrid(torch.arange(41) - 20.0, torch.arange(41) - 20.0, indexing="ij")


def both_sides(name: str, image: torch.Tensor, severity: int) -> list[torch.Tensor]:
    return [SHIFTS[name](image, severity, torch.Generator().manual_seed(seed))[0] for seed in range(12)]


@pytest.mark.parametrize(("severity", "degrees"), list(zip(SEVERITIES, (12, 20, 28, 38, 50), strict=True)))
def test_rotation_turns_by_the_stated_angle(severity, degrees):
    spoke = (torch.exp(-(Y**2) / 8) * (X > 5) * (X < 15)).unsqueeze(0)  # points to the right
    turned = both_sides("rotation", spoke, severity)
    angles = [np.degrees(np.arctan2(-(t * Y).sum().item(), (t * X).sum().item())) for t in turned]
    assert np.abs(angles) == pytest.approx([degrees] * 12, abs=1.5)
    assert set(np.sign(angles)) == {-1, 1}


@pytest.mark.parametrize(("severity", "degrees"), list(zip(SEVERITIES, (12, 22, 30, 38, 46), strict=True)))
def test_shear_slants_by_the_stated_angle(severity, degrees):
    pole = torch.exp(-(X**2) / 8).unsqueeze(0)
    rows = slice(14, 27)  # the middle, where nothing has left the image
    centres = [((s * X).sum(1) / s.sum(1))[rows].numpy() for s in both_sides("shear", pole, severity)]
    slopes = [np.polyfit(Y[rows, 0].numpy(), c, 1)[0] for c in centres]
    assert np.abs(slopes) == pytest.approx([np.tan(np.radians(degrees))] * 12, rel=0.05)
    assert set(np.sign(slopes)) == {-1, 1}
