"""Textures of the ground: patterns in the plane that mix two colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dtta.problems.scenes.world import TEXTURES, UNSEEN_TEXTURES, Scene

NAMES = TEXTURES + UNSEEN_TEXTURES


def ground_pattern(scenes: Sequence[Scene], scene: Tensor, point: Tensor, distance: Tensor) -> Tensor:
    """Return the colour of the ground (R, 3) at points (R, 3); with distance a pattern fades to its mean."""
    table = [(math.cos(math.radians(s.turn)), math.sin(math.radians(s.turn)), s.pattern) for s in scenes]
    c, k, scale = torch.tensor(table, dtype=point.dtype)[scene].unbind(1)
    x, z = point[:, 0], point[:, 2]
    u, v = (c * x - k * z) / scale, (k * x + c * z) / scale
    kinds = torch.tensor([NAMES.index(s.texture) for s in scenes])[scene]
    mix = torch.full_like(u, 0.5)
    for number, name in enumerate(NAMES):
        of = (kinds == number).nonzero()[:, 0]
        if len(of):
            mix[of] = PATTERNS[name](u[of], v[of])
    fade = torch.exp(-((distance / 14) ** 2))
    grain = 0.10 * (noise(u * 9, v * 9) - 0.5) * fade
    mix = (0.5 + (mix - 0.5) * fade + grain)[:, None]
    first, second = torch.tensor([s.ground for s in scenes], dtype=point.dtype)[scene].unbind(1)
    return (first * mix + second * (1 - mix)).clamp(0.01, 1)


def noise(u: Tensor, v: Tensor) -> Tensor:
    """Return value noise in [0, 1]: random heights on a grid, smoothly interpolated."""
    i, j = u.floor(), v.floor()
    fu, fv = u - i, v - j
    fu, fv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    corners = [_hash(i + a, j + b) for a in (0, 1) for b in (0, 1)]
    low, high = corners[0] * (1 - fv) + corners[1] * fv, corners[2] * (1 - fv) + corners[3] * fv
    return low * (1 - fu) + high * fu


def _hash(i: Tensor, j: Tensor) -> Tensor:
    """Return a number in [0, 1] for each pair of integers, by integer arithmetic: the same on every machine."""
    h = (i.long() * 73856093) ^ (j.long() * 19349663)
    h = (h ^ (h >> 13)) * 1274126177 & 0x7FFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF).to(i.dtype) / 0xFFFF


def _odd(x: Tensor) -> Tensor:
    return x.floor().remainder(2)


def _plain(u, v):
    return torch.full_like(u, 0.5)


def _checkered(u, v):
    return (_odd(u * 1.3) + _odd(v * 1.3)).remainder(2)


def _striped(u, v):
    return _odd(u * 2)


def _sandy(u, v):
    return 0.55 * noise(u * 1.5, v * 1.5) + 0.3 * noise(u * 4, v * 4) + 0.15 * noise(u * 11, v * 11)


def _tiled(u, v):
    joint = ((u * 1.4).remainder(1) < 0.12) | ((v * 1.4).remainder(1) < 0.12)
    return torch.where(joint, 0.0, 0.6 + 0.4 * _hash((u * 1.4).floor(), (v * 1.4).floor()))


def _dotted(u, v):
    return (torch.hypot((u * 1.5).remainder(1) - 0.5, (v * 1.5).remainder(1) - 0.5) < 0.3).to(u.dtype)


def _zigzag(u, v):
    return _odd(v * 2 + 2 * (u.remainder(1) - 0.5).abs())


def _bricked(u, v):
    row = (v * 2.2).floor()
    joint = ((u * 1.1 + 0.5 * row.remainder(2)).remainder(1) < 0.08) | ((v * 2.2).remainder(1) < 0.15)
    return torch.where(joint, 1.0, 0.4 * _hash((u * 1.1 + 0.5 * row.remainder(2)).floor(), row))


def _ringed(u, v):
    return _odd(torch.hypot(u, v) * 2)


PATTERNS = {
    "plain": _plain, "checkered": _checkered, "striped": _striped, "sandy": _sandy, "tiled": _tiled,
    "dotted": _dotted, "zigzag": _zigzag, "bricked": _bricked, "ringed": _ringed,
}  # fmt: skip
