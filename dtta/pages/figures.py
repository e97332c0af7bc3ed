"""Every plot of the book. A figure reaches the page through `show`, which gives it its alt text.

    figures.style()
    fig, ax = plt.subplots()
    ...
    figures.show(fig, alt="Loss against timestep; the true class lies lowest between t = 200 and 600.")

The plots return their figure or draw into axes; none of them computes a result.
"""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from dtta.core.problem import Problem


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
SEGMENTS = (SKY, GREY, VERMILION, BLUE, YELLOW, GREEN, PURPLE)  # sky, ground, sphere, box, cylinder, cone, torus

_PIXELS = 2  # image pixels per page pixel: sharp on high-density screens
_DPI = 80  # page pixels per inch of figure
_LABEL = "label"  # marks names of points, which are moved apart


def style() -> None:
    """Set matplotlib's defaults for the book.

    The background is opaque white, so that a figure reads the same on a light and on a dark page.
    """
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

    alt = _words(alt)
    shown = _png(fig)
    plt.close(fig)  # else the inline backend shows it a second time
    _display(shown, fig, alt)


def play(frames: Sequence[Figure], alt: str, seconds: float = 0.8) -> None:
    """Display figures of one size one after the other, over and over, as an animated PNG: `show` for a film.

    The first frame is what is printed and what a browser shows that knows no animated PNG.

    Raises:
        ValueError: no frames, or the alt text is missing or says next to nothing.
    """
    import matplotlib.pyplot as plt
    from PIL import Image

    alt = _words(alt)
    if not frames:
        raise ValueError("a film needs at least one frame")
    first, *rest = (Image.open(BytesIO(_png(fig))).convert("RGB") for fig in frames)
    buffer = BytesIO()
    times = [round(1000 * seconds)] * len(rest) + [round(2500 * seconds)]  # rest on the last one
    first.save(buffer, format="png", save_all=True, append_images=rest, duration=times, loop=0)
    for fig in frames:
        plt.close(fig)
    _display(buffer.getvalue(), frames[0], alt)


def _words(alt: str) -> str:
    alt = " ".join(alt.split())
    if len(alt) < 20:
        raise ValueError(f"describe the figure in a sentence for readers who cannot see it; got alt={alt!r}")
    return alt


def _png(fig: Figure) -> bytes:
    buffer = BytesIO()
    _part_labels(fig)
    # No software name in the file: the same picture gives the same bytes under another matplotlib.
    fig.savefig(buffer, format="png", dpi=_DPI * _PIXELS, metadata={"Software": None})
    return buffer.getvalue()


def _display(shown: bytes, fig: Figure, alt: str) -> None:
    from IPython.display import display

    display(
        {"image/png": b64encode(shown).decode(), "text/plain": f"Figure: {alt}"},
        metadata={"image/png": {"alt": alt, "width": round(fig.get_figwidth() * _DPI)}},
        raw=True,
    )


# --- plots --------------------------------------------------------------------------------------------


def gallery(images: Sequence, titles: Sequence[str], columns: int = 10, edges: Sequence[str] | None = None) -> Figure:
    """Images (C, H, W) in [0, 1] in a grid, each with its title and, if given, a coloured frame."""
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
    """A map (H, W) of classes, each in its colour: the scenes' in that of SEGMENTS, of more than these each in one of
    its own, too many to tell apart by name. Where there is no class (-1) it is white."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    spread = [(89 * k % count + 0.5) / count for k in range(count)]  # neighbours in number far apart in colour
    own = SEGMENTS if count <= len(SEGMENTS) else colormaps["gist_ncar"](spread)
    palette = ListedColormap(own).with_extremes(under="white")
    ax.imshow(classes.detach().cpu().numpy(), cmap=palette, vmin=-0.5, vmax=len(own) - 0.5)
    ax.axis("off")


def name_classes(fig: Figure, classes: Sequence[str]) -> None:
    """A legend of the map's colours below the figure; of classes too many to be told apart, nothing."""
    from matplotlib.patches import Patch

    if len(classes) > len(SEGMENTS):
        return
    keys = [Patch(color=colour, label=name) for colour, name in zip(SEGMENTS, classes, strict=False)]
    fig.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=9, handlelength=1)


def depth(ax: Axes, distance: Tensor, near: float, far: float) -> None:
    """A map (H, W) of depths, bright near and dark far; equal steps of colour are equal ratios of depth."""
    from matplotlib.colors import LogNorm

    ax.imshow(distance.detach().cpu().clamp(near, far).numpy(), cmap="viridis_r", norm=LogNorm(near, far))
    ax.axis("off")


