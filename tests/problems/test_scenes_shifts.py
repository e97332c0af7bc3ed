"""The shifts of the scenes: what their names and constants say, and label maps that stay true."""

from __future__ import annotations

import colorsys
import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm
from test_scenes_world import COLOURS, edge_band, rays, thing

from dtta.problems.corruptions import SEVERITIES
from dtta.problems.scenes.render import render
from dtta.problems.scenes.shifts import IMAGE_SHIFTS, SHIFTS, WORLD_SHIFTS, shift_image, shift_scene
from dtta.problems.scenes.world import FAR, TEXTURES, UNSEEN_TEXTURES, Scene, random_scene

LIGHT_ONLY = ("night", "coloured_light", "depth_fog", "unseen_textures")  # nothing moves
SCENES = [random_scene(21, i) for i in range(60)]


def by_severity(settings: Sequence) -> list[tuple]:
    return list(zip(SEVERITIES, settings, strict=True))


@cache
def images() -> torch.Tensor:
    return render(SCENES, 32, 2).image


@cache
def under(name: str, severity: int):
    return render([shift_scene(s, name, severity, index=i) for i, s in enumerate(SCENES[:8])], 32)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def raw(name: str, image: torch.Tensor, severity: int, seed: int = 0) -> torch.Tensor:
    """Before it is cut off at 0 and 1."""
    return IMAGE_SHIFTS[name](image, severity, generator(seed))


def grey(value: float = 0.5, size: int = 64) -> torch.Tensor:
    return torch.full((3, size, size), value)


def dot(size: int = 223) -> torch.Tensor:
    """A white pixel in the middle of a black image, at nearly the size of the constants."""
    image = torch.zeros(3, size, size)
    image[:, size // 2, size // 2] = 1
    return image


def moments(image: torch.Tensor) -> tuple[float, np.ndarray, np.ndarray]:
    """Mass, centre (x, y) from the middle, and covariance of a channel."""
    weight = image[0].double().numpy()
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]] - weight.shape[0] // 2
    mass, at = weight.sum(), np.stack([x, y])
    centre = (weight * at).sum((1, 2)) / mass
    away = at - centre[:, None, None]
    return mass, centre, (weight * away[:, None] * away[None]).sum((2, 3)) / mass


# --- all of them ---------------------------------------------------------------------------------------


def test_the_families_are_there():
    corruptions = {
        "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "motion_blur", "zoom_blur", "snow", "fog",
        "brightness", "contrast", "pixelate", "jpeg",
    }  # fmt: skip
    assert set(IMAGE_SHIFTS) == corruptions | {"erasing"}
    assert set(WORLD_SHIFTS) == {*LIGHT_ONLY, "camera_height", "camera_roll"}
    assert (*IMAGE_SHIFTS, *WORLD_SHIFTS) == SHIFTS


@pytest.mark.parametrize("name", IMAGE_SHIFTS)
def test_shape_type_and_range(name):
    for severity in SEVERITIES:
        for index, image in enumerate([*images()[:4], torch.zeros(3, 32, 32), torch.ones(3, 32, 32)]):
            shifted = shift_image(image, name, severity, index=index)
            assert shifted.shape == image.shape
            assert shifted.dtype == torch.float32
            assert shifted.isfinite().all()
            assert shifted.min() >= 0 and shifted.max() <= 1


