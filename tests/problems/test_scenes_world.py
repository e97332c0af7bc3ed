"""The renderer of the scenes against closed forms of the geometry."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from dtta.problems.scenes import sdf
from dtta.problems.scenes.render import render
from dtta.problems.scenes.textures import noise
from dtta.problems.scenes.world import CLASSES, COLOURS, FAR, MATERIALS, TEXTURES, Object, Scene, random_scene

SIZES = {
    "sphere": (0.6, 0.0, 0.0),
    "box": (0.5, 0.4, 0.45),
    "cylinder": (0.45, 0.5, 0.0),
    "cone": (0.55, 0.6, 0.0),
    "torus": (0.5, 0.18, 0.0),
}
MAPS = ("image", "segmentation", "depth", "objects")


def thing(shape: str, x=0.0, z=0.0, yaw=0.0, tilt=0.0, size=None, colour="red", material="matte") -> Object:
    return Object(shape, colour, material, size or SIZES[shape], x, z, yaw, tilt, albedo=COLOURS[colour])


def scene(*objects: Object, **settings) -> Scene:
    return Scene(objects=objects, **settings)


# --- an independent implementation of the geometry -----------------------------------------------------


def rays(s: Scene, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The eye (3,) and a direction (H, W, 3) for each pixel, so long that its parameter is the depth."""
    eye = np.array([s.target[0], s.height, -s.distance])
    forward = np.array(s.target) - eye
    forward /= np.linalg.norm(forward)
    right = np.array([forward[2], 0, -forward[0]]) / np.hypot(forward[0], forward[2])
    up = np.array([forward[1] * right[2], forward[2] * right[0] - forward[0] * right[2], -forward[1] * right[0]])
    row, column = np.mgrid[:height, :width] + 0.5
    u, v = (column - width / 2) / (height / 2), (height / 2 - row) / (height / 2)
    c, k = np.cos(np.radians(s.roll)), np.sin(np.radians(s.roll))
    u, v = (c * u - k * v)[..., None], (k * u + c * v)[..., None]
    return eye, forward + np.tan(np.radians(s.view / 2)) * (u * right + v * up)


def into(o: Object, p: np.ndarray) -> np.ndarray:
    """World directions, or points less the object's centre, in the object's frame."""
    a, b = np.radians(o.yaw), np.radians(o.tilt)
    x, y, z = np.cos(a) * p[..., 0] - np.sin(a) * p[..., 2], p[..., 1], np.sin(a) * p[..., 0] + np.cos(a) * p[..., 2]
    return np.stack([x, np.cos(b) * y - np.sin(b) * z, np.sin(b) * y + np.cos(b) * z], axis=-1)


def first_root(a, b, c, allowed=lambda t: True) -> np.ndarray:
    """The smallest positive root of a t² + 2 b t + c that is allowed."""
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(b * b - a * c)
        roots = [np.where((t > 0) & allowed(t), t, np.inf) for t in ((-b - root) / a, (-b + root) / a)]
    return np.fmin(*roots)


