"""Corruptions: deterministic, in range, stronger with severity, and what their names and constants say."""

from __future__ import annotations

import colorsys
import io
import itertools
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm
from sklearn.datasets import load_digits

from dtta.problems.corruptions import IMAGE_SHIFTS, SEVERITIES, SMALL_IMAGE_SHIFTS, apply_shift
from dtta.problems.digits.shifts import SHIFTS
from dtta.problems.scenes.render import render
from dtta.problems.scenes.world import random_scene

TABLES = {"small": SHIFTS, "large": IMAGE_SHIFTS}
CHANNELS = {"small": 1, "large": 3}
EVERY = [(table, name) for table, shifts in TABLES.items() for name in shifts]
DETERMINISTIC = {"blur", "defocus_blur", "zoom_blur", "contrast", "brightness", "pixelate", "jpeg"}


@cache
def images(table: str) -> torch.Tensor:
    """200 digits of 8 x 8 pixels, or 60 rendered scenes of 32 x 32."""
    if table == "small":
        return torch.from_numpy(load_digits().images[:200]).float().unsqueeze(1) / 16
    return render([random_scene(21, i) for i in range(60)], 32, 2).image


def by_severity(large: tuple = (), small: tuple = ()) -> list[tuple]:
    """(table, severity, constant) for each constant."""
    tables = {"large": large, "small": small}
    return [(t, s, c) for t, constants in tables.items() for s, c in zip(SEVERITIES, constants, strict=bool(constants))]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shift(table: str, name: str, image: torch.Tensor, severity: int, seed: int = 0, index: int = 0) -> torch.Tensor:
    return apply_shift(image, name, severity, seed, index, TABLES[table])


def raw(table: str, name: str, image: torch.Tensor, severity: int, seed: int = 0) -> torch.Tensor:
    """Before clipping to [0, 1]."""
    return TABLES[table][name](image, severity, generator(seed))


def grey(table: str, value: float = 0.5, size: int = 256) -> torch.Tensor:
    return torch.full((CHANNELS[table], size, size), value)


def dot(size: int = 223) -> torch.Tensor:
    """A white pixel in the middle of a black image, at nearly the size of the constants."""
    image = torch.zeros(3, size, size)
    image[:, size // 2, size // 2] = 1
    return image


def moments(image: torch.Tensor) -> tuple[float, np.ndarray, np.ndarray]:
    """Mass, centre (x, y) from the middle, and covariance of a channel."""
    weight = image[0].double().numpy()
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]] - weight.shape[0] // 2
    position = np.stack([x, y])
    mass = weight.sum()
    centre = (weight * position).sum((1, 2)) / mass
    away = position - centre[:, None, None]
    return mass, centre, (weight * away[:, None] * away[None]).sum((2, 3)) / mass


# --- all of them ---------------------------------------------------------------------------------------


def test_names():
    shared = ["gaussian_noise", "shot_noise", "impulse_noise", "contrast", "brightness", "fog", "pixelate", "jpeg"]
    assert set(SMALL_IMAGE_SHIFTS) == {*shared, "blur"}
    assert set(SHIFTS) == {*SMALL_IMAGE_SHIFTS, "rotation", "shear", "erasing"}
    assert set(IMAGE_SHIFTS) == {*shared, "defocus_blur", "motion_blur", "zoom_blur", "snow", "erasing"}


@pytest.mark.parametrize(("table", "name"), EVERY)
def test_shape_type_and_range(table, name):
    first = images(table)[:4]
    for severity in SEVERITIES:
        for index, image in enumerate([*first, torch.zeros_like(first[0]), torch.ones_like(first[0])]):
            shifted = shift(table, name, image, severity, index=index)
            assert shifted.shape == image.shape
            assert shifted.dtype == torch.float32
            assert shifted.isfinite().all()
            assert shifted.min() >= 0 and shifted.max() <= 1