@pytest.mark.parametrize("name", IMAGE_SHIFTS)
def test_seed_name_severity_and_index_decide_and_order_does_not(name):
    def run(order, seed=0):
        return {i: shift_image(images()[i], name, 4, seed, i) for i in order}

    original = images()[:8].clone()
    torch.manual_seed(1)
    forth, state = run(range(8)), torch.get_rng_state()
    back = run(reversed(range(8)))
    assert torch.equal(torch.get_rng_state(), state)  # the global state is left alone
    assert all(torch.equal(forth[i], back[i]) for i in forth)
    assert torch.equal(images()[:8], original)  # and so is the image
    if name not in {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg"}:  # those know no chance
        other = run(range(8), seed=1)
        assert any(not torch.equal(forth[i], other[i]) for i in forth)
        same = [shift_image(images()[0], name, 4, index=i) for i in range(8)]
        assert any(not torch.equal(same[0], s) for s in same[1:])


def change(name: str) -> list[float]:
    """Mean absolute change over the images, at each severity."""
    return [
        np.mean([(shift_image(x, name, s, index=i) - x).abs().mean() for i, x in enumerate(images())])
        for s in SEVERITIES
    ]


@pytest.mark.parametrize("name", IMAGE_SHIFTS)
def test_the_change_grows_with_severity(name):
    found = change(name)
    if name == "defocus_blur":
        found = found[1:]  # see below
    assert found[0] > 0.001
    assert all(b > a for a, b in itertools.pairwise(found)), found


def test_the_mildest_defocus_is_less_than_a_pixel():
    """A disc of radius 3 · 32/224 lies within one pixel: here severity 1 changes nothing, as the docstring says."""
    assert change("defocus_blur")[0] < 1e-4 < change("defocus_blur")[1]


@pytest.mark.parametrize("shift", [shift_image, shift_scene])
@pytest.mark.parametrize("severity", [0, 6, -1, 2.5, 3.0, "3", None])
def test_severities_are_one_to_five(shift, severity):
    for name in ("fog", "night"):
        with pytest.raises(ValueError, match="severity must be 1, 2, 3, 4 or 5, not "):
            shift(images()[0] if shift is shift_image else SCENES[0], name, severity)


@pytest.mark.parametrize("shift", [shift_image, shift_scene])
def test_unknown_shifts_are_refused_with_the_choices(shift):
    with pytest.raises(ValueError, match=r"unknown shift 'frost'; choose from clean, gaussian_noise, .*camera_roll"):
        shift(images()[0] if shift is shift_image else SCENES[0], "frost", 3)


def test_each_shift_works_on_its_side_only():
    for name in ("clean", *WORLD_SHIFTS):
        assert torch.equal(shift_image(images()[0], name, 3), images()[0])
    for name in ("clean", *IMAGE_SHIFTS):
        assert shift_scene(SCENES[0], name, 3) == SCENES[0]


# --- the image: ImageNet-C's definitions and constants -------------------------------------------------


@pytest.mark.parametrize(("severity", "spread"), by_severity((0.08, 0.12, 0.18, 0.26, 0.38)))
def test_gaussian_noise_has_the_stated_deviation(severity, spread):
    noise = raw("gaussian_noise", grey(size=128), severity) - 0.5
    assert noise.std().item() == pytest.approx(spread, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.02 * spread)
    assert abs(torch.corrcoef(noise.flatten(1))[0, 1]) < 0.03, "each channel has its own"


@pytest.mark.parametrize(("severity", "photons"), by_severity((60, 25, 12, 5, 3)))
def test_shot_noise_is_poissons(severity, photons):
    """Of n photons a share x arrives: mean x, variance x / n, in steps of 1 / n."""
    for x in (0.2, 0.7):
        noisy = raw("shot_noise", grey(x, 128), severity)
        assert noisy.mean().item() == pytest.approx(x, rel=0.02)
        assert noisy.var().item() == pytest.approx(x / photons, rel=0.04)
        assert (noisy * photons - (noisy * photons).round()).abs().max() < 1e-4
    assert raw("shot_noise", grey(0.0), severity).abs().max() == 0


@pytest.mark.parametrize(("severity", "share"), by_severity((0.03, 0.06, 0.09, 0.17, 0.27)))
def test_impulse_noise_hits_the_stated_share_with_black_and_white(severity, share):
    noisy = raw("impulse_noise", grey(size=256), severity)
    hit = noisy[noisy != 0.5]
    assert len(hit) / noisy.numel() == pytest.approx(share, rel=0.03)
    assert set(hit.unique().tolist()) == {0.0, 1.0}
    assert hit.mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("severity", "radius"), by_severity((3, 4, 6, 8, 10)))
def test_defocus_is_a_disc(severity, radius):
    """Its mass is one, its height 1 / (π r²), its variance along each axis r² / 4, and nothing lies beyond."""
    for size in (223, 447):
        r = radius * size / 224
        blurred = raw("defocus_blur", dot(size), severity)
        mass, centre, covariance = moments(blurred)
        assert mass == pytest.approx(1, abs=1e-4)
        assert np.abs(centre).max() < 1e-3
        assert blurred.max().item() == pytest.approx(1 / (np.pi * r**2), rel=0.08)
        assert np.abs(covariance - np.eye(2) * (r**2 / 4 + 1 / 12)).max() < 0.06 * r**2 / 4
        y, x = np.mgrid[:size, :size] - size // 2
        assert blurred[0].numpy()[np.hypot(x, y) > r + 1].max() == 0
    flat = raw("defocus_blur", grey(0.3, 32), severity)
    assert (flat - 0.3).abs().max() < 1e-5, "edges too"


MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))


@pytest.mark.parametrize(("severity", "setting"), by_severity(MOTION))
def test_motion_smears_to_one_side_along_a_line(severity, setting):
    """As long as half a Gaussian of the stated width, cut off at the stated length, within 45° of the horizontal."""
    length, width = (c * 223 / 224 for c in setting)
    along = np.linspace(0, length, 16)
    weight = np.exp(-0.5 * (along / width) ** 2)
    weight /= weight.sum()
    angles = []
    for seed in range(12):
        mass, centre, covariance = moments(raw("motion_blur", dot(), severity, seed))
        assert mass == pytest.approx(1, abs=1e-3)
        assert np.hypot(*centre) == pytest.approx((weight * along).sum(), rel=0.02)
        across = np.array([-centre[1], centre[0]]) / np.hypot(*centre)
        assert across @ covariance @ across < 0.35, "a line, but for the size of a pixel"
        angles.append(np.degrees(np.arctan2(centre[1], -centre[0])))
    assert max(map(abs, angles)) <= 45.5
    assert min(angles) < -15 and max(angles) > 15


ZOOMS = ((0.11, 0.01), (0.16, 0.01), (0.21, 0.02), (0.26, 0.02), (0.31, 0.03))


@pytest.mark.parametrize(("severity", "zooms"), by_severity(ZOOMS))
def test_zoom_blur_is_the_mean_of_zoomed_images(severity, zooms):
    """A ramp zoomed by z is 1 / z as steep. Within one zoom more or less of ImageNet-C's list (see below)."""
    slope = ramp_under_zoom(severity)
    factors = np.arange(1, 1 + zooms[0], zooms[1])
    likely = [mean_slope(factors[:n]) for n in range(len(factors) - 1, len(factors) + 1)]
    assert min(likely) - 2e-4 < slope < max(likely) + 2e-4
    still = raw("zoom_blur", dot(33), severity)[0, 16, 16]
    assert still > 0.7, "the middle stays where it is"


def test_zoom_blur_has_as_many_zooms_as_imagenet_c():
    want = [mean_slope(np.arange(1, 1 + most, step)) for most, step in ZOOMS]
    assert [ramp_under_zoom(s) for s in SEVERITIES] == pytest.approx(want, abs=2e-4)


def mean_slope(factors: np.ndarray) -> float:
    """Of a ramp of slope one under the image itself and its zooms."""
    return (1 + (1 / factors).sum()) / (1 + len(factors))


def ramp_under_zoom(severity: int) -> float:
    ramp = torch.linspace(0, 1, 101).expand(3, 101, 101)
    row = raw("zoom_blur", ramp, severity)[0, 50]
    return ((row[70] - row[30]) / 0.4).item()


SNOW = (
    (0.1, 0.3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 0.85, 12, 12, 0.55),
)


@pytest.mark.parametrize(("severity", "setting"), by_severity(SNOW))
def test_snow_whitens_and_its_flakes_lie_both_ways(severity, setting):
    """Grey x becomes b x + (1 - b) max(x, 1.5 x + 0.5), and flakes are added, as they are and turned by half a turn."""
    mean, spread, threshold, _, _, blend = setting
    x = 0.3
    added = raw("snow", grey(x, 224), severity) - (blend * x + (1 - blend) * (1.5 * x + 0.5))
    assert (added - added.flip(-1, -2)).abs().max() < 1e-5
    assert (added - added[:1]).abs().max() < 1e-5, "white: the same in each channel"
    assert added.min() > -1e-4
    value = np.linspace(threshold, mean + 6 * spread, 20001)
    flakes = np.sum(np.minimum(value, 1) * norm.pdf(value, mean, spread)) * (value[1] - value[0])
    assert added.mean().item() == pytest.approx(2 * flakes, rel=0.06)


FOG = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))


