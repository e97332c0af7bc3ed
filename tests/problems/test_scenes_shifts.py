"""The shifts of the scenes: what their names and constants say, and maps that remain true."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import pytest
import torch
from test_scenes_world import COLOURS, edge_band, rays, thing

from dtta.problems.corruptions import IMAGE_SHIFTS, SEVERITIES, apply_shift
from dtta.problems.scenes import data
from dtta.problems.scenes.render import render
from dtta.problems.scenes.shifts import SHIFTS, WORLD_SHIFTS, shift_image, shift_scene
from dtta.problems.scenes.world import FAR, TEXTURES, UNSEEN_TEXTURES, Scene, random_scene

LIGHT_ONLY = ("night", "coloured_light", "depth_fog", "unseen_textures")  # nothing moves
SCENES = [random_scene(21, i) for i in range(60)]
IMAGE = render(SCENES[:1], 32, 2).image[0]


def by_severity(settings: Sequence) -> list[tuple]:
    return list(zip(SEVERITIES, settings, strict=True))


@cache
def under(name: str, severity: int):
    return render([shift_scene(s, name, severity, index=i) for i, s in enumerate(SCENES[:8])], 32)


@pytest.mark.parametrize("severity", [0, 6, -1, 2.5, 3.0, "3", None])
def test_severities_are_one_to_five(severity):
    for name in ("fog", "night"):
        with pytest.raises(ValueError, match="severity must be 1, 2, 3, 4 or 5, not "):
            shift_image(IMAGE, name, severity)
        with pytest.raises(ValueError, match="severity must be 1, 2, 3, 4 or 5, not "):
            shift_scene(SCENES[0], name, severity)


@pytest.mark.parametrize(("shift", "argument"), [(shift_image, IMAGE), (shift_scene, SCENES[0])])
def test_unknown_shifts_are_refused_with_the_choices(shift, argument):
    with pytest.raises(ValueError, match=r"unknown shift 'frost'; choose from clean, gaussian_noise, .*camera_roll"):
        shift(argument, "frost", 3)


def test_a_shift_changes_either_the_image_or_the_scene():
    assert set(WORLD_SHIFTS) == {*LIGHT_ONLY, "camera_height", "camera_roll"}
    assert (*IMAGE_SHIFTS, *WORLD_SHIFTS) == SHIFTS
    for name in ("clean", *WORLD_SHIFTS):
        assert torch.equal(shift_image(IMAGE, name, 3), IMAGE)
    for name in ("clean", *IMAGE_SHIFTS):
        assert shift_scene(SCENES[0], name, 3) == SCENES[0]
        assert torch.equal(shift_image(IMAGE, name, 3, 5, 7), apply_shift(IMAGE, name, 3, 5, 7, IMAGE_SHIFTS))


def test_the_shift_of_a_scene_depends_only_on_seed_name_severity_and_index():
    for name in WORLD_SHIFTS:
        first = [shift_scene(s, name, 4, index=i) for i, s in enumerate(SCENES)]
        again = [shift_scene(s, name, 4, index=i) for i, s in reversed(list(enumerate(SCENES)))]
        assert first == again[::-1]
        assert all(a != b for a, b in zip(first, SCENES, strict=True))
        if name in ("coloured_light", "unseen_textures", "camera_roll"):
            assert len({shift_scene(SCENES[0], name, 4, seed, i) for seed in (0, 1) for i in range(6)}) > 1


@pytest.mark.parametrize("name", LIGHT_ONLY)
def test_light_fog_and_textures_do_not_change_the_maps(name):
    clean = under("clean", 1)
    for severity in SEVERITIES:
        shifted = under(name, severity)
        for field in ("segmentation", "depth", "objects"):
            assert torch.equal(getattr(shifted, field), getattr(clean, field))
        assert not torch.equal(shifted.image, clean.image)
        assert shifted.image.min() >= 0 and shifted.image.max() <= 1


@pytest.mark.parametrize("name", LIGHT_ONLY)
def test_the_change_of_the_world_grows_with_severity(name):
    """With the same random numbers at each severity: a green light changes more than a yellow one."""
    clean = under("clean", 1).image
    change = []
    for severity in SEVERITIES:
        shifted = render([WORLD_SHIFTS[name](s, severity, Random(i)) for i, s in enumerate(SCENES[:8])], 32)
        change.append((shifted.image - clean).abs().mean().item())
    assert change[0] > 0.01
    assert all(b > a for a, b in itertools.pairwise(change)), change


def test_night_is_dark_and_blue():
    light = [under("night", s).image.mean((0, 2, 3)) for s in SEVERITIES]
    assert all((b < a).all() for a, b in itertools.pairwise(light))
    clean = under("clean", 1).image.mean((0, 2, 3))
    for colour in light:
        assert colour.mean() < clean.mean()
        assert colour[2] / colour[0] > clean[2] / clean[0]


@pytest.mark.parametrize(("severity", "keep"), by_severity((0.6, 0.45, 0.3, 0.18, 0.08)))
def test_coloured_light_is_a_filter_in_front_of_sun_and_sky(severity, keep):
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


def test_unseen_textures_do_not_occur_in_training():
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
def test_depth_fog_reduces_contrast_with_the_true_distance(severity, haze):
    """The difference between a black and a white ground decreases by the factor e^(-haze · distance)."""
    plain = Scene(objects=(), height=1.5, target=(0.0, 0.8, 0.0))
    light = []
    for shade in (0.02, 0.9):
        ground = replace(plain, ground=((shade,) * 3, (shade,) * 3))
        light.append([to_light(render([s], 48).image[0]) for s in (ground, shift_scene(ground, "depth_fog", severity))])
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


def to_light(image: torch.Tensor) -> torch.Tensor:
    """Return the light of a pixel: the inverse of the renderer's tone curve, by table."""
    light = np.linspace(0, 20, 400_001)
    screen = (light * (2.2 * light + 0.1) / (light * (2.0 * light + 0.6) + 0.15)).clip(0, 1) ** (1 / 2.2)
    rising = int(screen.argmax()) + 1
    return torch.from_numpy(np.interp(image.double().numpy(), screen[:rising], light[:rising]))


@pytest.mark.parametrize("name", ["camera_height", "camera_roll"])
def test_a_moved_camera_sees_the_same_world(name):
    """Points computed from the depths lie on the ground and on the sphere, and the maps have changed."""
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


def test_corruptions_of_a_scene_share_one_rendering():
    data.draw_one.cache_clear()
    names = ["clean", "fog", "contrast", "gaussian_noise"]
    images = [
        data.shifted("depth", "test", 234, name, 3, 0)[0].zero_() for name in names
    ]  # a copy: in place is harmless
    assert data.draw_one.cache_info().misses == 1
    (rendered,) = data.draw([data.scene("test", 234)]).image
    for name, image in zip(names, images, strict=True):
        assert not image.any()
        expected = shift_image(rendered, name, 3, 0, 234)
        assert torch.equal(data.shifted("depth", "test", 234, name, 3, 0)[0], expected)
    data.shifted("depth", "test", 234, "night", 3, 0)
    assert data.draw_one.cache_info().misses == 2, "a shift of the world is rendered anew"
