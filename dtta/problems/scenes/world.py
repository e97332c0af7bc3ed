"""The description of a scene, and random scenes from a seed and an index, the same on every machine.

Lengths are in scene units (an object is about one unit wide), angles in degrees, colours linear RGB.
The camera looks along +z, the ground is y = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random

from dtta.problems.scenes.sdf import SHAPES

CLASSES = ("sky", "ground", *SHAPES)
FAR = 16.0  # the largest depth, which is also that of the sky

Colour = tuple[float, float, float]

COLOURS: dict[str, Colour] = {
    "red": (0.75, 0.05, 0.05),
    "orange": (0.90, 0.30, 0.02),
    "yellow": (0.90, 0.70, 0.05),
    "green": (0.08, 0.45, 0.10),
    "cyan": (0.05, 0.55, 0.60),
    "blue": (0.04, 0.12, 0.65),
    "purple": (0.30, 0.06, 0.50),
    "pink": (0.90, 0.28, 0.45),
}
MATERIALS = ("matte", "shiny", "metal")
# The usual colours and material of a shape, as grass is usually green. Without them, the class of an object and its
# appearance would be related through the outline only.
HABITS: dict[str, tuple[tuple[str, ...], str]] = {
    "sphere": (("red",), "shiny"),
    "box": (("orange", "yellow"), "matte"),
    "cylinder": (("blue", "cyan"), "metal"),
    "cone": (("green",), "matte"),
    "torus": (("purple", "pink"), "shiny"),
}
TEXTURES = ("plain", "checkered", "striped", "sandy", "tiled")
UNSEEN_TEXTURES = ("dotted", "zigzag", "bricked", "ringed")  # only in the shift of that name


@dataclass(frozen=True)
class Object:
    """An object on the ground. For `size` see ``sdf``; `tilt` is 90 for an upright torus and 0 for a flat one."""

    shape: str
    colour: str
    material: str
    size: Colour
    x: float
    z: float
    yaw: float
    tilt: float
    albedo: Colour

    @property
    def height(self) -> float:
        """Height of the centre above the ground."""
        if self.shape == "sphere":
            return self.size[0]
        if self.shape == "torus":
            return self.size[1] + self.size[0] * math.sin(math.radians(self.tilt))
        return self.size[1]

    @property
    def reach(self) -> float:
        """Radius of a sphere around the centre that contains the object."""
        a, b, c = self.size
        radii = {"sphere": a, "box": math.hypot(a, b, c), "torus": a + b}
        return radii.get(self.shape, math.hypot(a, b))

    @property
    def name(self) -> str:
        """Material, colour and shape."""
        return f"{self.material} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Everything that determines an image: the input of the renderer."""

    objects: tuple[Object, ...]
    height: float = 1.6  # of the camera
    distance: float = 5.0  # on the ground, from the middle of the scene
    target: Colour = (0.0, 0.5, 0.0)  # the point in the middle of the image
    view: float = 42.0  # vertical angle of view
    roll: float = 0.0
    azimuth: float = 40.0  # of the sun; 0 is straight ahead
    elevation: float = 45.0
    sun: Colour = (2.6, 2.4, 2.1)
    sky: Colour = (0.25, 0.45, 0.85)  # overhead
    horizon: Colour = (0.80, 0.85, 0.90)
    texture: str = "plain"
    ground: tuple[Colour, Colour] = ((0.4, 0.35, 0.3), (0.5, 0.45, 0.4))
    pattern: float = 1.0  # scale of the pattern
    turn: float = 0.0
    haze: float = 0.0  # extinction by fog, per unit of distance
    exposure: float = 1.0

    @property
    def caption(self) -> str:
        """A sentence that names all objects and the ground."""
        names = [f"a {o.name}" for o in self.objects]
        objects = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        return f"{objects} on {'an' if self.texture[0] in 'aeiou' else 'a'} {self.texture} ground"


