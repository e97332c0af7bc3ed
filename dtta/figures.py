"""Every plot of the book. A figure reaches the page through `show`, which gives it its alt text.

figures.style()
fig, ax = plt.subplots()
...
figures.show(fig, alt="Loss against timestep; the true class lies lowest between t = 200 and 600.")
"""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: eight colours that stay apart under the common colour blindnesses.
BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#777777"  # not of the palette: for what stands in the background
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW, BLACK)

_PIXELS = 2  # image pixels per page pixel: sharp on high-density screens
_DPI = 80  # page pixels per inch of figure


def style() -> None:
    """Set matplotlib's defaults for the book.

    The background is opaque white, so that a figure reads the same on a light and on a dark page.
    """
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.figsize": (8.0, 3.6),
            "figure.dpi": _DPI,
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=PALETTE),
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


def show(fig: Figure, alt: str) -> None:
    """Display a figure in a notebook, with its alt text, and close it.

    One figure a cell: the book's renderer keeps one alt text for each cell. Keep numbers that may
    differ between machines out of the alt text; it is compared word for word when a page is checked.

    Args:
        fig: the figure; `style` sets its looks.
        alt: what a reader who cannot see the figure should know: what is drawn, and what it shows.

    Raises:
        ValueError: the alt text is missing or says next to nothing.
    """
    import matplotlib.pyplot as plt
    from IPython.display import display

    alt = " ".join(alt.split())
    if len(alt) < 20:
        raise ValueError(f"describe the figure in a sentence for readers who cannot see it; got alt={alt!r}")
    buffer = BytesIO()
    # No software name in the file: the same picture gives the same bytes under another matplotlib.
    fig.savefig(buffer, format="png", dpi=_DPI * _PIXELS, metadata={"Software": None})
    width = round(fig.get_figwidth() * _DPI)
    plt.close(fig)  # else the inline backend shows it a second time
    display(
        {"image/png": b64encode(buffer.getvalue()).decode(), "text/plain": f"Figure: {alt}"},
        metadata={"image/png": {"alt": alt, "width": width}},
        raw=True,
    )
