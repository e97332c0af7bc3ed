"""Draw images and maps: segmentations, depths, and how they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dtta.pages.display import BLACK, ORANGE, SEGMENTS

# What happened to a pixel's class, in colours that no class has.
_CHANGES = {"unchanged": "#f4f4f4", "still wrong": "#b8b8b8", "corrected": BLACK, "made wrong": ORANGE}

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor


def picture(ax: Axes, image: Tensor) -> None:
    """Draw one image (C, H, W) in [0, 1], grey or colour, on any device."""
    pixels = image.detach().cpu().clamp(0, 1)
    ax.imshow((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy(), vmin=0, vmax=1)


def gallery(images: Sequence, titles: Sequence[str], columns: int = 10) -> Figure:
    """Draw images (C, H, W) in [0, 1] in a grid, each with its title."""
    import matplotlib.pyplot as plt

    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(0.95 * columns, 1.25 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        picture(ax, image)
        ax.set_title(title, fontsize=9, loc="center")
    return fig


def segmentation(ax: Axes, classes: Tensor, count: int = len(SEGMENTS)) -> None:
    """Draw a map (H, W) of class indices (-1: white) in the colours of SEGMENTS, or of a colour map for more."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    if count <= len(SEGMENTS):
        colours = SEGMENTS
    else:  # classes with consecutive indices get distant colours
        colours = colormaps["gist_ncar"]([(89 * k % count + 0.5) / count for k in range(count)])
    palette = ListedColormap(colours).with_extremes(under="white")
    ax.imshow(classes.detach().cpu().numpy(), cmap=palette, vmin=-0.5, vmax=len(colours) - 0.5)
    ax.axis("off")


def class_legend(fig: Figure, classes: Sequence[str], changes: bool = False, columns: int = 0) -> None:
    """Draw a legend of the classes' colours below the figure; with more classes than SEGMENTS, leave them out.

    `changes`: add the colours of `changed_classes`. `columns`: how many names in a row; 0: five with
    `changes`, else all. More than one row has a larger font.
    """
    from matplotlib.patches import Patch

    keys = list(zip(classes, SEGMENTS, strict=False)) if len(classes) <= len(SEGMENTS) else []
    if changes:
        keys += [(name, _CHANGES[name]) for name in ("corrected", "made wrong", "still wrong")]
    if keys:
        columns = min(columns or (5 if changes else len(keys)), len(keys))
        # A legend is filled column by column, the names row by row.
        keys = [key for column in range(columns) for key in keys[column::columns]]
        patches = [Patch(color=colour, label=name) for name, colour in keys]
        look = {"fontsize": 9 if columns == len(keys) else 12, "handlelength": 1, "columnspacing": 1.5}
        fig.legend(handles=patches, loc="outside lower center", ncols=columns, **look)


def changed_classes(ax: Axes, before: Tensor, after: Tensor, truth: Tensor | None = None) -> None:
    """Draw where the class (H, W) changed: black corrected, orange made wrong, grey still wrong or unknown."""
    import matplotlib.colors as colours
    import torch

    changed = before != after
    kind = torch.where(changed, 1, 0)
    if truth is not None:
        kind = torch.where(changed & (after == truth), 2, torch.where(changed & (before == truth), 3, kind))
    ax.imshow(kind.cpu().numpy(), cmap=colours.ListedColormap(list(_CHANGES.values())), vmin=0, vmax=3)
    ax.axis("off")


def depth(ax: Axes, distance: Tensor, near: float, far: float) -> None:
    """Draw a map (H, W) of depths, bright near and dark far; equal steps of colour are equal ratios of depth."""
    from matplotlib.colors import LogNorm

    ax.imshow(distance.detach().cpu().clamp(near, far).numpy(), cmap="viridis_r", norm=LogNorm(near, far))
    ax.axis("off")


def depth_error(ax: Axes, depths: Tensor, reference: Tensor) -> None:
    """Draw the log ratio of depths (H, W) to a reference (0: blank): red nearer, blue further; saturated at 1.65."""
    import torch

    ratio = torch.where(reference > 0, depths / reference, torch.nan)
    ax.imshow(ratio.log().detach().cpu().numpy(), cmap="RdBu", vmin=-0.5, vmax=0.5)
    ax.axis("off")


def changed_depth(ax: Axes, before: Tensor, after: Tensor, truth: Tensor) -> None:
    """Draw how much the log error of depths (H, W) fell: purple nearer to the truth (0: blank), orange further off."""
    import torch

    truth = torch.where(truth > 0, truth, torch.nan)
    errors = [(depths / truth).log().abs() for depths in (before, after)]
    ax.imshow((errors[0] - errors[1]).detach().cpu().numpy(), cmap="PuOr", vmin=-0.5, vmax=0.5)
    ax.axis("off")


def depth_bar(
    fig: Figure, axes: Axes | np.ndarray, ticks: Mapping[float, str] | None = None, label: str = "depth", **options
) -> None:
    """Add the colour bar of depths, or of their errors, next to `axes`, the last of which shows them.

    Args:
        ticks: value -> its text; None: powers of two, for `depth`.
        options: of ``fig.colorbar``.
    """
    import numpy as np

    image = np.ravel(axes)[-1].images[0]
    if ticks is None:
        near, far = image.norm.vmin, image.norm.vmax
        ticks = {2.0**k: f"{2.0**k:g}" for k in range(-10, 11) if near <= 2.0**k <= far}
    bar = fig.colorbar(image, ax=axes, label=label, **options)
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.minorticks_off()
