"""Shifts of the scenes: corruptions of the image, and shifts of the scene that only a renderer can make.

A shift of the scene comes with its true segmentation and depth. The digits' rotation is a roll of the camera here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from torch import Tensor

from dtta.problems.corruptions import IMAGE_SHIFTS, apply_shift, check_severity, shift_key
from dtta.problems.scenes.world import UNSEEN_TEXTURES, Scene


def night(scene: Scene, s: int, rng: Random) -> Scene:
    """Replace the sun by a weak moon and darken the sky."""
    dark = (0.35, 0.25, 0.17, 0.12, 0.085)[s - 1]
    return replace(
        scene,
        sun=(dark * 1.6, dark * 1.9, dark * 2.6),
        sky=(dark * 0.10, dark * 0.16, dark * 0.40),
        horizon=(dark * 0.22, dark * 0.28, dark * 0.50),
    )


def coloured_light(scene: Scene, s: int, rng: Random) -> Scene:
    """Put a coloured filter in front of sun and sky."""
    keep = (0.6, 0.45, 0.3, 0.18, 0.08)[s - 1]
    filters = ((1, keep, keep), (keep, 1, keep), (keep, keep, 1), (1, keep, 1), (1, 0.8, keep), (keep, 1, 1))
    tint = rng.choice(filters)
    return replace(
        scene,
        **{n: tuple(c * k for c, k in zip(getattr(scene, n), tint, strict=True)) for n in ("sun", "sky", "horizon")},
    )


def depth_fog(scene: Scene, s: int, rng: Random) -> Scene:
    """Add fog that grows with the true distance: it attenuates light and adds the light of the horizon."""
    return replace(scene, haze=(0.05, 0.09, 0.14, 0.2, 0.3)[s - 1])


def unseen_textures(scene: Scene, s: int, rng: Random) -> Scene:
    """Give the ground a pattern that no training scene has, with a colour contrast that grows with severity."""
    gap = (0.05, 0.12, 0.2, 0.3, 0.4)[s - 1]
    middle = [sum(pair) / 2 for pair in zip(*scene.ground, strict=True)]
    tint = [rng.uniform(-1, 1) for _ in middle]
    ground = tuple(
        tuple(min(0.95, max(0.02, m + sign * gap * (1 + t))) for m, t in zip(middle, tint, strict=True))
        for sign in (1, -1)
    )
    return replace(scene, texture=rng.choice(UNSEEN_TEXTURES), ground=ground)


def camera_height(scene: Scene, s: int, rng: Random) -> Scene:
    """Raise the camera above the greatest height in training (2 units); its distance on the ground stays."""
    return replace(scene, height=(2.3, 2.7, 3.2, 3.9, 4.8)[s - 1])


def camera_roll(scene: Scene, s: int, rng: Random) -> Scene:
    """Roll the camera."""
    return replace(scene, roll=rng.choice((-1, 1)) * (6, 12, 18, 26, 35)[s - 1])


WORLD_SHIFTS: dict[str, Callable[[Scene, int, Random], Scene]] = {
    f.__name__: f for f in (night, coloured_light, depth_fog, unseen_textures, camera_height, camera_roll)
}
SHIFTS = (*IMAGE_SHIFTS, *WORLD_SHIFTS)


def shift_scene(scene: Scene, name: str, severity: int, seed: int = 0, index: int = 0) -> Scene:
    """Return the scene under a shift of the world, or else unchanged. Raises ValueError: see ``check_severity``."""
    check_severity(name, severity, SHIFTS)
    if name not in WORLD_SHIFTS:
        return scene
    return WORLD_SHIFTS[name](scene, severity, Random(shift_key(seed, name, severity, index)))


def shift_image(image: Tensor, name: str, severity: int, seed: int = 0, index: int = 0) -> Tensor:
    """Return the image (3, H, W) in [0, 1] under a shift of the image, or else unchanged. Raises: see `shift_scene`."""
    check_severity(name, severity, SHIFTS)
    return apply_shift(image, name, severity, seed, index, IMAGE_SHIFTS) if name in IMAGE_SHIFTS else image
