# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # The world of scenes
#
# **The idea.** Segmentation and depth need images in which the class and the distance of every pixel are known. We
# render them: a small world of spheres, boxes, cylinders, cones and tori, with exact maps and any number of scenes.

# %% tags=["parameters", "hide-input"]
# the same at both scales
scale = "mini"
seed = 0  # of the shifts
counted = 150  # validation scenes in the shares of the classes
measured = 20  # validation images on which the change by a shift is measured

# %% tags=["hide-input"]
import textwrap

import matplotlib.pyplot as plt
import torch

from dtta.pages import Setting, figures, report
from dtta.problems.scenes import data, sdf
from dtta.problems.scenes.render import render
from dtta.problems.scenes.shifts import (
    IMAGE_SHIFTS,
    WORLD_SHIFTS,
    shift_image,
    shift_scene,
)
from dtta.problems.scenes.world import (
    CLASSES,
    COLOURS,
    FAR,
    HABITS,
    Object,
    Scene,
)

figures.style()
setting = Setting(scale)
if not setting.mini:
    print("full scale: the same page")


def thing(shape, colour, material, size, x, z, yaw=0.0, tilt=0.0):
    """An object in one of the world's colours."""
    return Object(
        shape, colour, material, size, x, z, yaw, tilt, albedo=COLOURS[colour]
    )


# %% tags=["hide-input"]
six = Scene(
    texture="checkered",
    objects=(
        thing("sphere", "red", "shiny", (0.62, 0, 0), -0.25, 0.2),
        thing("box", "blue", "matte", (0.45, 0.36, 0.45), -1.7, 0.8, yaw=32),
        thing(
            "torus",
            "orange",
            "metal",
            (0.55, 0.2, 0),
            1.05,
            1.0,
            yaw=25,
            tilt=90,
        ),
        thing("cone", "green", "matte", (0.55, 0.72, 0), 2.1, 0.3),
        thing("cylinder", "purple", "shiny", (0.36, 0.26, 0), -1.15, -0.8),
        thing("sphere", "cyan", "metal", (0.34, 0, 0), 0.7, -0.75),
    ),
    height=1.9,
    distance=5.6,
    target=(0.15, 0.66, 0.0),
    view=30,
    azimuth=228,
    elevation=32,
    sky=(0.08, 0.25, 0.75),
    horizon=(0.45, 0.62, 0.85),
    exposure=0.85,
    ground=((0.36, 0.30, 0.24), (0.15, 0.12, 0.10)),
    pattern=0.8,
    turn=28,
)
picture = render([six], size=(200, 320), supersample=3)

fig = plt.figure(figsize=(8, 5), layout="none")
ax = fig.add_axes((0, 0, 1, 1))  # no margin: it would be bright on a dark page
ax.imshow(picture.image[0].permute(1, 2, 0).numpy(), interpolation="bilinear")
ax.axis("off")
figures.show(
    fig,
    alt="A rendered scene on a checkered ground under a pale blue sky: a blue "
    "box, a purple cylinder, a shiny red sphere, an orange metal torus that "
    "stands, a small cyan metal sphere and a green cone, each with its shadow.",
    caption="A scene with six objects, rendered with nine rays for each pixel. "
    "Note the shadows, and the reflections in the metal torus and sphere.",
)

# %% [markdown]
# The scenes of this book have one to four objects and 32 × 32 pixels. At test time thirteen corruptions change the
# image, and six shifts change the world: its light, air, ground or camera, with a *severity* of 1 to 5. (The
# *portraits* of [page 06](06_open_vocabulary) show one object from close up.)
#
# **You need** Python and tensors. **Time:** 10 minutes to read, half a minute to run on one CPU core.
#
# ## A scene by hand
#
# A scene is a list of objects, a camera, a sun with a sky, and a ground. Lengths are in scene units (an object is about
# one unit wide), the camera looks towards $+z$ and slightly down, and the ground is $y = 0$.