def depth_error(ax: Axes, depths: Tensor, reference: Tensor) -> None:
    """How far depths (H, W) are from a reference, as the log of their ratio: red nearer, blue further, full at 1.65."""
    import torch

    ratio = torch.where(reference > 0, depths / reference, torch.nan)  # 0: unknown
    ax.imshow(ratio.log().detach().cpu().numpy(), cmap="RdBu", vmin=-0.5, vmax=0.5)
    ax.axis("off")


def band(ax: Axes, x: Sequence[float], curves: Tensor, colour: str, label: str) -> None:
    """The mean of `curves` (n, points) with the 95% interval of that mean as a band (normal approximation)."""
    curves = curves.cpu()
    mean, error = curves.mean(0), 1.96 * curves.std(0) / len(curves) ** 0.5
    ax.plot(x, mean, color=colour, label=label)
    ax.fill_between(x, mean - error, mean + error, color=colour, alpha=0.25, lw=0)


def listening(
    t: Sequence[float], panels: Mapping[str, Tensor], names: Sequence[str], truth: str = "the truth"
) -> Figure:
    """How much more a diffusion model loses under other conditions than under the true one, by timestep.

    Args:
        t: timesteps (points,).
        panels: title -> losses (n, 1 + len(names), points), the true condition first.
        names: of the other conditions.
    """
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(panels), figsize=(2.5 * len(panels), 3.2), sharex=True, sharey=True, squeeze=False)
    for ax, (title, losses) in zip(axes[0], panels.items(), strict=True):
        ax.axhline(0, color=BLACK, lw=1)
        for k, (colour, name) in enumerate(zip((BLUE, GREEN, ORANGE, PURPLE), names, strict=False), start=1):
            band(ax, t, losses[:, k] - losses[:, 0], colour, name)
        ax.set(title=title, xlabel="timestep t")
        ax.set_yscale("symlog", linthresh=1e-3)
    axes[0, 0].set_ylabel(f"loss minus that\nunder {truth}")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), fontsize=9)
    return fig