@pytest.mark.parametrize(("severity", "setting"), by_severity(FOG))
def test_fog_adds_a_veil_and_keeps_the_brightest_value(severity, setting):
    """(x + s v) m / (m + s), m the image's largest value and v from 0 to 1."""
    s = setting[0]
    a, b = images()[0].clone(), images()[1].clone()
    for x in (a, b):
        x[:, 0, 0] = m = 0.9
        x.clamp_(max=m)
    fogged = [raw("fog", x, severity, seed=3) for x in (a, b)]
    torch.testing.assert_close(fogged[0] - fogged[1], (a - b) * m / (m + s), rtol=1e-4, atol=1e-5)
    veil = (fogged[0] * (m + s) / m - a) / s
    assert veil.min().item() == pytest.approx(0, abs=1e-5)
    assert veil.max().item() == pytest.approx(1, abs=1e-5)
    assert (veil - veil[:1]).abs().max() < 1e-5, "without a colour"
    assert fogged[0].min() >= -1e-6 and fogged[0].max() <= m + 1e-6


def test_a_faster_decay_makes_a_smoother_fog():
    """The last of the constants: the finer a layer of the veil, the less it counts."""

    def roughness(severity):
        veils = [raw("fog", grey(1.0), severity, seed) for seed in range(8)]
        veils = [(v - v.min()) / (v.max() - v.min()) for v in veils]
        return np.mean([v.diff(dim=-1).abs().mean().item() for v in veils])

    found = [roughness(s) for s in SEVERITIES]
    assert found[0] == pytest.approx(found[1], rel=0.1)  # both halve from layer to layer
    assert found[1] < found[2] < found[3] < found[4]


@pytest.mark.parametrize(("severity", "more"), by_severity((0.1, 0.2, 0.3, 0.4, 0.5)))
def test_brightness_raises_the_value_and_keeps_hue_and_saturation(severity, more):
    x = torch.rand(3, 8, 8, generator=generator())
    bright = shift_image(x, "brightness", severity)
    for before, after in zip(x.flatten(1).T.tolist(), bright.flatten(1).T.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(h, s, min(1.0, v + more)), abs=1e-5)


def test_brightness_makes_black_grey():
    assert shift_image(torch.zeros(3, 4, 4), "brightness", 3).mean().item() == pytest.approx(0.3)


@pytest.mark.parametrize(("severity", "factor"), by_severity((0.4, 0.3, 0.2, 0.1, 0.05)))
def test_contrast_shrinks_each_channel_about_its_mean(severity, factor):
    for x in images()[:3]:
        pale = raw("contrast", x, severity)
        mean = x.mean((1, 2))
        torch.testing.assert_close(pale.mean((1, 2)), mean)
        torch.testing.assert_close(pale - mean[:, None, None], factor * (x - mean[:, None, None]), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("severity", "share"), by_severity((0.6, 0.5, 0.4, 0.3, 0.25)))
def test_pixelate_leaves_few_colours(severity, share):
    noise = torch.rand(3, 32, 32, generator=generator())
    blocks = shift_image(noise, "pixelate", severity).flatten(1).T.unique(dim=0)
    assert len(blocks) == int(share * 32) ** 2
    assert shift_image(noise, "pixelate", severity).mean().item() == pytest.approx(noise.mean().item(), abs=0.02)


@pytest.mark.parametrize(("severity", "quality"), by_severity((25, 18, 15, 10, 7)))
def test_jpeg_is_pillows_at_the_stated_quality(severity, quality):
    for x in images()[:3]:
        buffer = io.BytesIO()
        Image.fromarray((x.permute(1, 2, 0) * 255).round().byte().numpy()).save(buffer, "JPEG", quality=quality)
        expected = np.asarray(Image.open(buffer)) / 255
        assert np.abs(shift_image(x, "jpeg", severity).permute(1, 2, 0).numpy() - expected).max() < 1e-6


@pytest.mark.parametrize(("severity", "share"), by_severity((0.15, 0.2, 0.25, 0.32, 0.4)))
def test_erasing_paints_one_square_anywhere(severity, share):
    side, corners = round(share * 32), set()
    for seed in range(30):
        hit = (raw("erasing", grey(0.9, 32), severity, seed) != 0.9).all(0)
        rows, columns = hit.any(1).nonzero().flatten(), hit.any(0).nonzero().flatten()
        assert hit.sum() == side**2
        assert len(rows) == len(columns) == side
        assert rows[-1] - rows[0] == columns[-1] - columns[0] == side - 1
        corners.add((rows[0].item(), columns[0].item()))
    assert len(corners) > 20


# --- the world -----------------------------------------------------------------------------------------


