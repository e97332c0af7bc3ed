"""Figures that the reader steps through: drawn beforehand, shown with a slider, without a kernel or a network.

Script and style are in ``frames.html``. No library serves here: matplotlib's HTML writer loads its icons from another
site, ipywidgets needs a kernel, and plotly brings megabytes of script for what one image and one slider do.
"""

from __future__ import annotations

import html
import json
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING

from dtta.pages.display import alt_text, page_width, png, send
from dtta.pages.report import check_digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def explore(
    frames: Sequence[Figure],
    labels: Sequence[str],
    alt: str,
    caption: str = "",
    name: str = "",
    slider: str = "step",
    start: int = -1,
    seconds: float = 0.8,
    tolerance: float | None = None,
) -> None:
    """Display figures of equal size, one at a time, with a slider, buttons to step and play, and each frame's label.

    Without scripts, and in print, the frame `start` is shown. If the reader's system asks for less motion, there is no
    button to play. Raises ValueError: no frames, not one label for each, or as ``show`` and ``report.line``.

    Args:
        labels: what each frame shows, in words and numbers: what a reader who cannot see it learns from it.
        alt: what all frames draw.
        caption, name: as of ``show``.
        slider: the name of what the slider sets.
        start: index of the frame that is shown first.
        seconds: of each frame when playing.
        tolerance: of the numbers in the labels on another machine, as of ``report.line``.
    """
    import matplotlib.pyplot as plt

    alt = alt_text(alt)
    if not frames or len(labels) != len(frames):
        raise ValueError(f"give at least one frame, and a label for each; got {len(frames)} and {len(labels)} labels")
    if tolerance is not None:
        check_digits(labels, tolerance)
    pictures = [png(fig) for fig in frames]
    images, width = [_webp(picture) for picture in pictures], page_width(frames[0])
    for fig in frames:
        plt.close(fig)
    first = images[start]
    images[start] = ""  # it is in the page already
    settings = {"frames": images, "labels": list(labels), "slider": slider, "seconds": seconds}
    data = {
        "text/html": f'<div class="dtta-frames" style="max-width: {width}px" '
        f'data-frames="{html.escape(json.dumps(settings, ensure_ascii=False))}">'
        f'<img src="{first}" alt="{html.escape(alt)}" width="{width}"></div>\n'
        + files("dtta.pages").joinpath("frames.html").read_text(encoding="utf-8"),
        "text/plain": "\n".join([f"Figure: {alt}", *labels]),
    }
    send(data, b64encode(pictures[start]).decode(), alt, width, tolerance)


def animate(frames: Sequence[Figure], alt: str, seconds: float = 0.8, caption: str = "", name: str = "") -> None:
    """Display the pictures of a change, such as an adaptation or a growing shift, the last one first; see `explore`.

    The label of a picture is its title over all axes (``fig.suptitle``), or its number.
    """
    labels = [fig.get_suptitle() or f"picture {k} of {len(frames)}" for k, fig in enumerate(frames, 1)]
    explore(frames, labels, alt, slider="picture", seconds=seconds)


def _webp(image: bytes) -> str:
    """Return a PNG as the data address of a lossless WebP image, with a third to two thirds of the bytes."""
    from PIL import Image

    buffer = BytesIO()
    Image.open(BytesIO(image)).convert("RGB").save(buffer, format="webp", lossless=True)
    return f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}"