@pytest.mark.parametrize(("table", "name"), EVERY)
def test_randomness_depends_on_seed_and_index_but_not_on_the_order(table, name):
    def run(order, seed=0):
        return {i: shift(table, name, images(table)[i], 4, seed, i) for i in order}

    original = images(table)[:12].clone()
    state = torch.get_rng_state()
    forwards = run(range(12))
    backwards = run(reversed(range(12)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images(table)[:12], original)
    assert all(torch.equal(forwards[i], backwards[i]) for i in forwards)
    if name not in DETERMINISTIC:
        other = run(range(12), seed=1)
        assert any(not torch.equal(forwards[i], other[i]) for i in forwards)
        one_image = [shift(table, name, original[0], 4, index=i) for i in range(12)]
        assert any(not torch.equal(one_image[0], x) for x in one_image[1:])


@pytest.mark.parametrize(("table", "name"), EVERY)
def test_the_change_grows_with_severity(table, name):
    change = [
        np.mean([(shift(table, name, x, s, index=i) - x).abs().mean() for i, x in enumerate(images(table))])
        for s in SEVERITIES
    ]
    if name == "defocus_blur":  # at 32 pixels the mildest disc lies within a pixel
        assert change.pop(0) < 1e-4 < change[0]
    assert change[0] > {"small": 0.005, "large": 0.001}[table]
    assert all(b > a for a, b in itertools.pairwise(change)), change


@pytest.mark.parametrize("table", TABLES)
def test_clean_is_the_image_itself(table):
    for severity in SEVERITIES:
        assert torch.equal(shift(table, "clean", images(table)[0], severity), images(table)[0])


@pytest.mark.parametrize("severity", [0, 6, -1, 2.5, 3.0, "3", None])
def test_severities_are_one_to_five(severity):
    with pytest.raises(ValueError, match="severity must be 1, 2, 3, 4 or 5, not "):
        shift("small", "fog", images("small")[0], severity)


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"unknown shift 'snow'; choose from clean, gaussian_noise, .*erasing"):
        shift("small", "snow", images("small")[0], 3)


# --- noise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "severity", "deviation"),
    by_severity(large=(0.08, 0.12, 0.18, 0.26, 0.38), small=(0.15, 0.25, 0.35, 0.5, 0.65)),
)
def test_gaussian_noise(table, severity, deviation):
    noise = raw(table, "gaussian_noise", grey(table), severity) - 0.5
    assert noise.std().item() == pytest.approx(deviation, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.02 * deviation)
    if table == "large":
        assert abs(torch.corrcoef(noise.flatten(1))[0, 1]) < 0.03, "the channels are independent"


@pytest.mark.parametrize(
    ("table", "severity", "photons"), by_severity(large=(60, 25, 12, 5, 3), small=(16, 8, 4, 2, 1))
)
def test_shot_noise_is_poisson(table, severity, photons):
    """A value x has mean x and variance x / n, in steps of 1 / n."""
    for x in (0.2, 0.7):
        noisy = raw(table, "shot_noise", grey(table, x), severity)
        assert noisy.mean().item() == pytest.approx(x, rel=0.02)
        assert noisy.var().item() == pytest.approx(x / photons, rel=0.04)
        assert (noisy * photons - (noisy * photons).round()).abs().max() < 1e-4
    assert raw(table, "shot_noise", grey(table, 0.0), severity).abs().max() == 0


@pytest.mark.parametrize(
    ("table", "severity", "share"),
    by_severity(large=(0.03, 0.06, 0.09, 0.17, 0.27), small=(0.05, 0.1, 0.18, 0.27, 0.38)),
)
def test_impulse_noise_sets_a_share_to_black_and_white(table, severity, share):
    noisy = raw(table, "impulse_noise", grey(table, size=512), severity)
    hit = noisy[noisy != 0.5]
    assert len(hit) / noisy.numel() == pytest.approx(share, rel=0.03)
    assert set(hit.unique().tolist()) == {0.0, 1.0}
    assert hit.mean().item() == pytest.approx(0.5, abs=0.02)


# --- blur ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "severity", "sigma"), by_severity(small=(0.5, 0.7, 0.9, 1.15, 1.4)))
def test_blur_is_a_gaussian(table, severity, sigma):
    kernel = np.exp(-(np.arange(-3, 4) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    blurred = raw(table, "blur", dot(15)[:1], severity)[0, 4:11, 4:11].numpy()
    np.testing.assert_allclose(blurred, np.outer(kernel, kernel), atol=1e-6)


@pytest.mark.parametrize(("table", "severity", "radius"), by_severity(large=(3, 4, 6, 8, 10)))
def test_defocus_is_a_disc(table, severity, radius):
    """Its mass is one, its height 1 / (π r²), its variance along each axis r² / 4; it is zero outside."""
    for size in (223, 447):
        r = radius * size / 224
        blurred = raw(table, "defocus_blur", dot(size), severity)
        mass, centre, covariance = moments(blurred)
        assert mass == pytest.approx(1, abs=1e-4)
        assert np.abs(centre).max() < 1e-3
        assert blurred.max().item() == pytest.approx(1 / (np.pi * r**2), rel=0.08)
        assert np.abs(covariance - np.eye(2) * (r**2 / 4 + 1 / 12)).max() < 0.06 * r**2 / 4
        y, x = np.mgrid[:size, :size] - size // 2
        assert blurred[0].numpy()[np.hypot(x, y) > r + 1].max() == 0
    flat = raw(table, "defocus_blur", grey(table, 0.3, 32), severity)
    assert (flat - 0.3).abs().max() < 1e-5, "at the edges too"


@pytest.mark.parametrize(
    ("table", "severity", "constants"), by_severity(large=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)))
)
def test_motion_blur_smears_to_one_side_along_a_line(table, severity, constants):
    """Half a Gaussian of the stated width, cut off at the stated length, within 45° of the horizontal."""
    length, width = (c * 223 / 224 for c in constants)
    along = np.linspace(0, length, 16)
    weight = np.exp(-0.5 * (along / width) ** 2)
    weight /= weight.sum()
    angles = []
    for seed in range(12):
        mass, centre, covariance = moments(raw(table, "motion_blur", dot(), severity, seed))
        assert mass == pytest.approx(1, abs=1e-3)
        assert np.hypot(*centre) == pytest.approx((weight * along).sum(), rel=0.02)
        across = np.array([-centre[1], centre[0]]) / np.hypot(*centre)
        assert across @ covariance @ across < 0.35, "no wider than a pixel"
        angles.append(np.degrees(np.arctan2(centre[1], -centre[0])))
    assert max(map(abs, angles)) <= 45.5
    assert min(angles) < -15 and max(angles) > 15