# %%
two = Scene(
    objects=(
        # size: the radius; for a torus, the radii of ring and tube
        # angles are in degrees; a tilt of 90 makes the torus stand
        thing("sphere", "red", "shiny", (0.6, 0, 0), x=-0.7, z=0.0),
        thing("torus", "orange", "metal", (0.5, 0.18, 0), 0.7, 0.6, tilt=90),
    ),
    azimuth=230,  # of the sun
    elevation=35,  # of the sun, above the horizon
    texture="checkered",
)
drawn = render([two], size=(120, 200), supersample=2)
print(two.caption)
for name in ("image", "segmentation", "depth"):
    print(f"{name:13}", tuple(getattr(drawn, name).shape))

# %% tags=["hide-input"]
fig, axes = plt.subplots(1, 3, figsize=(5.8, 2.05))
figures.picture(axes[0], drawn.image[0])
axes[0].axis("off")
figures.segmentation(axes[1], drawn.segmentation[0])
figures.depth(axes[2], drawn.depth[0, 0], data.NEAR, FAR)
figures.depth_bar(fig, axes[2], shrink=0.7)
figures.class_legend(fig, CLASSES, columns=4)
figures.show(
    fig,
    alt="The rendered image of a red sphere and an orange torus that stands, "
    "its segmentation in one colour for each class, and its depth, bright near "
    "and dark far.",
    caption="The scene, its segmentation, and its depth in scene units. The "
    "furthest ground and the sky both have the largest depth. These objects "
    "are chosen by hand; random scenes follow below.",
)

# %% [markdown]
# ## How a ray finds a surface
#
# A *signed distance function* gives the distance of a point from a surface, negative inside. For a sphere of radius $r$
# it is $|p| - r$; the other shapes take a few lines each (`dtta/problems/scenes/sdf.py`). No surface is nearer than
# that distance, so a ray can safely take a step of that length. Repeat until the distance is almost 0 (a hit), or the
# ray has passed the object or is out of steps (a miss): this is *sphere tracing* {cite:p}`hart1996sphere`. A slice
# through a world of two objects:


# %% tags=["hide-input"]
def distances(x, y):
    """Distances of points in the slice z = 0 to a sphere, a box and the
    ground.
    """
    p = torch.stack([x, y, torch.zeros_like(x)], dim=-1).view(-1, 3)
    of = {
        "sphere": ((-0.9, 0.6, 0.0), (0.6, 0.0, 0.0)),
        "box": ((0.9, 0.45, 0.0), (0.5, 0.45, 0.5)),
    }
    objects = [
        sdf.DISTANCE[s](p - torch.tensor(at), torch.tensor([size]))
        for s, (at, size) in of.items()
    ]
    return torch.stack([*(d.view(x.shape) for d in objects), y])


y, x = torch.meshgrid(
    torch.linspace(-0.15, 2.3, 246),
    torch.linspace(-2.8, 2.2, 501),
    indexing="ij",
)
origin, direction = torch.tensor([-2.6, 1.95]), torch.tensor([3.0, -1.15])
direction = direction / direction.norm()
t, stops = torch.tensor(0.0), []
for _ in range(60):
    d = distances(*(origin + t * direction).view(2, 1)).amin()
    stops.append((origin + t * direction, d))
    if d < 1e-3:
        break
    t = t + d

print("steps of this ray:", len(stops) - 1)
fig, ax = plt.subplots(figsize=(5.8, 2.8))
levels = (torch.arange(-7, 17) / 10).tolist()
field = ax.contourf(
    x,
    y,
    distances(x, y).amin(0),
    levels=levels,
    cmap="RdBu",
    vmin=-1.6,
    vmax=1.6,
    extend="max",
)
for each in distances(x, y):  # where objects touch, each keeps its outline
    ax.contour(x, y, each, levels=[0], colors=figures.BLACK, linewidths=2)
for name, (point, _), offset, colour in (
    ("start", stops[0], (5, 5), "white"),
    ("hit", stops[-1], (7, -11), figures.BLACK),
):
    at = {"xytext": offset, "textcoords": "offset points"}
    ax.annotate(name, point.tolist(), color=colour, **at)
for point, d in stops:
    ax.add_patch(
        plt.Circle(
            point.tolist(),
            d.item(),
            fill=False,
            lw=1,
            ec=figures.BLACK,
            alpha=0.6,
        )
    )
