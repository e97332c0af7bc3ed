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
# Segmentation and depth need images in which the class and the distance of every pixel are known. Photographs with such
# labels are few, large, and labelled by hand, with errors at every edge. So this course draws its own: a small world of
# spheres, boxes, cylinders, cones and tori, rendered with its true maps.
#
# **You will learn** what is in the world and how it is drawn, what its true maps look like, and which test-time
# shifts only a renderer can make.
#
# **You need** Python and tensors; of the other pages, nothing. **Time:** 15 minutes to read, half a minute to run on
# one CPU core.

# %% tags=["parameters", "hide-input"]
# nothing here is to be scaled: the world is the same; "full" draws the first
# picture larger
scale = "mini"
seed = 0  # of the shifts
counted = 150  # validation scenes in the shares of the classes
measured = 20  # validation images in the table of shifts

# %% tags=["hide-input"]
import textwrap
from dataclasses import replace

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
    print(
        "full scale: there is nothing to be scaled; the mini world is drawn "
        "as it is, its first picture larger"
    )

# %% [markdown]
# ## A scene by hand
#
# A scene is a list of objects, a camera, a sun with a sky, and a ground. Lengths are in scene units (an object is about
# one unit wide), the camera looks along $+z$, and the ground is $y = 0$.


# %%
def thing(shape, colour, material, size, x, z, yaw=0.0, tilt=0.0):
    return Object(
        shape, colour, material, size, x, z, yaw, tilt, albedo=COLOURS[colour]
    )


two = Scene(
    objects=(
        thing("sphere", "red", "shiny", (0.6, 0, 0), x=-0.7, z=0.0),
        thing(
            "torus",
            "orange",
            "metal",
            (0.5, 0.18, 0),
            x=0.7,
            z=0.6,
            yaw=25,
            tilt=90,
        ),
    ),
    azimuth=230,
    elevation=35,
    texture="checkered",
)
drawn = render([two], size=(120, 200), supersample=2)
print(two.caption)
for name in ("image", "segmentation", "depth"):
    print(f"{name:13}", tuple(getattr(drawn, name).shape))

# %% [markdown]
# Shapes, colours and materials multiply quickly. With four more objects, a lower sun, and nine rays for each pixel:

# %% tags=["hide-input"]
six = replace(
    two,
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
picture = render(
    [six], size=setting(mini=(200, 320), full=(400, 640)), supersample=3
)

fig, ax = plt.subplots(figsize=(8, 5))
ax.imshow(picture.image[0].permute(1, 2, 0).numpy(), interpolation="bilinear")
ax.axis("off")
figures.show(
    fig,
    alt="A rendered scene on a checkered ground under a blue sky: a blue box, "
    "a purple cylinder, a shiny red sphere, a golden standing torus, a small "
    "mirroring cyan sphere and a green cone, each with its shadow.",
)

# %% [markdown]
# ## How a ray finds a surface
#
# A *signed distance function* tells how far a point is from a surface, negative inside. For a sphere of radius $r$ it
# is $|p| - r$; a box, a cylinder, a cone and a torus take a few lines each (`dtta/problems/scenes/sdf.py`). No
# surface is nearer than that distance, so a ray may step that far without passing anything. Repeat until the distance
# is nothing: *sphere tracing* {cite:p}`hart1996sphere`. In a slice through a world of two objects:


# %% tags=["hide-input"]
def distance(x, y):
    """From the nearest of a sphere, a box and the ground, for points of the
    slice z = 0.
    """
    p = torch.stack([x, y, torch.zeros_like(x)], dim=-1).view(-1, 3)
    of = {
        "sphere": ((-0.9, 0.6, 0.0), (0.6, 0.0, 0.0)),
        "box": ((0.9, 0.45, 0.0), (0.5, 0.45, 0.5)),
    }
    found = [
        sdf.DISTANCE[s](p - torch.tensor(at), torch.tensor([size]))
        for s, (at, size) in of.items()
    ]
    return torch.minimum(torch.stack(found).amin(0).view(x.shape), y)


y, x = torch.meshgrid(
    torch.linspace(-0.15, 2.3, 246),
    torch.linspace(-2.8, 2.2, 501),
    indexing="ij",
)
origin, direction = torch.tensor([-2.6, 1.95]), torch.tensor([3.0, -1.15])
direction = direction / direction.norm()
t, stops = torch.tensor(0.0), []
for _ in range(60):
    d = distance(*(origin + t * direction).view(2, 1)).squeeze()
    stops.append((origin + t * direction, d))
    if d < 1e-3:
        break
    t = t + d

fig, ax = plt.subplots(figsize=(8, 4))
levels = (torch.arange(-6, 17) / 10).tolist()
field = ax.contourf(
    x,
    y,
    distance(x, y),
    levels=levels,
    cmap="RdBu",
    vmin=-1.6,
    vmax=1.6,
    extend="both",
)
ax.contour(x, y, distance(x, y), levels=[0], colors=figures.BLACK, linewidths=2)
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
    field, label="signed distance", shrink=0.75, ticks=[-0.5, 0, 0.5, 1, 1.5]
)
figures.show(
    fig,
    alt="A slice through a sphere and a box on the ground, coloured by signed "
    "distance. A ray passes close over the sphere in small steps, then "
    "crosses free space in large ones and ends on the box; a circle at each "
    "stop touches the nearest surface.",
)
print("steps of this ray:", len(stops) - 1)

