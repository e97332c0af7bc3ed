"""All figures of the book, under one name: ``display.py`` shows them, ``plots.py`` and ``maps.py`` draw them.

    figures.style()
    fig, ax = plt.subplots()
    ...
    figures.show(fig, alt="Loss against timestep; the true class has the lowest loss between t = 200 and 600.")

Each plot returns its figure or draws into given axes; none of them computes a result.
"""

from dtta.pages.display import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALETTE,
    PURPLE,
    SEGMENTS,
    SKY,
    VERMILION,
    YELLOW,
    animate,
    label_points,
    show,
    style,
)
from dtta.pages.maps import (
    changed_classes,
    class_legend,
    depth,
    depth_error,
    gallery,
    picture,
    segmentation,
    surface,
)
from dtta.pages.plots import (
    adaptation,
    bars,
    belief,
    forest,
    heatmap,
    loss_gap,
    mean_interval,
    named_points,
    simplex,
)

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PALETTE",
    "PURPLE",
    "SEGMENTS",
    "SKY",
    "VERMILION",
    "YELLOW",
    "adaptation",
    "animate",
    "bars",
    "belief",
    "changed_classes",
    "class_legend",
    "depth",
    "depth_error",
    "forest",
    "gallery",
    "heatmap",
    "label_points",
    "loss_gap",
    "mean_interval",
    "named_points",
    "picture",
    "segmentation",
    "show",
    "simplex",
    "style",
    "surface",
]