ax.plot(
    *torch.stack([p for p, _ in stops]).T,
    "o-",
    color=figures.VERMILION,
    ms=4,
    lw=1.5,
)
ax.set(
    aspect="equal",
    xlim=(-2.8, 2.2),
    ylim=(-0.15, 2.3),
    xlabel="x",
    ylabel="y (height)",
)
ax.grid(False)
fig.colorbar(
    field, label="signed distance", shrink=0.9, ticks=[-0.5, 0, 0.5, 1, 1.5]
)
figures.show(
    fig,
    alt="A slice through a sphere and a box on the ground, coloured by signed "
    "distance. A ray takes one large step, small ones close over the sphere, "
    "then larger ones, and ends on the box; a circle at each stop touches the "
    "nearest surface.",
    caption="Sphere tracing. A circle shows the distance to the nearest "
    "surface, which is the next step: short where the ray passes close to the "
    "sphere, long in free space. Blue: outside; pale red: inside objects and "
    "ground; black: surfaces; orange: the ray.",
)

# %% [markdown]
# `sdf.march` traces rays, here one that meets the top of a large box at 30°, from a height of 1:

# %%
alpha = torch.tensor(30.0).double().deg2rad()
size = torch.tensor([[50.0, 1.0, 50.0]]).double()  # half widths, for each ray
origin = torch.tensor([[0.0, 2.0, 0.0]]).double()  # (rays, 3)
direction = torch.stack([alpha.cos(), -alpha.sin(), 0 * alpha])[None]
near, far = torch.zeros(1).double(), torch.full((1,), 100.0).double()
t = sdf.march("box", size, origin, direction, near, far, steps=80)
print(f"distance along the ray: {t.item():.3f}")

# %% [markdown]
# A second ray, from the surface to the sun, finds shadows. The gradient of the distance is the surface normal, which
# shading and reflections use.
#
# ## Images and their true maps
#
# `random_scene(seed, index)` draws a scene: one to four objects of five shapes, eight colours and three materials, on
# five kinds of ground, under a random sun and sky. The first 32 scenes of the validation split, eight at a time:

# %% tags=["hide-input"]
first = render(
    [data.scene("validation", i) for i in range(32)], size=48, supersample=2
)
frames = []
for start in range(0, 32, 8):
    numbers = range(start, start + 8)
    frames.append(
        figures.gallery(
            list(first.image[start : start + 8]), [str(i) for i in numbers], 4
        )
    )
figures.animate(
    frames,
    alt="An animation of thirty-two random scenes: one to four coloured objects "
    "each, on plain, checkered, striped, sandy and tiled grounds under clear, "
    "overcast and evening skies.",
    seconds=2.0,
    caption="Scenes of the validation split, with their numbers, here at 48 × "
    "48 pixels.",
)

# %% [markdown]
# The colour of a pixel is a mean over rays. One more ray, through the pixel's centre, gives its label and depth, even
# where a person would have to guess: at edges, in the hole of a torus, in deep shadow. Four scenes, larger:

# %% tags=["hide-input"]
scenes = [data.scene("validation", i) for i in (12, 5, 26, 7)]
shown = render(scenes, size=96, supersample=2)

fig, axes = plt.subplots(3, 4, figsize=(5.8, 6.2))
for n, (top, middle, bottom) in enumerate(axes.T):
    top.imshow(shown.image[n].permute(1, 2, 0).numpy())
    objects = scenes[n].caption.partition(" on ")[0]
    top.set_title(textwrap.fill(objects, 15), fontsize=10.5)
    top.axis("off")
    figures.segmentation(middle, shown.segmentation[n])
    figures.depth(bottom, shown.depth[n, 0], data.NEAR, FAR)
figures.class_legend(fig, CLASSES, columns=4)
figures.depth_bar(fig, axes[2], location="bottom", shrink=0.5, aspect=25)
figures.show(
    fig,
    alt="Four random scenes in columns: the image below its objects' names, the "
    "true segmentation in one colour for each class, and the true depth, bright "
    "near and dark far.",
    caption="Image, true segmentation and true depth of four scenes. The "
    "segmentation shows classes, not objects: two boxes merge. Depth is in scene "
    "units, and each doubling is the same step in colour. In the depth maps, "
    "the furthest ground has the colour of the sky.",
)

