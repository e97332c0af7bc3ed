"""The renderer: from scenes to images with their true segmentation and depth.

Rays are marched only where they cross a sphere around an object; the intersection with the ground has a closed form.
All arithmetic is in double precision and the image is rounded to 8 bits, so that it is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dtta.problems.scenes import sdf
from dtta.problems.scenes.textures import ground_pattern
from dtta.problems.scenes.world import CLASSES, FAR, MATERIALS, SHAPES, Scene

SKY, GROUND = -2, -1  # in place of the index of an object
SUN_WIDTH = 0.05  # angular radius; larger than that of the real sun, for softer shadows
_D = torch.float64


@dataclass(frozen=True)
class Rendered:
    """The images and maps of N scenes.

    Args:
        image: (N, 3, H, W) in [0, 1], multiples of 1/255.
        segmentation: (N, H, W), the class at each pixel's centre (``world.CLASSES``).
        depth: (N, 1, H, W), distance along the camera's axis in scene units, at most ``world.FAR``.
        objects: (N, H, W), the index of the object in its scene, -1 for the ground, -2 for the sky.
    """

    image: Tensor
    segmentation: Tensor
    depth: Tensor
    objects: Tensor


@torch.no_grad()
def render(scenes: Sequence[Scene], size: int | tuple[int, int] = 64, supersample: int = 1) -> Rendered:
    """Render scenes at a size in pixels (one number, or height and width).

    The colour of a pixel is the mean of supersample² rays, which smooths edges; its segmentation and depth are always
    those of its centre. Raises ValueError: no scene, or a size or supersample below one.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if not scenes or min(height, width, supersample) < 1:
        raise ValueError(f"nothing to draw: {len(scenes)} scenes of {height} x {width}, supersample {supersample}")
    world = _World(scenes)
    N, a = len(scenes), supersample
    rays = [world.rays(height, width)]
    if a > 1:
        rays.append(world.rays(height * a, width * a))
    # One trace for both: with few scenes the time depends on the number of operations, not on their size.
    scene, direction = (torch.cat(parts) for parts in zip(*rays, strict=True))
    hits = world.trace(scene, world.eye[scene], direction)
    centres, colours = slice(N * height * width), slice(-N * height * a * width * a, None)
    t, what = (values[centres] for values in hits)
    depth = t * (direction[centres] * world.forward[scene[centres]]).sum(1)
    scene, direction = scene[colours], direction[colours]
    light = world.shade(scene, world.eye[scene], direction, *(values[colours] for values in hits))
    light = light.view(N, height, a, width, a, 3).mean(dim=(2, 4))
    image = (_film(light) * 255).round() / 255
    kinds = world.shape.clamp(min=0)[_scene_of(N, height * width), what.clamp(min=0)] + 2
    classes = torch.where(what == SKY, 0, torch.where(what == GROUND, 1, kinds))
    return Rendered(
        image=image.permute(0, 3, 1, 2).float().contiguous(),
        segmentation=classes.view(N, height, width),
        depth=depth.clamp(max=FAR).view(N, 1, height, width).float(),
        objects=what.view(N, height, width),
    )


def _film(light: Tensor) -> Tensor:
    """Map linear light to pixel values: a tone curve that compresses highlights, then gamma 2.2."""
    return ((light * (2.2 * light + 0.1)) / (light * (2.0 * light + 0.6) + 0.15)).clamp(0, 1) ** (1 / 2.2)


def _scene_of(scenes: int, rays: int) -> Tensor:
    return torch.arange(scenes).repeat_interleave(rays)