def test_a_scene_is_shifted_by_seed_name_severity_and_index_alone():
    for name in WORLD_SHIFTS:
        first = [shift_scene(s, name, 4, index=i) for i, s in enumerate(SCENES)]
        again = [shift_scene(s, name, 4, index=i) for i, s in reversed(list(enumerate(SCENES)))]
        assert first == again[::-1]
        assert all(a != b for a, b in zip(first, SCENES, strict=True))
        if name in ("coloured_light", "unseen_textures", "camera_roll"):
            assert len({shift_scene(SCENES[0], name, 4, seed, i) for seed in (0, 1) for i in range(6)}) > 1


@pytest.mark.parametrize("name", LIGHT_ONLY)
def test_light_air_and_patterns_leave_the_maps_exactly_as_they_are(name):
    clean = under("clean", 1)
    for severity in SEVERITIES:
        shifted = under(name, severity)
        for field in ("segmentation", "depth", "objects"):
            assert torch.equal(getattr(shifted, field), getattr(clean, field))
        assert not torch.equal(shifted.image, clean.image)
        assert shifted.image.min() >= 0 and shifted.image.max() <= 1


@pytest.mark.parametrize("name", LIGHT_ONLY)
def test_the_change_of_the_world_grows_with_severity(name):
    """With the same chance at each severity: a green light changes more than a yellow one."""
    clean, found = under("clean", 1).image, []
    for severity in SEVERITIES:
        shifted = render([WORLD_SHIFTS[name](s, severity, Random(i)) for i, s in enumerate(SCENES[:8])], 32)
        found.append((shifted.image - clean).abs().mean().item())
    assert found[0] > 0.01
    assert all(b > a for a, b in itertools.pairwise(found)), found


def test_night_is_dark_and_blue():
    light = [under("night", s).image.mean((0, 2, 3)) for s in SEVERITIES]
    assert all((b < a).all() for a, b in itertools.pairwise(light))
    clean = under("clean", 1).image.mean((0, 2, 3))
    for colour in light:
        assert colour.mean() < clean.mean()
        assert colour[2] / colour[0] > clean[2] / clean[0]


@pytest.mark.parametrize(("severity", "keep"), by_severity((0.6, 0.45, 0.3, 0.18, 0.08)))
def test_coloured_light_is_a_filter_before_sun_and_sky(severity, keep):
    tints = set()
    for i in range(40):
        shifted = shift_scene(SCENES[0], "coloured_light", severity, index=i)
        ratios = [
            np.array(getattr(shifted, light)) / np.array(getattr(SCENES[0], light))
            for light in ("sun", "sky", "horizon")
        ]
        assert np.ptp(ratios, axis=0).max() < 1e-9
        assert ratios[0].min() == pytest.approx(keep)
        assert ratios[0].max() == pytest.approx(1)
        tints.add(tuple(ratios[0].round(6)))
    assert len(tints) == 6


def test_unseen_textures_are_none_of_the_training_ones():
    gaps = []
    for severity in SEVERITIES:
        shifted = [shift_scene(s, "unseen_textures", severity, index=i) for i, s in enumerate(SCENES)]
        assert {s.texture for s in shifted} <= set(UNSEEN_TEXTURES)
        assert not {s.texture for s in shifted} & set(TEXTURES)
        assert {(s.objects, s.sun) for s in shifted} == {(s.objects, s.sun) for s in SCENES}
        assert all(0 < c < 1 for s in shifted for pair in s.ground for c in pair)
        gaps.append(np.mean([np.abs(np.subtract(*s.ground)).mean() for s in shifted]))
    assert {shift_scene(SCENES[0], "unseen_textures", 1, index=i).texture for i in range(40)} == set(UNSEEN_TEXTURES)
    assert all(b > a for a, b in itertools.pairwise(gaps))