# %% [markdown]
# *Depth* is the distance along the camera's axis, as depth cameras measure it, not along the ray. The sky and greater
# depths are set to 16 units.
#
# What share of the pixels does each class have at 32 × 32, and in what share of the scenes does it occur?

# %%
sample = data.sample("validation", counted)
here = torch.stack(
    [sample["segmentation"] == k for k in range(len(CLASSES))]
).float()  # (class, scene, H, W)

# %% tags=["hide-input"]
report.table(
    [
        {
            "class": name,
            "pixels": 100 * part.mean().item(),
            "scenes": 100 * part.amax((1, 2)).mean().item(),
        }
        for name, part in zip(CLASSES, here, strict=True)
    ],
    tolerance=0.3,
    caption=f"Shares in % over {counted} validation scenes",
)

# %% [markdown]
# A network that predicts *ground* everywhere is right on most pixels. So the segmentation score weights classes
# equally.
#
# As grass is green and roads are grey in photographs, shapes have *habits* here. With probability 0.8 a shape gets one
# of its usual colours, and with probability 0.8 its usual material; otherwise any. So a network can use colour as a
# hint.

# %%
for shape, (colours, material) in HABITS.items():
    print(f"{shape:9} usually {' or '.join(colours)}, {material}")

# %% [markdown]
# The splits:
#
# | split | scenes | use |
# |---|---|---|
# | `train` | 12,000 | training; each mirrored with probability 1/2 |
# | `validation` | 500 | choosing settings |
# | `test` | 1,000 | reported results |
#
# ## Shifts on the image
#
# Twelve corruptions follow ImageNet-C {cite:p}`hendrycks2019benchmarking`; we add erasing. How much does each change a
# pixel?

# %%
chosen = min(26, counted - 1)
image = sample["image"][chosen]


def mean_change(name, severity):
    """Return the mean absolute change of a pixel (from 0 to 1) by a shift."""
    changes = [
        (shift_image(x, name, severity, seed, i) - x).abs().mean()
        for i, x in enumerate(sample["image"][:measured])
    ]
    return torch.stack(changes).mean().item()


# %% tags=["hide-input"]
frames, changes = [], {}
for severity in range(1, 6):
    images, titles = [image], ["\n\noriginal"]
    for name in IMAGE_SHIFTS:
        changes[name, severity] = mean_change(name, severity)
        images.append(shift_image(image, name, severity, seed, chosen))
        title = "\n" * ("_" not in name) + name.replace("_", "\n")
        title = title.replace("gaussian", "Gaussian").replace("jpeg", "JPEG")
        titles.append(f"{title}\n{changes[name, severity]:.2f}")
    frames.append(figures.gallery(images, titles, 5))
    frames[-1].suptitle(f"severity {severity}", fontsize=11)
    frames[-1].set_size_inches(5.1, 5.1)
figures.animate(
    frames,
    alt="An animation of one image of 32 by 32 pixels, original and under thirteen "
    "corruptions at severities 1 to 5: three kinds of noise, three of blur, "
    "snow, fog, brightness, contrast, pixelate, JPEG and an erased square.",
    seconds=1.5,
    caption="One image under thirteen corruptions of growing severity. Below "
    "each name: the mean absolute change of a pixel, from 0 to 1, over twenty "
    "images.",
)

# %% tags=["hide-input"]
weakest = min(IMAGE_SHIFTS, key=lambda name: changes[name, 3])
strongest = max(IMAGE_SHIFTS, key=lambda name: changes[name, 3])
report.line(
    "mean absolute change at severity 3, least and most:\n  "
    + ", ".join(
        f"{name.replace('_', ' ')} {changes[name, 3]:.3f}"
        for name in (weakest, strongest)
    ),
    tolerance=0.005,
)

