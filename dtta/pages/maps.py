"""Draw images and maps: segmentations, depths, and how they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dtta.pages.display import BLUE, GREY, SEGMENTS, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor


def picture(ax: Axes, image: Tensor) -> None:
    """Draw one image (C, H, W) in [0, 1], grey or colour, on any device."""
    pixels = image.detach().cpu().clamp(0, 1)
    ax.imshow((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy(), vmin=0, vmax=1)


def gallery(images: Sequence, titles: Sequence[str], columns: int = 10, edges: Sequence[str] | None = None) -> Figure:
    """Draw images (C, H, W) in [0, 1] in a grid, each with its title and an optional coloured frame."""
    import matplotlib.pyplot as plt

    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(0.95 * columns, 1.25 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, (ax, image, title) in enumerate(zip(axes.flat, images, titles, strict=False)):
        picture(ax, image)
        ax.set_title(title, fontsize=9, loc="center")
        if edges:
            ax.add_patch(plt.Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, lw=4, ec=edges[i]))
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


def class_legend(fig: Figure, classes: Sequence[str]) -> None:
    """Draw a legend of the classes' colours below the figure; with more classes than SEGMENTS, draw nothing."""
    from matplotlib.patches import Patch

    if len(classes) > len(SEGMENTS):
        return
    keys = [Patch(color=colour, label=name) for colour, name in zip(SEGMENTS, classes, strict=False)]
    fig.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=9, handlelength=1)


def changed_classes(ax: Axes, before: Tensor, after: Tensor, truth: Tensor | None = None) -> None:
    """Draw where the class (H, W) changed: blue corrected, orange-red made wrong, grey still wrong or unknown."""
    import matplotlib.colors as colours
    import torch

    changed = before != after
    kind = torch.where(changed, 1, 0)
    if truth is not None:
        kind = torch.where(changed & (after == truth), 2, torch.where(changed & (before == truth), 3, kind))
    ax.imshow(kind.cpu().numpy(), cmap=colours.ListedColormap(["#f4f4f4", GREY, BLUE, VERMILION]), vmin=0, vmax=3)
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
