"""The shapes of the world as signed distance functions, and ray marching.

A signed distance function returns the distance of a point from a surface (negative inside). A ray may advance by this
distance without crossing the surface: sphere tracing (Hart, The Visual Computer 12, 1996).

Points are in the frame of the shape: centre at the origin, y up. `size` (M, 3) is, for a sphere: radius; box: half
edges; cylinder: radius, half height; cone: radius of the base, half height; torus: radius of the ring, of the tube.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = ("sphere", "box", "cylinder", "cone", "torus")
EDGE = 0.06  # radius of a box's rounded edges


def sphere(p: Tensor, size: Tensor) -> Tensor:
    """Return the distance from a sphere of radius size[0]."""
    return p.norm(dim=1) - size[:, 0]


def box(p: Tensor, size: Tensor) -> Tensor:
    """Return the distance from a box with rounded edges and half sides `size`."""
    q = p.abs() - (size - EDGE)
    return q.clamp(min=0).norm(dim=1) + q.amax(dim=1).clamp(max=0) - EDGE


def cylinder(p: Tensor, size: Tensor) -> Tensor:
    """Return the distance from a vertical cylinder of radius size[0] and half height size[1]."""
    q = torch.stack([p[:, [0, 2]].norm(dim=1) - size[:, 0], p[:, 1].abs() - size[:, 1]], dim=1)
    return q.clamp(min=0).norm(dim=1) + q.amax(dim=1).clamp(max=0)


def cone(p: Tensor, size: Tensor) -> Tensor:
    """Return the distance from a cone; in the half plane (distance from the axis, y) it is a triangle."""
    r, h = size[:, 0], size[:, 1]
    x, y = p[:, [0, 2]].norm(dim=1), p[:, 1]
    base = (x - torch.minimum(x, r)) ** 2 + (y + h) ** 2
    along = ((r - x) * r + (y + h) * 2 * h) / (r**2 + 4 * h**2)  # position on the slope, 0 at the rim, 1 at the tip
    along = along.clamp(0, 1)
    slope = (x - r * (1 - along)) ** 2 + (y + h - 2 * h * along) ** 2
    inside = (y > -h) & ((x - r) * 2 * h + (y + h) * r < 0)
    return torch.where(inside, -1.0, 1.0) * torch.minimum(base, slope).sqrt()


def torus(p: Tensor, size: Tensor) -> Tensor:
    """Return the distance from a flat torus: a ring of radius size[0], a tube of radius size[1]."""
    ring = p[:, [0, 2]].norm(dim=1) - size[:, 0]
    return torch.hypot(ring, p[:, 1]) - size[:, 1]


DISTANCE = {"sphere": sphere, "box": box, "cylinder": cylinder, "cone": cone, "torus": torus}


def normal(shape: str, p: Tensor, size: Tensor, step: float = 1e-4) -> Tensor:
    """Return the unit normals (M, 3) at points on the surface: the gradient of the distance, from four samples."""
    total = torch.zeros_like(p)
    for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        k = torch.tensor(corner, dtype=p.dtype)
        total += k * DISTANCE[shape](p + step * k, size)[:, None]
    return total / total.norm(dim=1, keepdim=True).clamp(min=1e-12)


def march(
    shape: str, size: Tensor, origin: Tensor, direction: Tensor, near: Tensor, far: Tensor, steps: int = 300
) -> Tensor:
    """Return the parameter t (M,) at which rays first meet the shape between near and far; infinite if they miss."""
    distance = DISTANCE[shape]
    hit_at = torch.full_like(near, torch.inf)
    ray = torch.arange(len(near))
    t = near.clone()
    for step in range(steps):
        d = distance(origin + t[:, None] * direction, size)
        hit = d < 1e-6
        hit_at[ray[hit]] = t[hit]
        t = t + d
        if step % 3 == 2:
            keep = (~hit & (t < far)).nonzero()[:, 0]  # the rays that have neither hit nor passed the shape
            if len(keep) == 0:
                break
            ray, t, size, origin, direction, far = (x[keep] for x in (ray, t, size, origin, direction, far))
    return hit_at


def light_through(
    shape: str,
    size: Tensor,
    origin: Tensor,
    direction: Tensor,
    near: Tensor,
    far: Tensor,
    width: float,
    steps: int = 22,
) -> Tensor:
    """Return the visible share (M,) of a sun of angular radius `width`, for rays towards it that may pass the shape.

    The shape covers part of the sun if the ray passes it at a distance d < t · width.
    """
    distance = DISTANCE[shape]
    light = torch.ones_like(near)
    ray = torch.arange(len(near))
    t = near.clamp(min=1e-3)
    for step in range(steps):
        d = distance(origin + t[:, None] * direction, size)
        light[ray] = torch.minimum(light[ray], (0.5 + 0.5 * d / (width * t)).clamp(0, 1))
        t = t + d.abs().clamp(0.015, 0.3)
        if step % 3 == 2:
            keep = ((light[ray] > 0) & (t < far)).nonzero()[:, 0]
            if len(keep) == 0:
                break
            ray, t, size, origin, direction, far = (x[keep] for x in (ray, t, size, origin, direction, far))
    return light * light * (3 - 2 * light)