# %% [markdown]
# The change is no measure of difficulty: at severity 5, contrast changes less than brightness and hides more.
#
# *Scaled.* ImageNet-C's constants are for images 224 pixels wide. Most do not depend on the width and are kept. The
# radius of defocus and the lengths of motion blur and of falling snow are multiplied by 32 / 224. So these severities
# are not ImageNet-C's. Defocus of severity 1 is a disc smaller than a pixel and changes nothing.
#
# *Left out.* Glass blur swaps neighbouring pixels, and one pixel here is as wide as seven of theirs. Elastic distortion
# would move objects away from their true maps. Frost needs photographs of frost.
#
# ## Shifts of the world
#
# A renderer can turn off the sun, colour the light, add fog that thickens with *true* distance, lay a ground that no
# training scene had, and raise or roll the camera. It then renders the true maps again.

# %%
chosen = 12
scene = data.scene("validation", chosen)
worlds = [
    shift_scene(scene, name, severity, seed, chosen)
    for severity in range(1, 6)
    for name in WORLD_SHIFTS
]
shifted = render([scene, *worlds], size=64, supersample=2)

maps = torch.stack([shifted.segmentation, shifted.depth[:, 0]], dim=1)
for name, after in zip(5 * list(WORLD_SHIFTS), maps[1:], strict=True):
    same = torch.equal(maps[0], after)  # the true maps are not changed
    assert same == (name not in ("camera_height", "camera_roll"))

# %% tags=["hide-input"]
frames, names = [], [name.replace("_", "\n") for name in WORLD_SHIFTS]
for severity in range(6):
    places = [
        0 if severity == 0 else 1 + (severity - 1) * len(names) + k
        for k in range(len(names))
    ]
    fig, axes = plt.subplots(3, len(names), figsize=(5.8, 4.1))
    for n, name, (top, middle, bottom) in zip(
        places, names, axes.T, strict=True
    ):
        figures.picture(top, shifted.image[n])
        top.axis("off")
        top.set_title(name, fontsize=10.5, loc="center")
        figures.segmentation(middle, shifted.segmentation[n])
        figures.depth(bottom, shifted.depth[n, 0], data.NEAR, FAR)
    figures.depth_bar(fig, axes[2])
    figures.class_legend(fig, CLASSES, columns=4)
    state = f"severity {severity}" if severity else "original"
    fig.suptitle(state, fontsize=11)
    frames.append(fig)
figures.animate(
    frames,
    alt="An animation of one scene, first the original and then at severities 1 to "
    "5 under night, coloured light, fog that grows with depth, a ground with "
    "an unseen pattern, a higher camera and a rolled camera: image, true "
    "segmentation and true depth.",
    seconds=1.2,
    caption="One scene under six shifts of growing severity: image, "
    "segmentation, depth. Only the camera's shifts change the maps; the higher "
    "camera looks down more steeply. Depth fog grows with the distance of a "
    "pixel; the corruption fog of the previous animation covers the image "
    "regardless of distance.",
)

# %% [markdown]
# ## Exercise
#
# ```{exercise}
# :label: grazing-ray
#
# A ray meets a plane at an angle $\alpha$, from a height of 1. What part of the height is left after one step of sphere
# tracing, and after how many steps is it below $10^{-6}$, which `sdf.march` counts as a hit? How many at 30°,
# 10° and 3°? Then run the cell with `sdf.march` above for these angles. What does it return?
# ```
#
# ```{solution} grazing-ray
# :class: dropdown
#
# A step is as long as the height $h$ and reduces it by $h \sin\alpha$. So $1 - \sin\alpha$ of it is left, and $n = \log
# 10^{-6} / \log(1 - \sin\alpha)$, rounded up: 20, 73, 258. `march` finds $t = 1 / \sin\alpha$ for the first two. The
# third needs more than 80 steps: `inf`, a miss. The renderer allows 300 steps, enough from this height down to three
# degrees.
# ```
#
# ## Take-aways
#
# * A rendered world has exact maps (at the pixels' centres) and any number of scenes, drawn from a seed.
# * Sphere tracing takes steps that cannot pass a surface: long in free space, short along a surface.
# * Most image corruptions keep ImageNet-C's constants; three are scaled to small images.
