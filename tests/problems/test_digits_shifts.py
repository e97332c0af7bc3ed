"""The shifts: deterministic, in range, stronger with severity, and what their names say."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from sklearn.datasets import load_digits

from dtta.problems.corruptions import SEVERITIES, apply_shift
from dtta.problems.digits.shifts import SHIFTS

DIGITS = torch.from_numpy(load_digits().images[:200]).float().unsqueeze(1) / 16
FAMILIES = {
    "gaussian_noise", "shot_noise", "impulse_noise", "blur", "contrast", "brightness",
    "fog", "pixelate", "jpeg", "rotation", "shear", "erasing",
}  # fmt: skip


def test_the_families_are_there():
    assert set(SHIFTS) == FAMILIES
    assert SEVERITIES == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("name", SHIFTS)
def test_shape_type_and_range(name):
    for severity in SEVERITIES:
        for index, image in enumerate([*DIGITS[:5], torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]):
            shifted = apply_shift(image, name, severity, 0, index, SHIFTS)
            assert shifted.shape == image.shape
            assert shifted.dtype == torch.float32
            assert shifted.isfinite().all()
            assert shifted.min() >= 0
            assert shifted.max() <= 1


@pytest.mark.parametrize("name", SHIFTS)
def test_seed_and_index_decide_and_order_does_not(name):
    def run(order, seed=0):
        return {i: apply_shift(DIGITS[i], name, 4, seed, i, SHIFTS) for i in order}

    torch.manual_seed(1)
    forth = run(range(12))
    state = torch.get_rng_state()
    back = run(reversed(range(12)))
    assert torch.equal(torch.get_rng_state(), state)  # the global state is left alone
    assert all(torch.equal(forth[i], back[i]) for i in forth)
    original = DIGITS[:12].clone()
    run(range(12))
    assert torch.equal(DIGITS[:12], original)  # and so is the image
    if name not in {"blur", "contrast", "brightness", "pixelate", "jpeg"}:  # those know no chance
        other = run(range(12), seed=1)
        assert any(not torch.equal(forth[i], other[i]) for i in forth)
        same = [apply_shift(DIGITS[0], name, 4, 0, i, SHIFTS) for i in range(12)]
        assert any(not torch.equal(same[0], s) for s in same[1:])


@pytest.mark.parametrize("name", SHIFTS)
def test_the_change_grows_with_severity(name):
    """Mean absolute change over 200 digits, at each severity more than at the one below."""
    change = [
        np.mean([(apply_shift(x, name, s, 0, i, SHIFTS) - x).abs().mean().item() for i, x in enumerate(DIGITS)])
        for s in SEVERITIES
    ]
    assert change[0] > 0.005
    assert all(b > a for a, b in itertools.pairwise(change)), change


def test_clean_is_the_image_itself():
    for severity in SEVERITIES:
        assert torch.equal(apply_shift(DIGITS[0], "clean", severity, 0, 0, SHIFTS), DIGITS[0])


@pytest.mark.parametrize("severity", [0, 6, -1, 2.5, 3.0, "3", None])
def test_severities_are_one_to_five(severity):
    with pytest.raises(ValueError, match="severity must be 1, 2, 3, 4 or 5, not "):
        apply_shift(DIGITS[0], "fog", severity, 0, 0, SHIFTS)


def test_unknown_shifts_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"unknown shift 'snow'; choose from clean, gaussian_noise, .*erasing"):
        apply_shift(DIGITS[0], "snow", 3, 0, 0, SHIFTS)


# --- what the names say ------------------------------------------------------------------------------------


def grey(value: float = 0.5, size: int = 64) -> torch.Tensor:
    return torch.full((1, size, size), value)


def strengths(name: str, image: torch.Tensor, measure) -> list[float]:
    return [measure(SHIFTS[name](image, s, torch.Generator().manual_seed(s))) for s in SEVERITIES]


def test_gaussian_noise_has_the_stated_deviation():
    assert strengths("gaussian_noise", grey(), lambda y: (y - 0.5).std().item()) == pytest.approx(
        [0.15, 0.25, 0.35, 0.5, 0.65], rel=0.04
    )
    assert strengths("gaussian_noise", grey(), lambda y: y.mean().item()) == pytest.approx([0.5] * 5, abs=0.04)


def test_shot_noise_has_poissons_variance():
    """Of n photons a share x arrives: variance x / n, none where it is black."""
    variances = strengths("shot_noise", grey(0.5), lambda y: y.var().item())
    assert variances == pytest.approx([0.5 / n for n in (16, 8, 4, 2, 1)], rel=0.1)
    assert strengths("shot_noise", grey(0.0), lambda y: y.abs().max().item()) == [0] * 5


def test_impulse_noise_hits_the_stated_share_with_black_and_white():
    shares = strengths("impulse_noise", grey(size=256), lambda y: (y != 0.5).float().mean().item())
    assert shares == pytest.approx([0.05, 0.1, 0.18, 0.27, 0.38], abs=0.01)
    hit = SHIFTS["impulse_noise"](grey(), 5, torch.Generator().manual_seed(0))
    hit = hit[hit != 0.5]
    assert set(hit.unique().tolist()) == {0.0, 1.0}
    assert 0.4 < hit.mean() < 0.6


def test_contrast_and_brightness_are_affine():
    image = DIGITS[3]
    factors = strengths("contrast", image, lambda y: (y.std() / image.std()).item())
    assert factors == pytest.approx([0.75, 0.6, 0.45, 0.3, 0.2], rel=1e-4)
    assert strengths("contrast", image, lambda y: y.mean().item()) == pytest.approx([image.mean().item()] * 5, rel=1e-4)
    added = strengths("brightness", image, lambda y: (y - image).mean().item())
    assert added == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], rel=1e-4)


def test_blur_is_a_gaussian():
    point = torch.zeros(1, 15, 15)
    point[0, 7, 7] = 1
    x = np.arange(-3, 4)
    for severity, sigma in zip(SEVERITIES, (0.5, 0.7, 0.9, 1.15, 1.4), strict=True):
        kernel = np.exp(-(x**2) / (2 * sigma**2))
        kernel /= kernel.sum()
        blurred = SHIFTS["blur"](point, severity, torch.Generator())[0, 4:11, 4:11].numpy()
        np.testing.assert_allclose(blurred, np.outer(kernel, kernel), atol=1e-6)


def test_fog_keeps_a_share_of_the_image():
    """(x + s v) / (1 + s): two images under the same veil differ by their difference over 1 + s."""
    a, b = DIGITS[0], DIGITS[1]
    for severity, s in zip(SEVERITIES, (0.4, 0.7, 1.0, 1.5, 2.0), strict=True):
        fogged = [SHIFTS["fog"](x, severity, torch.Generator().manual_seed(3)) for x in (a, b)]
        torch.testing.assert_close(fogged[0] - fogged[1], (a - b) / (1 + s), rtol=1e-4, atol=1e-5)
        veil = (fogged[0] * (1 + s) - a) / s
        assert veil.min().item() == pytest.approx(0, abs=1e-5)
        assert veil.max().item() == pytest.approx(1, abs=1e-5)


def test_pixelate_leaves_few_colours():
    noise = tiny.images(1)[0]
    for severity, side in zip(SEVERITIES, (7, 6, 5, 4, 3), strict=True):
        assert len(SHIFTS["pixelate"](noise, severity, torch.Generator()).unique()) == side**2


def test_jpeg_is_pillows_at_the_stated_quality():
    image = DIGITS[5]
    for severity, quality in zip(SEVERITIES, (30, 18, 10, 5, 2), strict=True):
        buffer = io.BytesIO()
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(buffer, "JPEG", quality=quality)
        expected = np.asarray(Image.open(buffer)) / 255
        got = SHIFTS["jpeg"](image, severity, torch.Generator())[0].numpy()
        assert np.abs(got - expected).max() < 1e-6


def test_rotation_turns_by_the_stated_angle_both_ways():
    y, x = torch.meshgrid(torch.arange(41) - 20.0, torch.arange(41) - 20.0, indexing="ij")
    spoke = (torch.exp(-((y) ** 2) / 8) * (x > 5) * (x < 15)).unsqueeze(0)  # points to the right
    for severity, angle in zip(SEVERITIES, (12, 20, 28, 38, 50), strict=True):
        seen = set()
        for seed in range(12):
            turned = SHIFTS["rotation"](spoke, severity, torch.Generator().manual_seed(seed))[0]
            found = np.degrees(np.arctan2(-(turned * y).sum().item(), (turned * x).sum().item()))
            assert abs(found) == pytest.approx(angle, abs=1.5)
            seen.add(np.sign(found))
        assert seen == {-1, 1}


def test_shear_slants_rows_by_the_stated_angle_both_ways():
    y, x = torch.meshgrid(torch.arange(41) - 20.0, torch.arange(41) - 20.0, indexing="ij")
    pole = torch.exp(-(x**2) / 8).unsqueeze(0)
    for severity, angle in zip(SEVERITIES, (12, 22, 30, 38, 46), strict=True):
        seen = set()
        for seed in range(12):
            slanted = SHIFTS["shear"](pole, severity, torch.Generator().manual_seed(seed))[0]
            rows = slice(14, 27)  # the middle, where nothing has left the image
            centres = (slanted * x).sum(1) / slanted.sum(1)
            slope = np.polyfit(y[rows, 0].numpy(), centres[rows].numpy(), 1)[0]
            assert abs(slope) == pytest.approx(np.tan(np.radians(angle)), rel=0.05)
            seen.add(np.sign(slope))
        assert seen == {-1, 1}


def test_erasing_paints_one_square():
    image = torch.full((1, 8, 8), 0.9)
    for severity, side in zip(SEVERITIES, (2, 3, 3, 4, 5), strict=True):
        corners = set()
        for seed in range(30):
            hit = (SHIFTS["erasing"](image, severity, torch.Generator().manual_seed(seed)) != 0.9)[0]
            rows, columns = hit.any(1).nonzero().flatten(), hit.any(0).nonzero().flatten()
            assert hit.sum() == side**2
            assert len(rows) == len(columns) == side
            assert rows[-1] - rows[0] == columns[-1] - columns[0] == side - 1
            corners.add((rows[0].item(), columns[0].item()))
        assert len(corners) > 5
        assert torch.equal(image, torch.full((1, 8, 8), 0.9))