@pytest.mark.parametrize(
    ("table", "severity", "zooms"),
    by_severity(large=((0.11, 0.01), (0.16, 0.01), (0.21, 0.02), (0.26, 0.02), (0.31, 0.03))),
)
def test_zoom_blur_is_the_mean_of_zoomed_images(table, severity, zooms):
    """A ramp zoomed by z has the slope 1 / z. There are as many zooms as in ImageNet-C."""
    factors = np.arange(1, 1 + zooms[0], zooms[1])
    ramp = torch.linspace(0, 1, 101).expand(3, 101, 101)
    row = raw(table, "zoom_blur", ramp, severity)[0, 50]
    slope = ((row[70] - row[30]) / 0.4).item()
    assert slope == pytest.approx((1 + (1 / factors).sum()) / (1 + len(factors)), abs=2e-4)
    assert raw(table, "zoom_blur", dot(33), severity)[0, 16, 16] > 0.7, "the middle stays in its place"


# --- weather -------------------------------------------------------------------------------------------

SNOW = (
    (0.1, 0.3, 0.5, 0.8),
    (0.2, 0.3, 0.5, 0.7),
    (0.55, 0.3, 0.9, 0.7),
    (0.55, 0.3, 0.85, 0.65),
    (0.55, 0.3, 0.85, 0.55),
)


@pytest.mark.parametrize(("table", "severity", "constants"), by_severity(large=SNOW))
def test_snow_whitens_and_adds_flakes_in_two_directions(table, severity, constants):
    """Grey x becomes b x + (1 - b) max(x, 1.5 x + 0.5), plus flakes, once as they are and once turned by 180°."""
    mean, deviation, threshold, blend = constants
    x = 0.3
    added = raw(table, "snow", grey(table, x, 224), severity) - (blend * x + (1 - blend) * (1.5 * x + 0.5))
    assert (added - added.flip(-1, -2)).abs().max() < 1e-5
    assert (added - added[:1]).abs().max() < 1e-5, "the same in each channel"
    assert added.min() > -1e-4
    value = np.linspace(threshold, mean + 6 * deviation, 20001)
    flakes = np.sum(np.minimum(value, 1) * norm.pdf(value, mean, deviation)) * (value[1] - value[0])
    assert added.mean().item() == pytest.approx(2 * flakes, rel=0.06)


@pytest.mark.parametrize(
    ("table", "severity", "strength"), by_severity(large=(1.5, 2, 2.5, 2.5, 3), small=(0.4, 0.7, 1.0, 1.5, 2.0))
)
def test_fog_adds_a_veil_and_rescales(table, severity, strength):
    """(x + s v) m / (m + s), with v from 0 to 1, and m the image's largest value, or 1 for small images."""
    s = strength
    m = 0.9 if table == "large" else 1.0
    a, b = images(table)[:2].clone().clamp(max=m)
    for x in (a, b):
        x[:, 0, 0] = m
    fogged = [raw(table, "fog", x, severity, seed=3) for x in (a, b)]
    torch.testing.assert_close(fogged[0] - fogged[1], (a - b) * m / (m + s), rtol=1e-4, atol=1e-5)
    veil = (fogged[0] * (m + s) / m - a) / s
    assert veil.min().item() == pytest.approx(0, abs=1e-5)
    assert veil.max().item() == pytest.approx(1, abs=1e-5)
    assert (veil - veil[:1]).abs().max() < 1e-5, "without colour"
    assert fogged[0].min() >= -1e-6 and fogged[0].max() <= m + 1e-6