@pytest.mark.parametrize(("severity", "haze"), by_severity((0.05, 0.09, 0.14, 0.2, 0.3)))
def test_depth_fog_takes_contrast_away_with_true_distance(severity, haze):
    """The further away, the less a black and a white ground differ: by e^(-haze · distance) of what they did."""
    plain = Scene(objects=(), height=1.5, target=(0.0, 0.8, 0.0))
    light = []
    for shade in (0.02, 0.9):
        ground = replace(plain, ground=((shade,) * 3, (shade,) * 3))
        light.append([unfilm(render([s], 48).image[0]) for s in (ground, shift_scene(ground, "depth_fog", severity))])
    (black, dim_black), (white, dim_white) = light
    maps = render([shift_scene(plain, "depth_fog", severity)], 48)
    _, direction = rays(plain, 48, 48)
    distance = maps.depth[0, 0].numpy() * np.linalg.norm(direction, axis=-1)
    near = (maps.segmentation[0] == 1).numpy() & (distance * haze < 2.5) & (distance < FAR)
    kept = ((dim_white - dim_black) / (white - black)).mean(0).numpy()[near]
    assert np.abs(kept - np.exp(-haze * distance[near])).max() < 0.05
    order = np.argsort(distance[near])
    parts = [part.mean() for part in np.array_split(kept[order], 5)]
    assert all(b < a for a, b in itertools.pairwise(parts))


def unfilm(image: torch.Tensor) -> torch.Tensor:
    """The light that made a pixel: the inverse of the renderer's film, by table."""
    light = np.linspace(0, 20, 400_001)
    screen = (light * (2.2 * light + 0.1) / (light * (2.0 * light + 0.6) + 0.15)).clip(0, 1) ** (1 / 2.2)
    rising = int(screen.argmax()) + 1
    return torch.from_numpy(np.interp(image.double().numpy(), screen[:rising], light[:rising]))


@pytest.mark.parametrize("name", ["camera_height", "camera_roll"])
def test_a_moved_camera_sees_the_same_world(name):
    """Depths taken back into the world lie on the ground and on the sphere, and the maps have moved."""
    ball = thing("sphere", 0.2, 0.1)
    s = Scene(objects=(ball,), ground=(COLOURS["cyan"],) * 2)
    clean = render([s], 48)
    for severity in SEVERITIES:
        moved = shift_scene(s, name, severity)
        got = render([moved], 48)
        eye, direction = rays(moved, 48, 48)
        depth, what = got.depth[0, 0].numpy(), got.objects[0].numpy()
        point = eye + depth[..., None] * direction
        on_ground, on_ball = (what == -1) & (depth < FAR), what == 0
        assert on_ball.sum() > 50
        assert np.abs(point[on_ground][:, 1]).max() < 1e-4
        away = point[on_ball] - np.array([ball.x, ball.size[0], ball.z])
        assert np.abs(np.linalg.norm(away, axis=1) - ball.size[0]).max() < 1e-4
        assert not torch.equal(got.segmentation, clean.segmentation)
        assert moved.objects == s.objects


def test_roll_turns_the_picture_and_its_maps_by_the_stated_angle():
    s, signs = replace(SCENES[2], view=50.0), set()
    still = render([s], 513)
    y, x = (np.mgrid[:65, :65] - 32) / 32.5
    for severity, degrees in zip(SEVERITIES, (6, 12, 18, 26, 35), strict=True):
        rolled = shift_scene(s, "camera_roll", severity, index=severity)
        assert abs(rolled.roll) == degrees
        got = render([rolled], 65)
        a = np.radians(rolled.roll)
        column, row = np.cos(a) * x + np.sin(a) * y, np.cos(a) * y - np.sin(a) * x
        column, row = ((v * 256.5 + 256).round().astype(int) for v in (column, row))
        seen = (abs(column - 256) <= 256) & (abs(row - 256) <= 256)
        column, row = column.clip(0, 512), row.clip(0, 512)
        inside = seen & ~edge_band(got.objects[0].numpy())
        assert inside.mean() > 0.6
        assert (still.objects[0].numpy()[row, column] == got.objects[0].numpy())[inside].mean() > 0.995
        depth = np.abs(still.depth[0, 0].numpy()[row, column] / got.depth[0, 0].numpy() - 1)
        assert np.median(depth[inside]) < 0.01
        signs.update(np.sign(shift_scene(s, "camera_roll", severity, index=i).roll) for i in range(12))
    assert signs == {-1, 1}


def test_camera_height_is_above_all_of_training():
    heights = [shift_scene(SCENES[0], "camera_height", s).height for s in SEVERITIES]
    assert heights == [2.3, 2.7, 3.2, 3.9, 4.8]
    assert max(random_scene(0, i).height for i in range(300)) < heights[0]
    shares = [(under("camera_height", s).segmentation == 0).float().mean().item() for s in SEVERITIES]
    assert all(b <= a for a, b in itertools.pairwise(shares)), "the higher, the less sky"
