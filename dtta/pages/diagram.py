"""The diagram of the method: one drawing, in which only output and condition change from task to task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtta.pages.display import BLUE, GREEN, ORANGE, SKY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONDITIONS = {  # what y is, how c follows from it
    "classification": ("class\nprobabilities", "$c = \\Sigma_j y_j\\, l_j$\nmixed class\nembeddings"),
    "open vocabulary": ("name\nprobabilities", "$c = \\Sigma_j y_j\\, l_j$\nmixed name\nembeddings"),
    "segmentation": ("class\nprobabilities\nat each pixel", "$c = \\Sigma_j y_j\\, l_j$\nmixed at\neach pixel"),
    "depth": ("depth map", "$c \\sim \\log y$\nlogarithm of\nthe depths"),
}


def method(
    task: str = "classification", adapted: str = "$\\phi$ fixed or adapted", network: str = "task network"
) -> Figure:
    """Draw how the loss of the diffusion model reaches the task network's weights; `task`: a key of CONDITIONS."""
    import matplotlib.pyplot as plt

    output, condition = CONDITIONS[task]
    fig = plt.figure(figsize=(5.7, 4.0), layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 66), ylim=(0, 46))
    ax.axis("off")
    _box(ax, 7.5, 39, 14, 12, "image\n$x$", "white")
    _box(ax, 28, 39, 16, 12, f"{network}\n$f_\\theta$", SKY)
    _box(ax, 56, 39, 18, 12, f"$y$: {output}", "white")
    _box(ax, 56, 22, 18, 12, condition, ORANGE)
    _box(ax, 31, 22, 23, 12, f"diffusion model\n$\\epsilon_\\phi(z_t, t, c)$\n{adapted}", GREEN)
    _box(ax, 7.5, 22, 14, 12, "noisy image\n$z_t$", "white")
    _box(ax, 7.5, 5.5, 14, 9, "noise $\\epsilon$,\nlevel $t$", "white")
    _box(ax, 42.25, 5.5, 45.5, 9, "$L = \\|\\,\\epsilon_\\phi(z_t, t, c) - \\epsilon\\,\\|^2$", "white")
    forward = (
        ((14.5, 39), (20, 39)), ((36, 39), (47, 39)), ((54, 33), (54, 28)), ((47, 24), (42.5, 24)),
        ((7.5, 33), (7.5, 28)), ((14.5, 22), (19.5, 22)), ((7.5, 10), (7.5, 16)), ((14.5, 5.5), (19.5, 5.5)),
        ((29, 16), (29, 10)),
    )  # fmt: skip
    backward = ((33, 10), (33, 16)), ((42.5, 20), (47, 20)), ((58, 28), (58, 33)), ((47, 36.5), (36, 36.5))
    for arrows, colour, line in ((forward, "black", "-"), (backward, VERMILION, "--")):
        for start, end in arrows:
            style = dict(
                arrowstyle="-|>", color=colour, lw=1.6, linestyle=line, shrinkA=0, shrinkB=0, mutation_scale=14
            )
            ax.annotate("", end, start, arrowprops=style)
    ax.text(34.5, 13, "gradient", color=VERMILION, va="center", fontsize=12)
    ax.text(41.5, 34.2, "update $\\theta$", color=VERMILION, ha="center", va="center", fontsize=12)
    return fig


def _box(ax: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    """Draw a box with its centre at (x, y)."""
    from matplotlib.patches import FancyBboxPatch

    corner = (x - width / 2, y - height / 2)
    shape = FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=1.2", ec=BLUE, lw=1.4)
    shape.set_facecolor((colour, 0.35) if colour != "white" else "white")
    ax.add_patch(shape)
    ax.text(x, y, text, ha="center", va="center", fontsize=12, linespacing=1.35)