def test_a_faster_decay_makes_a_smoother_fog():
    """The finer layers of the veil count less from severity 2 down to 1; the first two have the same decay."""

    def roughness(severity):
        veils = [raw("large", "fog", grey("large", 1.0, 64), severity, seed) for seed in range(8)]
        veils = [(v - v.min()) / (v.max() - v.min()) for v in veils]
        return np.mean([v.diff(dim=-1).abs().mean().item() for v in veils])

    rough = [roughness(s) for s in SEVERITIES]
    assert rough[0] == pytest.approx(rough[1], rel=0.1)
    assert rough[1] < rough[2] < rough[3] < rough[4]


# --- digital -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "severity", "amount"), by_severity(large=(0.1, 0.2, 0.3, 0.4, 0.5)))
def test_brightness_raises_the_value_and_keeps_hue_and_saturation(table, severity, amount):
    x = torch.rand(3, 8, 8, generator=generator())
    bright = shift(table, "brightness", x, severity)
    for before, after in zip(x.flatten(1).T.tolist(), bright.flatten(1).T.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(h, s, min(1.0, v + amount)), abs=1e-5)
    assert shift(table, "brightness", torch.zeros(3, 4, 4), severity).mean().item() == pytest.approx(amount)


@pytest.mark.parametrize(("table", "severity", "amount"), by_severity(small=(0.1, 0.2, 0.3, 0.4, 0.5)))
def test_brightness_of_a_grey_image_is_added(table, severity, amount):
    x = images(table)[3]
    assert (raw(table, "brightness", x, severity) - x).mean().item() == pytest.approx(amount, rel=1e-4)


@pytest.mark.parametrize(
    ("table", "severity", "factor"), by_severity(large=(0.4, 0.3, 0.2, 0.1, 0.05), small=(0.75, 0.6, 0.45, 0.3, 0.2))
)
def test_contrast_scales_each_channel_about_its_mean(table, severity, factor):
    for x in images(table)[:4]:
        pale = raw(table, "contrast", x, severity)
        mean = x.mean((1, 2))
        torch.testing.assert_close(pale.mean((1, 2)), mean)
        torch.testing.assert_close(pale - mean[:, None, None], factor * (x - mean[:, None, None]), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("table", "severity", "side"), by_severity(large=(19, 16, 12, 9, 8), small=(7, 6, 5, 4, 3)))
def test_pixelate_leaves_one_colour_for_each_block(table, severity, side):
    """ImageNet-C's factors 0.6, 0.5, 0.4, 0.3, 0.25 of 32 pixels, rounded down; the stated side of 8 pixels."""
    noise = torch.rand(CHANNELS[table], *images(table).shape[-2:], generator=generator())
    blocks = shift(table, "pixelate", noise, severity)
    assert len(blocks.flatten(1).T.unique(dim=0)) == side**2
    if table == "large":
        assert blocks.mean().item() == pytest.approx(noise.mean().item(), abs=0.02)


@pytest.mark.parametrize(
    ("table", "severity", "quality"), by_severity(large=(25, 18, 15, 10, 7), small=(30, 18, 10, 5, 2))
)
def test_jpeg_is_pillows_at_the_stated_quality(table, severity, quality):
    for x in images(table)[3:6]:
        buffer = io.BytesIO()
        pixels = (x * 255).round().byte().permute(1, 2, 0).squeeze(2)
        Image.fromarray(pixels.numpy()).save(buffer, "JPEG", quality=quality)
        expected = torch.from_numpy(np.asarray(Image.open(buffer)) / 255).view(*x.shape[1:], -1).permute(2, 0, 1)
        assert (shift(table, "jpeg", x, severity) - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("table", "severity", "square"),
    by_severity(
        large=((5, 0.5), (6, 0.5), (8, 0.5), (10, 0.5), (13, 0.5)),
        small=((2, 0.25), (3, 0.25), (3, 0.5), (4, 0.5), (5, 0.5)),
    ),
)
def test_erasing_paints_one_grey_square(table, severity, square):
    side, level = square
    size = images(table).shape[-1]
    image = grey(table, 0.9, size)
    corners = set()
    for seed in range(30):
        erased = raw(table, "erasing", image, severity, seed)
        hit = (erased != 0.9).all(0)
        rows, columns = hit.any(1).nonzero().flatten(), hit.any(0).nonzero().flatten()
        assert hit.sum() == side**2
        assert len(rows) == len(columns) == side
        assert rows[-1] - rows[0] == columns[-1] - columns[0] == side - 1
        assert (erased[:, hit] == level).all()
        corners.add((rows[0].item(), columns[0].item()))
    assert len(corners) > (20 if table == "large" else 5)
    assert torch.equal(image, grey(table, 0.9, size))