# %% [markdown]
# Far from everything a ray takes long steps; near a surface that it only passes, short ones. The renderer marches a
# ray only inside a sphere around each object, and meets the ground in closed form. Light takes the same way: a shadow
# is a march from the surface to the sun, and the nearer it passes an object, the softer the shadow's edge. The
# gradient of the distance is the surface's normal, on which shading and mirror images rest.
#
# ## Images and their true maps
#
# `random_scene(seed, index)` draws a scene: one to four objects of five shapes, eight colours and three materials, on
# five kinds of ground, under a sun and a sky of its own. The same seed and index give the same scene, the same bytes,
# on any day. Here are the first 32 of the validation split.

# %% tags=["hide-input"]
first = render(
    [data.scene("validation", i) for i in range(32)], size=48, supersample=2
)
figures.show(
    figures.gallery(first.image, [str(i) for i in range(32)], columns=8),
    alt="Thirty-two random scenes: one to four coloured objects each, on "
    "plain, checkered, striped, sandy and tiled grounds under clear, overcast "
    "and evening skies.",
)

# %% [markdown]
# The renderer knows what each ray met, so that the maps are sure where a person would have to guess: at edges, inside
# the hole of a torus, in deep shadow. (The exercise finds the one limit.) Four of these scenes, larger:

# %% tags=["hide-input"]
scenes = [data.scene("validation", i) for i in (12, 5, 26, 7)]
shown = render(scenes, size=96, supersample=2)

fig, axes = plt.subplots(3, 4, figsize=(9, 7.2))
for n, (top, middle, bottom) in enumerate(axes.T):
    top.imshow(shown.image[n].permute(1, 2, 0).numpy())
    top.set_title(textwrap.fill(scenes[n].caption, 29), fontsize=8.5)
    top.axis("off")
    figures.segmentation(middle, shown.segmentation[n])
    figures.depth(bottom, shown.depth[n, 0], data.NEAR, FAR)
figures.class_legend(fig, CLASSES)
bar = fig.colorbar(
    axes[2, 3].images[0],
    ax=axes,
    ticks=[2, 4, 8, 16],
    label="depth",
    shrink=0.5,
    anchor=(0, 0),
)
bar.ax.set_yticklabels(["2", "4", "8", "16"])
bar.ax.minorticks_off()
figures.show(
    fig,
    alt="Four random scenes in columns: the image with its caption, the true "
    "segmentation in one colour for each class, and the true depth, bright "
    "near and dark far.",
)

# %% [markdown]
# *Depth* is the distance along the camera's axis, not along the ray, as depth cameras give it; it is cut off at 16
# units, where the sky lies. Colours of the depth map are even in ratio: from 2 to 4 is as far as from 4 to 8.
#
# The models of this course see these scenes at 32 × 32 pixels. What share of the pixels is each class, and in what
# share of the scenes does it occur?

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
# Most pixels are ground, so that a network that answers *ground* everywhere is right at most of them. This is why the
# score for segmentation is the mean intersection over union, in which each class counts alike.
#
# In photographs a class has its looks: grass is green, roads are grey. Here shapes have *habits* too. Four times in five a
# shape takes one of its usual colours, and four times in five its usual material; else any. So a picture says more about a
# class than its outline does, and a class says something about the picture, which is what generative feedback lives on.

# %%
for shape, (colours, material) in HABITS.items():
    print(f"{shape:9} usually {' or '.join(colours)}, {material}")

# %% [markdown]
# | split | scenes | use |
# |---|---|---|
# | `train` | 12 000 | training; half of them mirrored when drawn |
# | `validation` | 500 | choosing settings |
# | `test` | 1 000 | what is reported |
#
# ## Shifts on the image
#
# Twelve corruptions follow ImageNet-C {cite:p}`hendrycks2019benchmarking` and keep its constants; erasing is added.
# Here is one image at severity 3.

# %%
chosen = min(26, counted - 1)
image = sample["image"][chosen]
images = [image] + [
    shift_image(image, name, 3, seed, chosen) for name in IMAGE_SHIFTS
]

# %% tags=["hide-input"]
figures.show(
    figures.gallery(
        images,
        ["as it is", *(name.replace("_", " ") for name in IMAGE_SHIFTS)],
        columns=7,
    ),
    alt="One image of 32 by 32 pixels as it is and under thirteen corruptions "
    "at severity 3: three kinds of noise, three of blur, snow, fog, "
    "brightness, contrast, pixelate, jpeg and an erased square.",
)