class _World:
    """Scenes as tensors: (S, K, ...) for up to K objects each."""

    def __init__(self, scenes: Sequence[Scene]):
        self.scenes = scenes
        K = max(1, *(len(s.objects) for s in scenes)) if len(scenes) > 1 else max(1, len(scenes[0].objects))
        shape = (len(scenes), K)
        self.shape = torch.full(shape, -1)
        self.material = torch.zeros(shape, dtype=torch.long)
        self.centre, self.size, self.albedo = (torch.zeros(*shape, 3, dtype=_D) for _ in range(3))
        self.reach = torch.zeros(shape, dtype=_D)
        self.frame = torch.eye(3, dtype=_D).repeat(*shape, 1, 1)  # world -> object
        for s, scene in enumerate(scenes):
            for k, o in enumerate(scene.objects):
                self.shape[s, k] = SHAPES.index(o.shape)
                self.material[s, k] = MATERIALS.index(o.material)
                self.centre[s, k] = torch.tensor([o.x, o.height, o.z])
                self.size[s, k] = torch.tensor(o.size)
                self.albedo[s, k] = torch.tensor(o.albedo)
                self.reach[s, k] = o.reach
                self.frame[s, k] = _turn_x(o.tilt) @ _turn_y(o.yaw)
        self.eye = _stack(scenes, lambda s: (s.target[0], s.height, -s.distance))
        self.forward = _unit(_stack(scenes, lambda s: s.target) - self.eye)
        self.to_sun = _stack(scenes, lambda s: _direction(s.azimuth, s.elevation))
        self.sun, self.sky, self.horizon = (
            _stack(scenes, lambda s, n=n: getattr(s, n)) for n in ("sun", "sky", "horizon")
        )
        self.haze, self.exposure = (_stack(scenes, lambda s, n=n: (getattr(s, n),)) for n in ("haze", "exposure"))

    def rays(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return a ray through each pixel's centre: the index of its scene (S·H·W,), its unit direction (S·H·W, 3)."""
        up = torch.tensor([0.0, 1.0, 0.0], dtype=_D).expand_as(self.forward)
        right = _unit(torch.linalg.cross(up, self.forward))
        up = torch.linalg.cross(self.forward, right)
        roll = torch.tensor([math.radians(s.roll) for s in self.scenes], dtype=_D)[:, None]
        right, up = roll.cos() * right + roll.sin() * up, roll.cos() * up - roll.sin() * right
        half = torch.tensor([math.tan(math.radians(s.view) / 2) for s in self.scenes], dtype=_D)
        y = (1 - 2 * (torch.arange(height, dtype=_D) + 0.5) / height).view(1, height, 1, 1)
        x = ((2 * (torch.arange(width, dtype=_D) + 0.5) - width) / height).view(1, 1, width, 1)
        half = half.view(-1, 1, 1, 1)
        forward, right, up = (v[:, None, None] for v in (self.forward, right, up))
        direction = _unit(forward + half * (x * right + y * up)).flatten(0, 2)
        scene = _scene_of(len(self.scenes), height * width)
        return scene, direction

    def crossings(self, scene: Tensor, point: Tensor, direction: Tensor, grow: float = 0.0):
        """Return (ray, object, near, far) for each pair of a ray and an object whose bounding sphere it crosses."""
        away = point[:, None] - self.centre[scene]  # (R, K, 3)
        b = (away * direction[:, None]).sum(2)
        radius = self.reach[scene] + grow
        under = b * b - (away * away).sum(2) + radius * radius
        ray, k = ((self.shape[scene] >= 0) & (under > 0) & (b < under.clamp(min=0).sqrt())).nonzero().unbind(1)
        b, root = b[ray, k], under[ray, k].sqrt()
        return ray, k, (-b - root).clamp(min=0), -b + root

    def by_shape(self, scene, point, direction, grow=0.0):
        """Yield the crossings of one shape after the other, with points and directions in the frames of the objects."""
        ray, k, near, far = self.crossings(scene, point, direction, grow)
        for number, shape in enumerate(SHAPES):
            of = (self.shape[scene[ray], k] == number).nonzero()[:, 0]
            if len(of):
                r, o = ray[of], k[of]
                frame, s = self.frame[scene[r], o], scene[r]
                p = torch.einsum("mij,mj->mi", frame, point[r] - self.centre[s, o])
                d = torch.einsum("mij,mj->mi", frame, direction[r])
                yield shape, r, o, self.size[s, o], p, d, near[of], far[of]

    def trace(self, scene: Tensor, point: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first intersection of each ray: t (R,), and the object (R,), GROUND or SKY (t infinite)."""
        down = direction[:, 1]
        t = torch.where(down < -1e-9, -point[:, 1] / down.clamp(max=-1e-9), torch.inf)
        what = torch.where(t.isfinite(), GROUND, SKY)
        best = torch.full((len(point), self.shape.shape[1]), torch.inf, dtype=_D)
        for shape, r, o, size, p, d, near, far in self.by_shape(scene, point, direction):
            best[r, o] = sdf.march(shape, size, p, d, near, far)
        nearest, which = best.min(dim=1)
        return torch.minimum(t, nearest), torch.where(nearest < t, which, what)

    def normals(self, scene: Tensor, point: Tensor, what: Tensor) -> Tensor:
        """Return the unit normals (R, 3) at points on the surfaces."""
        normals = torch.tensor([0.0, 1.0, 0.0], dtype=_D).repeat(len(point), 1)
        for number, shape in enumerate(SHAPES):
            of = ((what >= 0) & (self.shape[scene, what.clamp(min=0)] == number)).nonzero()[:, 0]
            if len(of):
                s, o = scene[of], what[of]
                frame = self.frame[s, o]
                p = torch.einsum("mij,mj->mi", frame, point[of] - self.centre[s, o])
                normals[of] = torch.einsum("mji,mj->mi", frame, sdf.normal(shape, p, self.size[s, o]))
        return normals

    def sunlight(self, scene: Tensor, point: Tensor) -> Tensor:
        """Return the share of the sun (R,) that is visible from each point."""
        towards = self.to_sun[scene]
        light = torch.ones(len(point), self.shape.shape[1], dtype=_D)
        for shape, r, o, size, p, d, near, far in self.by_shape(scene, point, towards, grow=0.2):
            light[r, o] = sdf.light_through(shape, size, p, d, near, far, SUN_WIDTH)
        return light.amin(dim=1)

    def openness(self, scene: Tensor, point: Tensor, normal: Tensor, what: Tensor) -> Tensor:
        """Return the share of the sky (R,) that is visible from each point, with the other objects as spheres."""
        towards = self.centre[scene] - point[:, None]  # (R, K, 3)
        square = (towards * towards).sum(2)
        facing = ((towards * normal[:, None]).sum(2) / square.sqrt()).clamp(min=0)
        cover = facing * (0.75 * self.reach[scene]) ** 2 / square
        itself = torch.arange(self.shape.shape[1])[None] == what[:, None]
        cover = torch.where(itself | (self.shape[scene] < 0), 0.0, cover).clamp(max=0.9)
        near_ground = torch.where(what >= 0, 0.6 + 0.4 * (point[:, 1] / 0.6).clamp(0, 1), 1.0)
        return (1 - cover).prod(dim=1) * near_ground

    def heaven(self, scene: Tensor, direction: Tensor, disc: bool = True) -> Tensor:
        """Return the light (R, 3) from the sky, with or without the disc of the sun."""
        rise = direction[:, 1:].narrow(1, 0, 1).clamp(0, 1) ** 0.6
        light = self.horizon[scene] * (1 - rise) + self.sky[scene] * rise
        towards = (direction * self.to_sun[scene]).sum(1, keepdim=True).clamp(min=0)
        glow = 0.10 * towards**8 + (0.35 * towards**90 if disc else 0)
        return light + glow * self.sun[scene]

    def shade(self, scene: Tensor, point: Tensor, direction: Tensor, t: Tensor, what: Tensor, bounce: bool = True):
        """Return the light (R, 3) that arrives along each ray."""
        light = self.heaven(scene, direction)
        hit = (what != SKY).nonzero()[:, 0]
        if len(hit) == 0:
            return light * self.exposure[scene]
        s, d, w, far = scene[hit], direction[hit], what[hit], t[hit]
        p = point[hit] + far[:, None] * d
        n = self.normals(s, p, w)
        p = p + 1e-3 * n  # offset, so that the surface does not shade itself
        sun, towards = self.sun[s], self.to_sun[s]
        facing = (n * towards).sum(1)
        lit = torch.zeros_like(facing)
        day = (facing > 0).nonzero()[:, 0]
        lit[day] = self.sunlight(s[day], p[day])
        direct = (facing.clamp(min=0) * lit)[:, None] * sun
        up = 0.5 + 0.5 * n[:, 1:2]
        ambient = up * (0.55 * self.sky[s] + 0.30 * self.horizon[s]) + (1 - up) * 0.18 * self.horizon[s]
        ambient = ambient * self.openness(s, p, n, w)[:, None]
        albedo = self.albedo[s, w.clamp(min=0)].clone()
        on_ground = (w == GROUND).nonzero()[:, 0]
        if len(on_ground):
            albedo[on_ground] = ground_pattern(self.scenes, s[on_ground], p[on_ground], far[on_ground])
        kind = torch.where(w >= 0, self.material[s, w.clamp(min=0)], 0)
        body = albedo * (0.62 * direct + 0.75 * ambient) * torch.where(kind == 2, 0.25, 1.0)[:, None]
        gloss = (kind > 0).nonzero()[:, 0]
        if len(gloss):
            body[gloss] += self.mirror(
                s[gloss], p[gloss], d[gloss], n[gloss], kind[gloss], albedo[gloss], lit[gloss], bounce
            )
        # Fog attenuates light with distance and adds the light of the horizon; a little is always present.
        clear = torch.exp(-(self.haze[s] + 0.006) * far[:, None])
        light[hit] = body * clear + self.horizon[s] * (1 - clear)
        sky_clear = torch.exp(-self.haze[scene] * 2 * FAR)
        light = torch.where((what == SKY)[:, None], light * sky_clear + self.horizon[scene] * (1 - sky_clear), light)
        return light * self.exposure[scene]

    def mirror(self, s, p, d, n, kind, albedo, lit, bounce) -> Tensor:
        """Return what shiny and metal surfaces add (R, 3): the sun's highlight and a reflection of the world."""
        away = d - 2 * (d * n).sum(1, keepdim=True) * n
        sharp = torch.where(kind == 2, 60.0, 120.0)[:, None]
        highlight = (away * self.to_sun[s]).sum(1, keepdim=True).clamp(min=0) ** sharp * lit[:, None] * self.sun[s]
        reflected = self.heaven(s, away, disc=False)
        if bounce:
            t, what = self.trace(s, p, away)
            there = (what != SKY).nonzero()[:, 0]
            if len(there):
                reflected[there] = self.shade(s[there], p[there], away[there], t[there], what[there], bounce=False)
        else:
            reflected = torch.where(away[:, 1:2] < 0, 0.3 * self.horizon[s], reflected)
        edge = (1 + (d * n).sum(1, keepdim=True)).clamp(0, 1) ** 5  # Schlick's approximation of Fresnel
        metal = (kind == 2)[:, None]
        share = torch.where(metal, albedo + (1 - albedo) * edge, 0.05 + 0.6 * edge)
        return share * reflected + torch.where(metal, 0.8 * albedo, torch.full_like(albedo, 0.9)) * highlight


def _stack(scenes: Sequence[Scene], values) -> Tensor:
    return torch.tensor([values(s) for s in scenes], dtype=_D)


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True)


def _direction(azimuth: float, elevation: float) -> tuple[float, float, float]:
    a, e = math.radians(azimuth), math.radians(elevation)
    return math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)


def _turn_y(degrees: float) -> Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]], dtype=_D)


def _turn_x(degrees: float) -> Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=_D)


assert CLASSES[2:] == SHAPES