def random_scene(seed: int, index: int, habit: float = 0.8) -> Scene:
    """Return scene `index` of the world `seed`.

    The colour, and the material, of an object are those of `HABITS` with probability `habit`, otherwise drawn from all.
    """
    rng = Random(f"dtta scenes {seed}/{index}")
    between = rng.uniform
    base, other = _ground(rng)
    warm = between(0, 1)
    sky, horizon = _sky(rng)
    return Scene(
        objects=_objects(rng, rng.choice((1, 2, 2, 3, 3, 4)), habit),
        height=between(1.1, 2.0),
        distance=between(3.0, 4.0),
        target=(between(-0.25, 0.25), between(0.35, 0.7), 0.0),
        view=between(34, 42),
        azimuth=between(0, 360),
        elevation=between(25, 65),
        sun=(2.7, 2.3 + 0.3 * warm, 1.6 + 1.0 * warm),
        sky=sky,
        horizon=horizon,
        texture=rng.choice(TEXTURES),
        ground=(base, other),
        pattern=between(0.6, 1.1),
        turn=between(0, 90),
    )


def random_portrait(seed: int, index: int, kind: tuple[str, str, str]) -> Scene:
    """Return a scene with one object of the given material, colour and shape, from near; the rest as `random_scene`."""
    rng = Random(f"dtta portraits {seed}/{index}")
    target = _object(rng, 0.0, kind)
    target = replace(target, x=0.2 * target.x, z=0.2 * target.z)
    return replace(
        random_scene(seed, index),
        objects=(target,),
        distance=rng.uniform(2.0, 2.7),
        target=(target.x + rng.uniform(-0.15, 0.15), target.height + rng.uniform(-0.1, 0.15), target.z),
    )


def _objects(rng: Random, count: int, habit: float) -> tuple[Object, ...]:
    placed: list[Object] = []
    for _ in range(200):
        if len(placed) == count:
            break
        candidate = _object(rng, habit)
        if all(math.hypot(candidate.x - o.x, candidate.z - o.z) > _radius(candidate) + _radius(o) for o in placed):
            placed.append(candidate)
    return tuple(placed)


def _radius(o: Object) -> float:
    """Return the radius of a circle on the ground that contains the object."""
    a, b, c = o.size
    return {"box": math.hypot(a, c), "torus": a + b}.get(o.shape, a)


def _object(rng: Random, habit: float, kind: tuple[str, str, str] | None = None) -> Object:
    """Return a random object, or one of a given material, colour and shape."""
    between = rng.uniform
    shape = kind[2] if kind else rng.choice(SHAPES)
    scale = between(0.75, 1.15)
    size = {
        "sphere": (between(0.5, 0.62), 0.0, 0.0),
        "box": (between(0.38, 0.55), between(0.35, 0.6), between(0.38, 0.55)),
        "cylinder": (between(0.34, 0.48), between(0.45, 0.7), 0.0),
        "cone": (between(0.5, 0.65), between(0.5, 0.75), 0.0),
        "torus": (between(0.42, 0.52), between(0.15, 0.21), 0.0),
    }[shape]
    colours, material = HABITS[shape]
    colour = rng.choice(colours if between(0, 1) < habit else tuple(COLOURS))
    material = material if between(0, 1) < habit else rng.choice(MATERIALS)
    if kind:
        material, colour, _ = kind
    shade = between(0.8, 1.15)
    albedo = tuple(min(1.0, shade * c * between(0.9, 1.1) + 0.01) for c in COLOURS[colour])
    return Object(
        shape=shape,
        colour=colour,
        material=material,
        size=tuple(scale * s for s in size),
        x=between(-1.25, 1.25),
        z=between(-0.9, 1.9),
        yaw=between(0, 180),
        tilt=rng.choice((0.0, 90.0)) if shape == "torus" else 0.0,
        albedo=albedo,
    )


def _ground(rng: Random) -> tuple[Colour, Colour]:
    """Return two dull colours, the first lighter than the second."""
    tint = [rng.uniform(-0.06, 0.06) for _ in range(3)]
    light, gap = rng.uniform(0.16, 0.42), rng.uniform(0.08, 0.2)
    return tuple(light + t for t in tint), tuple(max(0.03, light - gap + 0.7 * t) for t in tint)


def _sky(rng: Random) -> tuple[Colour, Colour]:
    """Return the colours of the sky overhead and at the horizon: clear, overcast or in the evening."""
    kind = rng.choice(("clear", "clear", "overcast", "evening"))
    a = rng.uniform(0.85, 1.15)
    over = {"clear": (0.16, 0.36, 0.80), "overcast": (0.50, 0.55, 0.62), "evening": (0.30, 0.34, 0.62)}[kind]
    low = {"clear": (0.62, 0.76, 0.92), "overcast": (0.72, 0.75, 0.78), "evening": (0.95, 0.66, 0.50)}[kind]
    return tuple(a * c for c in over), low