# %%
rows = []
for name in IMAGE_SHIFTS:
    row = {"shift": name.replace("_", " ")}
    for severity in range(1, 6):
        moved = [
            (shift_image(x, name, severity, seed, i) - x).abs().mean()
            for i, x in enumerate(sample["image"][:measured])
        ]
        row[f"{severity}"] = torch.stack(moved).mean().item()
    rows.append(row)

# %% tags=["hide-input"]
report.table(
    rows,
    tolerance=0.005,
    digits=3,
    caption=f"Mean absolute change by severity, {measured} images",
)

# %% [markdown]
# *Scaled.* ImageNet-C's constants are for images 224 pixels wide. Strengths of noise, contrast, brightness, fog,
# pixelate and jpeg have no length in them and stay. The radius of the defocus and the lengths of motion blur and of
# falling snow are multiplied by 32 / 224. The mildest defocus is then a disc smaller than a pixel, which changes
# nothing.
#
# *Left out.* Glass blur swaps neighbouring pixels, and one pixel here is as wide as seven of theirs. Elastic
# distortion moves things, so the true maps would no longer be true; so would the digits' shear and rotation. Frost
# needs photographs of frost.
#
# ## Shifts of the world
#
# A corruption of the image knows nothing of what it shows. A renderer does: it can put out the sun, colour the light,
# fill the air with fog that thickens with *true* distance, lay a ground that no training scene had, and move the
# camera, and draw the true maps anew.

# %%
chosen = 12
scene = data.scene("validation", chosen)
severities = (1, 3, 5)
worlds = [
    shift_scene(scene, name, s, seed, chosen)
    for s in severities
    for name in WORLD_SHIFTS
]
shifted = render([scene, *worlds], size=64, supersample=2).image
names = [name.replace("_", "\n") for name in WORLD_SHIFTS]

# %% tags=["hide-input"]
figures.show(
    figures.gallery(
        [shifted[0]] * len(names) + list(shifted[1:]),
        names + [f"severity {s}" for s in severities for _ in names],
        columns=len(names),
    ),
    alt="A scene as it is, and below at severities 1, 3 and 5 under night, "
    "coloured light, fog that grows with depth, a ground with an unseen "
    "pattern, a higher camera and a rolled camera.",
)

# %% [markdown]
# Night, light, fog and ground leave the maps as they are, to the last bit. The camera's two move everything, and the
# maps with it.

# %%
pick = {"as it is": scene} | {
    n.replace("_", " "): shift_scene(scene, n, 4, seed, chosen)
    for n in WORLD_SHIFTS
    if n in ("depth_fog", "camera_roll")
}
maps = render(list(pick.values()), size=96, supersample=2)
assert torch.equal(maps.segmentation[0], maps.segmentation[1]) and torch.equal(
    maps.depth[0], maps.depth[1]
)

# %% tags=["hide-input"]
fig, axes = plt.subplots(3, 3, figsize=(5.4, 5.6))
for n, (title, (left, middle, right)) in enumerate(
    zip(pick, axes, strict=True)
):
    left.imshow(maps.image[n].permute(1, 2, 0).numpy())
    left.set_title(title, fontsize=9)
    left.axis("off")
    figures.segmentation(middle, maps.segmentation[n])
    figures.depth(right, maps.depth[n, 0], data.NEAR, FAR)
figures.show(
    fig,
    alt="Image, segmentation and depth of one scene in three rows: as it is, "
    "in fog with the same maps, and under a rolled camera with maps rolled "
    "alike.",
)

# %% [markdown]
# ```{exercise}
# :label: grazing-ray
#
# A ray falls on a plane at an angle $\alpha$ from a height of 1. How much of the height is left after one step of
# sphere tracing, and how many steps does it take down to $10^{-6}$, where `sdf.march` calls it a hit? Work it out for
# 30°, 10° and 3°. Then march rays in double precision from the point (0, 2, 0) onto a wide box (`size` 50, 1, 50)
# with `steps=80`.
# ```
#
# ```{solution} grazing-ray
# :class: dropdown
#
# A step is as long as the height $h$, and takes the ray down by $h \sin\alpha$. So $1 - \sin\alpha$ of it is left,
# and $n = \log 10^{-6} / \log(1 - \sin\alpha)$: 20, 73 and 258 steps. `march` finds $t = 1 / \sin\alpha$ for the
# first two. The third never arrives: it gives `inf`, and the ray goes on behind the surface. This is the limit of any
# renderer that counts its steps: with 80, the far edge of a flat top that is seen at less than about nine degrees would
# be missing, in the image and in its maps alike. The renderer allows 300, enough down to three degrees.
# ```
#
# ## Take-aways
#
# * A rendered world has true maps, any number of scenes, and one seed that makes them all again.
# * Sphere tracing steps as far as nothing can be; long steps in the open, short ones along a surface.
# * Corruptions of the image keep ImageNet-C's constants. Shifts of the world know the geometry, and the maps stay true.