def meet(o: Object, eye: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The depth (H, W) at which rays meet an object (a box with sharp edges), infinite where they miss."""
    a, b, _ = o.size
    centre = np.array([o.x, {"sphere": a, "torus": b + a * np.sin(np.radians(o.tilt))}.get(o.shape, b), o.z])
    p, d = into(o, eye - centre), into(o, direction)
    dot = lambda u, v, axes=(0, 1, 2): sum(u[..., i] * v[..., i] for i in axes)  # noqa: E731
    at = lambda t: p + t[..., None] * d  # noqa: E731
    if o.shape == "sphere":
        return first_root(dot(d, d), dot(p, d), dot(p, p) - a * a)
    if o.shape == "torus":  # (|q|² + R² - r²)² = 4 R² (qx² + qz²)
        k, flat = dot(p, p) + a * a - b * b, (0, 2)
        m, e, f = dot(d, d), dot(p, d), 4 * a * a
        quartic = [
            m * m, 4 * m * e, 4 * e * e + 2 * m * k - f * dot(d, d, flat),
            4 * e * k - 2 * f * dot(p, d, flat), k * k - f * dot(p, p, flat) + 0 * m,
        ]  # fmt: skip
        roots = np.array([np.roots(q) for q in np.stack(quartic, -1).reshape(-1, 5)]).reshape(*d.shape[:2], 4)
        return np.where((abs(roots.imag) < 1e-9) & (roots.real > 0), roots.real, np.inf).min(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        if o.shape == "box":
            ends = np.stack([(-np.array(o.size) - p) / d, (np.array(o.size) - p) / d])
            enter, leave = ends.min(0).max(-1), ends.max(0).min(-1)
            return np.where((enter < leave) & (enter > 0), enter, np.inf)
        caps = [(y - p[1]) / d[..., 1] for y in ((-b, b) if o.shape == "cylinder" else (-b,))]
        caps = [np.where((t > 0) & (np.hypot(at(t)[..., 0], at(t)[..., 2]) <= a), t, np.inf) for t in caps]
    between = lambda t: abs(at(t)[..., 1]) <= b  # noqa: E731
    if o.shape == "cylinder":
        flat = (0, 2)
        side = first_root(dot(d, d, flat), dot(p, d, flat), dot(p, p, flat) - a * a, between)
    else:  # the radius falls linearly: x² + z² = k² (b - y)²
        k, drop = a / (2 * b), b - p[1]
        side = first_root(
            dot(d, d, (0, 2)) - (k * d[..., 1]) ** 2,
            dot(p, d, (0, 2)) + k * k * drop * d[..., 1],
            dot(p, p, (0, 2)) - (k * drop) ** 2,
            between,
        )
    return np.minimum(side, np.min(caps, axis=0))


def closed_form(s: Scene, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth (H, W) and which object: -1 the ground, -2 the sky."""
    eye, direction = rays(s, height, width)
    with np.errstate(divide="ignore"):
        ground = np.where(direction[..., 1] < 0, -eye[1] / direction[..., 1], np.inf)
    depths = np.stack([ground, *(meet(o, eye, direction) for o in s.objects)])
    depth = depths.min(0)
    return np.minimum(depth, FAR), np.where(np.isinf(depth), -2, depths.argmin(0) - 1)


def edge_band(what: np.ndarray) -> np.ndarray:
    """Return the pixels with a neighbour of another object."""
    padded = np.pad(what, 1, mode="edge")
    return np.any([what != np.roll(padded, s, (0, 1))[1:-1, 1:-1] for s in ((0, 1), (0, -1), (1, 0), (-1, 0))], axis=0)


# --- depth and segmentation ----------------------------------------------------------------------------

VIEWS = {
    "the usual view": {},
    "from above": dict(height=4.0, distance=2.5),
    "from the side": dict(target=(1.0, 0.6, 0.0), view=60.0),
    "rolled": dict(roll=25.0, height=3.0),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", [s for s in SIZES if s != "box"])
def test_depth_and_segmentation_equal_the_closed_form(shape, view):
    """Everywhere for the sphere; for the others except a few pixels at the edge of a flat face."""
    s = scene(thing(shape, 0.3, 0.2, yaw=35, tilt=90 if shape == "torus" else 0), **VIEWS[view])
    got = render([s], (48, 64))
    depth, what = closed_form(s, 48, 64)
    objects = got.objects[0].numpy()
    assert (what == 0).sum() > 50, "the object is in view"
    wrong = objects != what
    assert not (wrong & (what != 0)).any(), "the object covers no other pixels"
    assert not (wrong & ~edge_band(what)).any()
    assert wrong.sum() <= {"sphere": 0, "torus": 1, "cone": 4, "cylinder": 11}[shape]
    assert np.array_equal(got.segmentation[0].numpy(), np.array([0, 1, CLASSES.index(shape)])[objects + 2])
    assert np.abs(got.depth[0, 0].numpy() - depth)[~wrong].max() < 1e-3


@pytest.mark.parametrize("view", VIEWS)
def test_the_faces_of_a_box(view):
    """Its edges are rounded (by ``sdf.EDGE``), so the closed form holds on faces and away from the silhouette."""
    o = thing("box", 0.3, 0.2, yaw=35)
    s = scene(o, **VIEWS[view])
    got = render([s], (48, 64))
    depth, what = closed_form(s, 48, 64)
    eye, direction = rays(s, 48, 64)
    hit = into(o, eye - np.array([o.x, o.size[1], o.z])) + depth[..., None] * into(o, direction)
    on_face = (what == 0) & ((np.abs(hit) < np.array(o.size) - sdf.EDGE).sum(-1) == 2)
    assert on_face.sum() > 50
    outside = ~edge_band(what) & (what != 0)
    assert (on_face | outside).mean() > 0.85
    objects = got.objects[0].numpy()
    assert (objects[on_face] == 0).all()
    assert np.array_equal(objects[outside], what[outside])
    assert not ((objects == 0) & (what != 0)).any(), "rounded edges lie within the box"
    assert np.abs(got.depth[0, 0].numpy() - depth)[on_face | outside].max() < 1e-3


@pytest.mark.parametrize("shape", ["cylinder", "cone"])
def test_flat_faces_have_no_holes_at_a_grazing_angle(shape):
    s = scene(thing(shape, 0.3, 0.2), roll=25.0, height=1.6)
    _, what = closed_form(s, 48, 64)
    assert np.array_equal(render([s], (48, 64)).objects[0].numpy(), what)


def test_a_scene_without_a_visible_object():
    s = scene(thing("sphere", z=-30.0))  # behind the camera
    got = render([s], 32)
    depth, what = closed_form(replace(s, objects=()), 32, 32)
    assert np.array_equal(got.objects[0].numpy(), what)
    assert set(got.segmentation.unique().tolist()) == {0, 1}
    assert np.abs(got.depth[0, 0].numpy() - depth).max() < 1e-3
    assert got.depth.max() == FAR


def test_the_nearer_object_hides_the_other_in_either_order():
    near, far = thing("sphere", z=-1.0, size=(0.4, 0, 0)), thing("torus", z=1.0, tilt=90.0)
    pair = [render([scene(*order)], 64) for order in ((near, far), (far, near))]
    depth, what = closed_form(scene(near, far), 64, 64)
    behind = np.isfinite(meet(far, *rays(scene(), 64, 64)))
    assert ((what == 0) & behind).sum() > 40, "one hides part of the other"
    assert (what == 1).sum() > 50
    for got, names in zip(pair, ((0, 1), (1, 0)), strict=True):
        assert np.array_equal(got.objects[0].numpy(), np.array([-2, -1, *names])[what + 2])
        assert np.abs(got.depth[0, 0].numpy() - depth).max() < 1e-3
    assert torch.equal(pair[0].segmentation, pair[1].segmentation)


@pytest.mark.parametrize("azimuth", [20.0, 140.0, 260.0])
def test_the_shadow_of_a_sphere_on_the_ground(azimuth):
    """Ground pixels from which the sun is hidden, against those from which all of it is visible."""
    r, elevation = 0.5, 40.0
    grey = (0.4, 0.4, 0.4)
    s = scene(
        thing("sphere", size=(r, 0, 0)),
        height=4.0,
        azimuth=azimuth,
        elevation=elevation,
        ground=(grey, grey),
        view=50.0,
    )
    got = render([s], 64)
    a, e = np.radians([azimuth, elevation])
    to_sun = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    eye, direction = rays(s, 64, 64)
    point = eye + got.depth[0, 0].numpy()[..., None] * direction
    away = np.array([0, r, 0]) - point
    along = away @ to_sun
    beside = np.sqrt(np.maximum((away**2).sum(-1) - along**2, 0))  # from the middle of the sphere to the way to the sun
    ground = (got.objects[0] == -1).numpy() & (np.abs(point[..., 0]) < 3) & (np.abs(point[..., 2]) < 3)
    dark = ground & (along > 0) & (beside < r - 0.06 * along)
    lit = ground & ((along < 0) | (beside > r + 0.06 * along + 0.02)) & (np.linalg.norm(away, axis=-1) > 3 * r)
    assert dark.sum() > 20 and lit.sum() > 400
    light = got.image[0].mean(0).numpy()
    assert light[dark].max() < 0.85 * light[lit].min()
    assert light[dark].mean() < 0.75 * light[lit].mean()


# --- images and maps -----------------------------------------------------------------------------------


def test_types_and_ranges_of_images_and_maps():
    got = render([random_scene(3, i) for i in range(4)], (24, 40))
    assert got.image.shape == (4, 3, 24, 40) and got.image.dtype == torch.float32
    assert got.segmentation.shape == got.objects.shape == (4, 24, 40)
    assert got.depth.shape == (4, 1, 24, 40) and got.depth.dtype == torch.float32
    assert got.image.min() >= 0 and got.image.max() <= 1
    levels = got.image.double() * 255
    assert (levels - levels.round()).abs().max() < 1e-4
    assert len(levels.round().unique()) > 100, "not black"
    assert got.depth.min() > 0 and got.depth.max() <= FAR
    kinds = [{CLASSES.index(o.shape) for o in random_scene(3, i).objects} for i in range(4)]
    for n, kind in enumerate(kinds):
        assert set(got.segmentation[n].unique().tolist()) <= kind | {0, 1}
        assert ((got.segmentation[n] > 1) == (got.objects[n] >= 0)).all()


def test_an_image_does_not_depend_on_the_batch():
    scenes = [random_scene(5, i) for i in range(12)]
    assert scenes == [random_scene(5, i) for i in range(12)]
    together, backwards = render(scenes, 32, 2), render(scenes[::-1], 32, 2)
    for i, s in enumerate(scenes):
        single = render([s], 32, 2)
        for name in MAPS:
            expected = getattr(together, name)[i]
            assert torch.equal(getattr(single, name)[0], expected), f"scene {i}, {name}"
            assert torch.equal(getattr(backwards, name)[-1 - i], expected), f"scene {i}, {name}, in another order"


def test_other_seeds_and_indices_give_other_scenes():
    scenes = [random_scene(seed, i) for seed in (0, 1, 2) for i in range(4)]
    images = render(scenes, 16).image
    assert len({i.numpy().tobytes() for i in images}) == len(scenes)


def test_supersampling_does_not_change_the_maps():
    scenes = [random_scene(6, i) for i in range(3)]
    one, two, three = (render(scenes, 32, k) for k in (1, 2, 3))
    for more in (two, three):
        for name in MAPS[1:]:
            assert torch.equal(getattr(more, name), getattr(one, name))
    change = (two.image - one.image).abs().mean(1)
    edges = torch.from_numpy(np.stack([edge_band(o.numpy()) for o in one.objects]))
    assert change[edges].mean() > 2 * change[~edges].mean() > 0, "mainly edges change"


@pytest.mark.parametrize(("scenes", "size", "supersample"), [(0, 32, 1), (1, 0, 1), (1, (32, 0), 1), (1, 32, 0)])
def test_nothing_to_draw_is_refused(scenes, size, supersample):
    with pytest.raises(ValueError, match="nothing to draw"):
        render([random_scene(0, i) for i in range(scenes)], size, supersample)


def test_rendering_speed():
    """At least 10 scenes of 64 x 64 in a second of processor time; 25 on an idle core."""
    scenes = [random_scene(0, i) for i in range(25)]
    seconds = []
    for _ in range(4):
        start = time.process_time()
        render(scenes, 64)
        seconds.append(time.process_time() - start)
        if len(scenes) / min(seconds) > 25:
            break
    rate = len(scenes) / min(seconds)
    print(f"{rate:.0f} scenes a second")
    assert rate >= 10


# --- random scenes -------------------------------------------------------------------------------------

MANY = [random_scene(11, i) for i in range(60)]


def distance(o: Object, points: np.ndarray) -> np.ndarray:
    """Signed distance of world points (M, 3) from an object."""
    a, b, _ = o.size
    y = {"sphere": a, "torus": b + a * np.sin(np.radians(o.tilt))}.get(o.shape, b)
    p = torch.from_numpy(into(o, points - np.array([o.x, y, o.z])))
    return sdf.DISTANCE[o.shape](p, torch.tensor([o.size], dtype=p.dtype).expand(len(p), 3)).numpy()


def test_every_object_stands_on_the_ground():
    """It touches the plane y = 0 from above."""
    turn, out = np.meshgrid(np.radians(np.arange(0, 360, 5)), np.linspace(0, 1, 21))
    for o in (o for s in MANY for o in s.objects):
        radius = out * (o.size[0] if o.shape == "torus" else max(o.size))
        plane = np.stack([o.x + radius * np.cos(turn), 0 * turn, o.z + radius * np.sin(turn)], -1).reshape(-1, 3)
        assert distance(o, plane).min() == pytest.approx(0, abs=1e-6), o


def test_objects_do_not_overlap():
    steps = np.linspace(-1.3, 1.3, 27)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    pairs = 0
    for s in MANY[:25]:
        for i, a in enumerate(s.objects):
            points = cube + np.array([a.x, a.height, a.z])
            inside = points[distance(a, points) < 0]
            assert len(inside) > 20
            for b in s.objects[:i]:
                assert distance(b, inside).min() > 0
                pairs += 1
    assert pairs > 20


def test_the_world_is_varied():
    assert {o.shape for s in MANY for o in s.objects} == set(sdf.SHAPES)
    assert {o.material for s in MANY for o in s.objects} == set(MATERIALS)
    assert {o.colour for s in MANY for o in s.objects} == set(COLOURS)
    assert {s.texture for s in MANY} == set(TEXTURES)
    assert {len(s.objects) for s in MANY} == {1, 2, 3, 4}
    assert {o.tilt for s in MANY for o in s.objects if o.shape == "torus"} == {0.0, 90.0}


def test_a_caption_names_every_object_and_the_ground():
    for s in MANY:
        for o in s.objects:
            assert f"a {o.material} {o.colour} {o.shape}" in s.caption
        assert s.caption.count("a ") >= len(s.objects) + 1
        assert s.caption.endswith(f" on a {s.texture} ground")
    three = scene(thing("box"), thing("cone", colour="blue"), thing("sphere", material="metal"), texture="tiled")
    assert three.caption == "a matte red box, a matte blue cone and a metal red sphere on a tiled ground"


# --- signed distances ----------------------------------------------------------------------------------

length = st.floats(0.3, 1.0)


def on_surface(shape: str, size: tuple, turn: float, u: float) -> list[tuple]:
    """Points of the surface with their outward normals; `turn` goes round the axis, `u` in [0, 1] along the profile."""
    a, b, _ = size
    w = np.array([np.cos(turn), 0, np.sin(turn)])
    up = np.array([0.0, 1.0, 0.0])
    if shape == "sphere":
        n = np.cos(3.1 * (u - 0.5)) * w + np.sin(3.1 * (u - 0.5)) * up
        return [(a * n, n)]
    if shape == "torus":
        n = np.cos(2 * np.pi * u) * w + np.sin(2 * np.pi * u) * up
        return [(a * w + b * n, n)]
    if shape == "cylinder":
        return [
            (a * w + 0.98 * (2 * u - 1) * b * up, w),
            (0.98 * u * a * w + b * up, up),
            (0.98 * u * a * w - b * up, -up),
        ]
    if shape == "cone":
        slope = np.array([2 * b, a]) / np.hypot(2 * b, a)
        v = 0.02 + 0.96 * u
        return [
            (a * (1 - v) * w + b * (2 * v - 1) * up, slope[0] * w + slope[1] * up),
            (0.98 * u * a * w - b * up, -up),
        ]
    points = []
    for axis in range(3):
        for sign in (-1, 1):
            p = (np.array(size) - sdf.EDGE) * np.array([np.cos(turn), np.sin(turn), 2 * u - 1])
            p[axis], n = sign * size[axis], np.zeros(3)
            n[axis] = sign
            points.append((p, n))
    return points


def measure(shape: str, p: np.ndarray, size: tuple) -> float:
    return sdf.DISTANCE[shape](torch.tensor(p)[None], torch.tensor([size], dtype=torch.float64)).item()


@pytest.mark.parametrize("shape", sdf.SHAPES)
@given(a=length, b=length, c=length, turn=st.floats(0, 6.28), u=st.floats(0, 1), s=st.floats(0.001, 2))
@example(a=0.5, b=1.0, c=1.0, turn=1.0, u=0.9375, s=1.0)  # near a cone's tip
@example(a=0.5, b=1.0, c=1.0, turn=1.0, u=1.0, s=1.0)
def test_signed_distances_along_the_normal(shape, a, b, c, turn, u, s):
    size = (a, 0.4 * b if shape == "torus" else b, c)
    size = (max(size[0], 1.5 * size[1]), *size[1:]) if shape == "torus" else size
    for p, n in on_surface(shape, size, turn, u):
        assert measure(shape, p, size) == pytest.approx(0, abs=1e-9)
        if shape != "torus" or n[[0, 2]] @ p[[0, 2]] >= 0:  # through the hole, the other side is nearer
            assert measure(shape, p + s * n, size) == pytest.approx(s, abs=1e-9)
        assert measure(shape, p - 1e-3 * n, size) < 0
        got = sdf.normal(shape, torch.tensor(p)[None], torch.tensor([size], dtype=torch.float64))[0].numpy()
        # A cone's curvature grows towards its tip, and with it the error of a difference over a step of 1e-4.
        curved = 1e-4 / np.hypot(*p[[0, 2]]) if shape == "cone" and n[1] > 0 else 0
        assert np.abs(got - n).max() < max(1e-3, curved)


point = st.tuples(*[st.floats(-2, 2)] * 3).map(np.array)


@pytest.mark.parametrize("shape", sdf.SHAPES)
@given(p=point, q=point, near=st.floats(1e-6, 0.1), a=length, b=length, c=length)
def test_signed_distances_are_1_lipschitz(shape, p, q, near, a, b, c):
    """So sphere tracing never crosses a surface."""
    size = (a, b, c)
    here = measure(shape, p, size)
    for other in (q, p + near * (q - p)):
        assert abs(measure(shape, other, size) - here) <= np.linalg.norm(other - p) + 1e-9


@pytest.mark.parametrize("shape", sdf.SHAPES)
def test_inside_is_negative(shape):
    middle = np.array([SIZES[shape][0], 0, 0]) if shape == "torus" else np.zeros(3)
    assert measure(shape, middle, SIZES[shape]) < -0.1
    assert measure(shape, np.array([0, 3.0, 0]), SIZES[shape]) > 0
    if shape == "torus":
        assert measure(shape, np.zeros(3), SIZES[shape]) == pytest.approx(SIZES[shape][0] - SIZES[shape][1])


def test_marched_rays_meet_the_sphere():
    g = torch.Generator().manual_seed(0)
    size = 0.3 + torch.rand(500, 3, generator=g, dtype=torch.float64)
    origin = torch.nn.functional.normalize(torch.randn(500, 3, generator=g, dtype=torch.float64)) * 3
    aim = 0.8 * torch.randn(500, 3, generator=g, dtype=torch.float64)
    direction = torch.nn.functional.normalize(aim - origin)
    got = sdf.march("sphere", size, origin, direction, torch.zeros(500).double(), torch.full((500,), 9.0).double())
    p, d, r = origin.numpy(), direction.numpy(), size[:, 0].numpy()
    expected = first_root(1.0, (p * d).sum(1), (p * p).sum(1) - r * r)
    hit = np.isfinite(expected)
    marched = got.isfinite().numpy()
    nearest = np.linalg.norm(p - (p * d).sum(1, keepdims=True) * d, axis=1)
    assert 100 < hit.sum() < 400
    assert not (marched & ~hit).any()
    assert (marched == hit)[abs(nearest - r) > 0.01].all()  # rays at a grazing angle take many steps
    assert (marched == hit).mean() > 0.98
    hit &= marched
    assert np.abs(got.numpy()[hit] - expected[hit]).max() < 1e-4


# --- textures ------------------------------------------------------------------------------------------


def test_the_noise_of_the_ground_is_smooth_and_reproducible():
    u, v = (torch.rand(2, 20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5) * 200
    value = noise(u, v)
    assert value.min() >= 0 and value.max() <= 1
    assert value.std() > 0.15
    assert torch.equal(noise(u[100:200], v[100:200]), value[100:200])
    assert (noise(u + 1e-6, v) - value).abs().max() < 1e-5, "continuous, also at the grid"
    i, j = torch.meshgrid(torch.arange(40.0).double(), torch.arange(40.0).double(), indexing="ij")
    heights = noise(i.flatten(), j.flatten())
    assert len(heights.unique()) > 1500, "uncorrelated on the grid"
    assert abs(torch.corrcoef(torch.stack([heights[:-1], heights[1:]]))[0, 1]) < 0.1
    assert heights[:3].tolist() == noise(torch.zeros(3).double(), torch.arange(3.0).double()).tolist()


@pytest.mark.parametrize("texture", TEXTURES)
def test_patterns_are_visible(texture):
    """With two contrasting colours, the ground varies, except for the plain one."""
    s = scene(texture=texture, ground=((0.6, 0.6, 0.6), (0.1, 0.1, 0.1)), height=3.0, distance=2.0)
    got = render([s], 48)
    spread = got.image[0][:, got.segmentation[0] == 1].std(1).mean().item()
    assert (spread < 0.02) == (texture == "plain"), spread
