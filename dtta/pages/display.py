"""The look of the figures, and how a figure reaches a page: as PNG with an alt text."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from dtta.pages.report import METADATA

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito: eight colours that readers with a colour vision deficiency can tell apart.
BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#777777"  # not part of the palette: for the background
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW, BLACK)
SEGMENTS = (SKY, GREY, VERMILION, BLUE, YELLOW, GREEN, PURPLE)  # sky, ground, sphere, box, cylinder, cone, torus

_PIXELS = 2  # image pixels per page pixel: sharp on high-density screens
_DPI = 80  # page pixels per inch of figure
_LABEL = "label"  # marks the names of points, which `show` moves apart


def style() -> None:
    """Set matplotlib's defaults for the book, on opaque white: a figure looks the same on a light and a dark page."""
    import matplotlib as mpl

    mpl.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.figsize": (8.0, 3.6),
            "figure.dpi": _DPI,
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": mpl.cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "grid.color": "#e3e3e3",
            "grid.linewidth": 0.8,
            "font.size": 11,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
        }
    )


def show(fig: Figure, alt: str, caption: str = "", name: str = "") -> None:
    """Display a figure in a notebook with its alt text, what it draws and what it shows, and close it.

    Show one figure in each cell: the book keeps one alt text per cell. Leave numbers that may differ between machines
    out of the alt text: a checked page must have the same. Raises ValueError: the alt text is missing or too short.

    Args:
        caption: what to see in the figure, printed below it with its number. The book's pages are made from their
            sources, so write a literal text (``tools/pages/editions.py`` reads it there).
        name: for references: {numref}`name` in the prose of the page becomes "Figure 3.2".
    """
    import matplotlib.pyplot as plt

    alt = alt_text(alt)
    image = b64encode(png(fig)).decode()
    plt.close(fig)  # otherwise the inline backend displays it a second time
    send({"text/plain": f"Figure: {alt}"}, image, alt, page_width(fig))


def alt_text(alt: str) -> str:
    """Return an alt text in one line. Raises ValueError: it is missing or too short."""
    alt = " ".join(alt.split())
    if len(alt) < 20:
        raise ValueError(f"describe the figure in a sentence for readers who cannot see it; got alt={alt!r}")
    return alt


def page_width(fig: Figure) -> int:
    """Return the width of a figure in pixels of the page."""
    return round(fig.get_figwidth() * _DPI)


def png(fig: Figure) -> bytes:
    """Return a figure as PNG, sharp on high-density screens, its labels moved apart."""
    buffer = BytesIO()
    _separate_labels(fig)
    # Without the software's name, the same picture has the same bytes under another version of matplotlib.
    fig.savefig(buffer, format="png", dpi=_DPI * _PIXELS, metadata={"Software": None})
    return buffer.getvalue()


def send(data: dict[str, str], image: str, alt: str, width: int, tolerance: float | None = None) -> None:
    """Display an output with its picture, a PNG in base 64; `tolerance`: of numbers in the texts, see ``report``."""
    from IPython.display import display

    metadata: dict[str, dict] = {"image/png": {"alt": alt, "width": width}}
    if tolerance is not None:
        metadata[METADATA] = {"tolerance": float(tolerance), "whole": 0}
    display(data | {"image/png": image}, metadata=metadata, raw=True)


def label_points(ax: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> None:
    """Write a name next to each point, one label for equal positions; `show` moves overlapping labels apart."""
    from matplotlib.patheffects import withStroke

    positions: dict[tuple[float, float], list[str]] = {}
    for across, up, name in zip(x, y, names, strict=True):
        positions.setdefault((across, up), []).append(name)
    for (across, up), shared in positions.items():
        # Labels are above the grid but below the points.
        text = ax.text(across, up, "\n".join(shared), size=10, linespacing=0.95, gid=_LABEL, zorder=1.9)
        text.set_path_effects([withStroke(linewidth=4, foreground="white")])
        text.set_in_layout(False)  # it moves into the axes later: reserve no space for it outside


def _separate_labels(fig: Figure) -> None:
    """Move labels off each other, the points and straight lines; draw a line from a distant label to its point."""
    import numpy as np
    from adjustText import adjust_text

    labels = {ax: [text for text in ax.texts if text.get_gid() == _LABEL] for ax in fig.axes}
    if not any(labels.values()):
        return
    fig.canvas.draw()
    fig.set_layout_engine("none")  # keep the sizes from here on: the positions of the labels depend on them
    for ax, texts in labels.items():
        if not texts:
            continue
        x, y = zip(*(text.get_position() for text in texts), strict=True)
        avoid = np.array([*zip(x, y, strict=True), *_along_lines(ax)])
        line = {"arrowstyle": "-", "color": GREY, "lw": 0.5}
        # A limit on rounds, not on time, gives the same picture on a slow machine.
        forces = {"force_text": (0.4, 0.8), "force_explode": (0.5, 1.5)}
        target = {"target_x": x, "target_y": y}
        expand = (1.05, 1.2) if len(avoid) > len(x) else (1.2, 1.7)  # among many lines, stay near the point
        adjust_text(texts, *avoid.T, **target, ax=ax, iter_lim=1000, expand=expand, arrowprops=line, **forces)
        for text in texts:
            text.set_gid(None)


def _along_lines(ax: Axes) -> Iterator[np.ndarray]:
    """Yield points of the axes' lines from one point to another, such as intervals, ten pixels apart."""
    import numpy as np

    for line in ax.lines:
        ends = line.get_transform().transform(line.get_xydata())
        if len(ends) == 2:
            steps = np.linspace(0, 1, max(2, int(np.hypot(*(ends[1] - ends[0])) / 10)))
            yield from ax.transData.inverted().transform(ends[0] + (ends[1] - ends[0]) * steps[:, None])