def named_points(ax: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> None:
    """A point with its name for each pair; blue above zero, orange-red below, and lines through both zeros."""
    for across, up in zip(x, y, strict=True):
        ax.plot(across, up, "o", color=BLUE if up > 0 else VERMILION)
    ax.axhline(0, color=GREY, lw=1, zorder=1)
    ax.axvline(0, color=GREY, lw=1, zorder=1)
    label(ax, x, y, names)


def label(ax: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> None:
    """A name beside each point; points in the same place share one.

    Where points crowd, names move apart when the figure is shown (see `show`), for only then the axes have their size.
    """
    from matplotlib.patheffects import withStroke

    places: dict[tuple[float, float], list[str]] = {}
    for place in zip(x, y, names, strict=True):
        places.setdefault(place[:2], []).append(place[2])
    for (across, up), found in places.items():
        # Across the grid, but never over a point.
        text = ax.text(across, up, "\n".join(found), size=8, linespacing=0.95, gid=_LABEL, zorder=1.9)
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
        text.set_in_layout(False)  # it is moved inside later; room kept for it beside the axes would stay blank


def _part_labels(fig: Figure) -> None:
    """Move names off each other and off the points, with a line to the point where a name has gone far."""
    from adjustText import adjust_text

    named = {ax: [t for t in ax.texts if t.get_gid() == _LABEL] for ax in fig.axes}
    if not any(named.values()):
        return
    fig.canvas.draw()
    fig.set_layout_engine("none")  # sizes hold from here on: places of names are found in them
    for ax, texts in named.items():
        if not texts:
            continue
        x, y = zip(*(text.get_position() for text in texts), strict=True)
        line = {"arrowstyle": "-", "color": GREY, "lw": 0.5}
        # A count of rounds, not a time: the same picture on a slow machine.
        forces = {"force_text": (0.4, 0.8), "force_explode": (0.5, 1.5)}
        adjust_text(texts, x, y, ax=ax, iter_lim=1000, expand=(1.2, 1.7), arrowprops=line, **forces)
        for text in texts:
            text.set_gid(None)


def belief(
    image: Tensor, before: Tensor, after: Tensor, classes: Sequence[str], losses: Sequence[float] = ()
) -> Figure:
    """One image (1, C, H, W), the belief in each class before and after, and the loss at each step."""
    import matplotlib.pyplot as plt

    panels, widths = (3, (1, 2.2, 1.3)) if losses else (2, (1, 2.2))
    fig, (left, middle, *right) = plt.subplots(1, panels, figsize=(9, 2.8), width_ratios=widths)
    picture(left, image[0])
    left.axis("off")
    bars(middle, before, after, classes)
    for ax in right:
        steps = range(1, len(losses) + 1)
        ax.plot(steps, losses, "o-", color=VERMILION)
        ax.set(xlabel="step", ylabel="diffusion loss", xticks=steps)
    return fig


def bars(
    ax: Axes,
    before: Tensor,
    after: Tensor,
    classes: Sequence[str],
    most: int = 10,
    order: Sequence[int] | None = None,
) -> None:
    """The belief (L,) in each class before and after; of many classes the `most` believed ones.

    Args:
        order: the numbers of the classes to draw, in their order, whatever is believed; so the frames of a film agree.
    """
    import torch

    many = len(classes) > most or max(map(len, classes)) > 8
    if order is not None:
        chosen = list(order)
    else:
        chosen = torch.maximum(before, after).argsort(descending=True)[:most].tolist() if many else range(len(classes))
    place = range(len(chosen))
    names, both = [classes[j] for j in chosen], ([values[j].item() for j in chosen] for values in (before, after))
    for side, values, colour, name in zip((-0.2, 0.2), both, (GREY, BLUE), ("before", "after"), strict=True):
        (ax.barh if many else ax.bar)([j + side for j in place], values, 0.4, color=colour, label=name)
    if many:
        ax.set(yticks=list(place), yticklabels=names, xlim=(0, 1), xlabel="belief")
        ax.invert_yaxis()
    else:
        ax.set(xticks=list(place), xticklabels=names, ylim=(0, 1), ylabel="belief", xlabel="class")
    ax.legend()


def adapted(
    problem: Problem,
    image: Tensor,
    before: Tensor,
    after: Tensor,
    label: Tensor | None = None,
    losses: Sequence[float] = (),
) -> Figure:
    """What adaptation did to one image: beliefs, or maps and where they moved, and the loss at each step.

    Args:
        before, after: the network's outputs (1, ...). label: the truth, if it is known.
    """
    if problem.task == "classification":
        return belief(image, before.softmax(1)[0], after.softmax(1)[0], problem.classes, losses)
    import matplotlib.pyplot as plt

    panels = ["image", *(["truth"] if label is not None else []), "before", "after", "moved"]
    fig, axes = plt.subplots(1, len(panels) + bool(losses), figsize=(2.1 * (len(panels) + bool(losses)), 2.4))
    for ax, name in zip(axes, panels, strict=False):
        ax.set_title(name, loc="center")
        ax.axis("off")
    picture(axes[0], image[0])
    maps = ([label] if label is not None else []) + [before[0], after[0]]
    for ax, answer in zip(axes[1:], maps, strict=False):
        if problem.task == "segmentation":
            segmentation(ax, answer if answer.ndim == 2 else answer.argmax(0), len(problem.classes))
        else:
            depth(ax, answer[0], problem.condition.near, problem.condition.far)
    place = len(panels) - 1
    if problem.task == "segmentation":
        moved_classes(axes[place], before[0].argmax(0), after[0].argmax(0), label)
    else:
        depth_error(axes[place], after[0, 0], before[0, 0])
        axes[place].set_title("moved: red nearer,\nblue further", loc="center", fontsize=9)
    if losses:
        steps = range(1, len(losses) + 1)
        axes[-1].plot(steps, losses, "o-", color=VERMILION)
        axes[-1].set(xlabel="step", title="diffusion loss", xticks=steps)
    return fig


def moved_classes(ax: Axes, before: Tensor, after: Tensor, truth: Tensor | None = None) -> None:
    """Where the answer (H, W) moved: blue to the truth, orange-red away from it, grey from wrong to wrong."""
    import matplotlib.colors as colours
    import torch

    moved = before != after
    kind = torch.where(moved, 1, 0)
    if truth is not None:
        kind = torch.where(moved & (after == truth), 2, torch.where(moved & (before == truth), 3, kind))
    ax.imshow(kind.cpu().numpy(), cmap=colours.ListedColormap(["#f4f4f4", GREY, BLUE, VERMILION]), vmin=0, vmax=3)
    ax.axis("off")


def relief(ax: Axes, depths: Tensor, image: Tensor, far: float) -> None:
    """A depth map (H, W) as a surface in space, painted with its image (3, H, W); the sky is left out. `ax` is 3-D."""
    import numpy as np

    step = max(1, len(depths) // 64)  # more than so many squares take minutes
    depths, image = depths[::step, ::step].cpu(), image[:, ::step, ::step].cpu()
    height, width = depths.shape
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    away = np.where(depths.numpy() < 0.97 * far, depths.numpy(), np.nan)
    paint = image.permute(1, 2, 0).numpy()
    ax.plot_surface(across, away, height - down, facecolors=paint, rstride=1, cstride=1, shade=False, linewidth=0)
    ax.view_init(elev=28, azim=-58)
    ax.set(ylabel="depth", xticks=[], zticks=[])


def triangle(
    paths: Sequence[tuple[Tensor, int, str]], first: str = "true class", second: str = "strongest rival"
) -> Figure:
    """Beliefs as points of a triangle: all on one class, all on another, all on the rest.

    Args:
        paths: for each, beliefs (steps, 3) over (first, second, rest), a colour's index in PALETTE, a label.
    """
    import matplotlib.pyplot as plt
    import torch

    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    fig, ax = plt.subplots(figsize=(6, 4.6))
    ax.add_patch(plt.Polygon(corners, fill=False, ec=GREY, lw=1))
    ax.plot([0.5, 0.5], [0, 3**0.5 / 6], ":", color=GREY, lw=1)
    for k in (0, 1):  # where the answer changes
        middle = (corners[k] + corners[2]) / 2
        ax.plot([middle[0], 0.5], [middle[1], 3**0.5 / 6], ":", color=GREY, lw=1)
    for beliefs, colour, label in paths:
        x, y = (beliefs @ corners).T.tolist()
        ax.plot(x, y, "-", color=PALETTE[colour], lw=1.5, label=label)
        ax.plot(x[:1], y[:1], "o", mfc="white", color=PALETTE[colour])
        ax.plot(x[-1:], y[-1:], "o", color=PALETTE[colour])
    for corner, name, place in zip(corners, (first, second, "all others"), ("top", "top", "bottom"), strict=True):
        ax.text(*corner, f"{name}", ha="center", va=place)
    ax.set(aspect="equal", xlim=(-0.15, 1.35), ylim=(-0.12, 0.98))
    ax.axis("off")
    if paths:
        ax.legend(loc="upper right", fontsize=9)
    return fig


def forest(gains: Mapping[str, Mapping[str, float]], title: str = "") -> Figure:
    """A gain with its interval for each name ("gain", "low", "high", in points); filled where it is not zero."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(7.5, 0.36 * len(gains) + 1))
    forest_into(ax, gains)
    ax.set_title(title)
    return fig


def forest_into(ax: Axes, gains: Mapping[str, Mapping[str, float]]) -> None:
    """The same, into axes that are there."""
    for y, gain in enumerate(reversed(list(gains.values()))):
        sure = gain["low"] > 0 or gain["high"] < 0
        colour = GREY if not sure else BLUE if gain["gain"] > 0 else VERMILION
        ax.plot([gain["low"], gain["high"]], [y, y], color=colour)
        ax.plot(gain["gain"], y, "o", color=colour, mfc=colour if sure else "white")
    ax.axvline(0, color=BLACK, lw=1)
    ax.set(yticks=range(len(gains)), yticklabels=list(reversed(gains)), xlabel="gain in points")
    ax.grid(axis="y", visible=False)


def grid(values: Mapping[str, Mapping[str, float]], limit: float, label: str = "gain in points") -> Figure:
    """Numbers by row and column, with their colour: blue above zero, red below, full at `limit`."""
    import matplotlib.pyplot as plt
    import numpy as np

    columns = list(next(iter(values.values())))
    numbers = np.array([[row[name] for name in columns] for row in values.values()])
    fig, ax = plt.subplots(figsize=(0.55 * len(columns) + 2.6, 0.32 * len(values) + 1.4))
    drawn = ax.imshow(numbers, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for (y, x), number in np.ndenumerate(numbers):
        colour = "white" if abs(number) > 0.6 * limit else BLACK
        ax.text(x, y, f"{number:+.0f}" if round(number) else "0", ha="center", va="center", size=8, color=colour)
    ax.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor", size=9)
    ax.set_yticks(range(len(values)), list(values), size=9)
    ax.grid(False)
    fig.colorbar(drawn, ax=ax, label=label, shrink=0.6, aspect=30)
    return fig


def picture(ax: Axes, image: Tensor) -> None:
    """One image (C, H, W), grey or colour, wherever it is."""
    pixels = image.detach().cpu().clamp(0, 1)
    ax.imshow((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy(), vmin=0, vmax=1)
