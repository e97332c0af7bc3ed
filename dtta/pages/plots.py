"""Draw losses, beliefs, gains and their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dtta.pages.display import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, label_points
from dtta.pages.maps import changed_classes, depth, depth_error, picture, segmentation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from torch import Tensor

    from dtta.core.problem import Problem


def mean_interval(ax: Axes, x: Sequence[float], curves: Tensor, colour: str, label: str, **line) -> None:
    """Draw the mean of `curves` (n, points), and its 95% interval (normal approximation) as a filled area.

    `line`: of ``ax.plot``, such as the style of the line and its markers.
    """
    curves = curves.cpu()
    mean, error = curves.mean(0), 1.96 * curves.std(0) / len(curves) ** 0.5
    ax.plot(x, mean, color=colour, label=label, **line)
    ax.fill_between(x, mean - error, mean + error, color=colour, alpha=0.25, lw=0)


def loss_gap(
    t: Sequence[float],
    panels: Mapping[str, Tensor],
    names: Sequence[str],
    truth: str = "the truth",
    used: tuple[float, float] | None = None,
) -> Figure:
    """Draw the diffusion loss under other conditions minus that under the true one, in thousandths, by timestep.

    A gap above zero at most timesteps shows that the diffusion model uses its condition.

    Args:
        t: timesteps (points,).
        panels: title -> losses (n, 1 + len(names), points), the true condition first, the others as in `names`.
        truth: the true condition, for the label of the axis.
        used: the range of timesteps that adaptation draws from, shaded.
    """
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(panels), figsize=(2 * len(panels), 3.3), sharex=True, sharey=True, squeeze=False)
    for ax, (title, losses) in zip(axes[0], panels.items(), strict=True):
        if used:
            ax.axvspan(*used, color="#efefef", lw=0, zorder=0)
        ax.axhline(0, color=BLACK, lw=1)
        styles = zip(names, (BLUE, GREEN, ORANGE, PURPLE), ("-", "--", "-.", ":"), "osD^", strict=False)
        for k, (name, colour, line, marker) in enumerate(styles, start=1):
            mean_interval(ax, t, losses[:, k] - losses[:, 0], colour, name, ls=line, marker=marker, ms=4)
        ax.set(title=title, xlabel="timestep t")
        ax.set_yscale("symlog", linthresh=1e-3)
        # the exponents of powers of ten would be too small to read on a phone
        ax.yaxis.set_major_formatter(lambda value, place: f"{1000 * value:g}".replace("-", "−"))
    axes[0, 0].set_ylabel(f"loss minus that under\n{truth}, × 1000")
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=2, handlelength=3)
    return fig


def sensitivity(frame: DataFrame, title: str) -> Figure:
    """Draw how much higher the loss is under each condition than under the reference, by t; see ``dtta.pages.probe``.

    Filled areas are the 95% intervals, filled points gaps that are established: their interval excludes zero.
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6, 4.4), layout="constrained")
    ax.axhline(0, color=BLACK, lw=1)
    styles = zip((BLUE, ORANGE, GREEN), ("-", "--", ":"), ("o", "s", "^"), strict=True)
    for (name, rows), (colour, line, marker) in zip(frame.groupby("condition", sort=False), styles, strict=False):
        t = (rows.t_from + rows.t_to) / 2
        established = (rows.low > 0) | (rows.high < 0)
        ax.plot(t, rows.gap, line, color=colour, label=name)
        ax.fill_between(t, rows.low, rows.high, color=colour, alpha=0.2, lw=0)
        for chosen, fill in ((established, colour), (~established, "white")):
            ax.plot(t[chosen], rows.gap[chosen], marker, color=colour, mfc=fill, ls="none")
    low, high = frame[["low", "gap"]].min(axis=None), frame[["high", "gap"]].max(axis=None)
    if max(high, -low) > 20:
        ax.set_yscale("symlog", linthresh=1)
        steps = [10**power * digit for power in range(6) for digit in (1, 3)]
        ticks = [tick for tick in sorted({0, *steps, *(-step for step in steps)}) if low <= tick <= high]
        if len(ticks) > 9:
            ticks = [tick for tick in ticks if not str(abs(tick)).startswith("3")]
        ax.set_yticks(ticks, [f"{tick}".replace("-", "−") for tick in ticks])
        ax.set_yticks([], minor=True)
    ax.set(xlim=(0, frame.t_to.max()), xlabel="timestep t")
    ax.set(ylabel=f"excess over the loss under\n{frame.reference.iloc[0]}, in %")
    intervals = f"95% intervals, simultaneous over {frame.t_from.nunique()} ranges of t; filled: zero is outside"
    fig.suptitle(
        f"Is the diffusion model sensitive to its condition?\n{title}\n{intervals}", x=0.02, ha="left", size=11
    )
    names = frame.condition.nunique()
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=names, frameon=False, title="loss under")
    return fig


def named_points(
    ax: Axes,
    x: Sequence[Mapping[str, float]],
    y: Sequence[Mapping[str, float]],
    names: Sequence[str],
    places: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Draw a labelled point for each pair of gains, with their intervals, and both axes through zero.

    The colours are those of `forest` for the gain on the vertical axis. `places`: name -> centre of its label, where
    the automatic place, next to the point, is a poor one.
    """
    for across, up in zip(x, y, strict=True):
        thin = {"color": "#bbbbbb", "lw": 1, "zorder": 0.5, "solid_capstyle": "butt"}
        ax.plot([across["low"], across["high"]], [up["gain"], up["gain"]], **thin)
        ax.plot([across["gain"], across["gain"]], [up["low"], up["high"]], **thin)
        colour, fill = _colours(up)
        ax.plot(across["gain"], up["gain"], "o", color=colour, mfc=fill)
    ax.axhline(0, color=GREY, lw=1, zorder=1)
    ax.axvline(0, color=GREY, lw=1, zorder=1)
    points = {name: (across["gain"], up["gain"]) for name, across, up in zip(names, x, y, strict=True)}
    for name, place in (places or {}).items():
        line = {"arrowstyle": "-", "color": GREY, "lw": 0.5}
        ax.annotate(name, points.pop(name), place, size=10, ha="center", va="center", arrowprops=line, zorder=1.9)
    label_points(ax, [across for across, _ in points.values()], [up for _, up in points.values()], list(points))


def _colours(gain: Mapping[str, float]) -> tuple[str, str]:
    """Return the colours of a gain's interval, blue or orange-red, and of its point; hollow if zero is inside."""
    if gain["low"] <= 0 <= gain["high"]:
        return GREY, "white"
    return (BLUE, BLUE) if gain["gain"] > 0 else (VERMILION, VERMILION)


def forest(gains: Mapping[str, Mapping[str, float]], title: str = "", ax: Axes | None = None) -> Figure:
    """Draw each gain ("gain", "low" and "high", in points) with its interval, filled if that does not contain zero."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.2, 0.36 * len(gains) + 1))
    for y, gain in enumerate(reversed(list(gains.values()))):
        colour, fill = _colours(gain)
        ax.plot([gain["low"], gain["high"]], [y, y], color=colour, solid_capstyle="butt")  # ends at its bounds
        ax.plot(gain["gain"], y, "o", color=colour, mfc=fill)
    ax.axvline(0, color=BLACK, lw=1)
    ax.set(yticks=range(len(gains)), yticklabels=list(reversed(gains)), xlabel="gain in points")
    ax.grid(axis="y", visible=False)
    if title:
        ax.set_title(title)
    return ax.figure


def gain_by_classes(
    panels: Mapping[str, Mapping[str, Mapping[str, Mapping[int, Mapping[str, float]]]]], budget: int
) -> Figure:
    """Draw gains with their intervals against the number of classes, one row a comparison, one column a data set.

    Markers are hollow where there are more classes than evaluations. The first method is blue.

    Args:
        panels: comparison -> data set -> method -> number of classes -> gain ("gain", "low" and "high", in points).
        budget: evaluations of the diffusion model for an image.
    """
    import matplotlib.pyplot as plt

    data_sets = list(next(iter(panels.values())))
    sizes = {data: sorted({n for row in panels.values() for m in row[data].values() for n in m}) for data in data_sets}
    ratios = [len(sizes[data]) + 1 for data in data_sets]
    methods = list(dict.fromkeys(m for row in panels.values() for of in row.values() for m in of))
    shape = {"squeeze": False, "sharex": "col", "sharey": "row", "width_ratios": ratios}
    fig, axes = plt.subplots(len(panels), len(data_sets), figsize=(5.6, 3 * len(panels) + 1), **shape)
    handles = {}
    for axes_of_row, (comparison, row) in zip(axes, panels.items(), strict=True):
        axes_of_row[0].set_ylabel(comparison)
        for ax, (data, curves) in zip(axes_of_row, row.items(), strict=True):
            ax.axhline(0, color=BLACK, lw=1)
            for method, points in curves.items():
                place = methods.index(method)
                # without orange-red, which marks losses in `forest`
                colour, marker = (BLUE, ORANGE, GREEN, BLACK, PURPLE)[place], "osD^v"[place]
                x = [n * 1.09 ** (place - (len(methods) - 1) / 2) for n in points]  # side by side
                y = [gain["gain"] for gain in points.values()]
                ax.vlines(x, [g["low"] for g in points.values()], [g["high"] for g in points.values()], colour, lw=1)
                (handles[method],) = ax.plot(x, y, marker=marker, ms=6, lw=1.2, color=colour, label=method)
                hollow = [k for k, n in enumerate(points) if n > budget]
                ax.plot([x[k] for k in hollow], [y[k] for k in hollow], marker, ms=6, color=colour, mfc="white")
            ax.set_xscale("log")
            ax.set_xlim(sizes[data][0] / 1.35, sizes[data][-1] * 1.35)
            ax.set_xticks(sizes[data], list(map(str, sizes[data])))
            ax.set_xticks([], minor=True)
    for ax, data in zip(axes[0], data_sets, strict=True):
        ax.set_title(data)
    for ax in axes[-1]:
        ax.set_xlabel("classes")
    fig.legend([handles[m] for m in methods], methods, loc="outside lower center", ncols=2, fontsize=10)
    return fig


def belief(
    image: Tensor, before: Tensor, after: Tensor, classes: Sequence[str], losses: Sequence[float] = ()
) -> Figure:
    """Draw one image (1, C, H, W), the belief (L,) in each class before and after, and each step's loss, if any."""
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
    limit: int = 10,
    order: Sequence[int] | None = None,
) -> None:
    """Draw the belief (L,) in each class before and after; horizontally if there are many classes or long names.

    `limit`: of many classes, draw those with the highest belief; or always those in `order`, for an animation's frames.
    """
    import torch

    many = len(classes) > limit or max(map(len, classes)) > 8
    if order is not None:
        chosen = list(order)
    else:
        chosen = torch.maximum(before, after).argsort(descending=True)[:limit].tolist() if many else range(len(classes))
    place = range(len(chosen))
    names = [classes[j] for j in chosen]
    draw = ax.barh if many else ax.bar
    for offset, values, colour, name in ((-0.2, before, GREY, "before"), (0.2, after, BLUE, "after")):
        draw([j + offset for j in place], [values[j].item() for j in chosen], 0.4, color=colour, label=name)
    if many:
        ax.set(yticks=list(place), yticklabels=names, xlim=(0, 1), xlabel="belief")
        ax.invert_yaxis()
    else:
        ax.set(xticks=list(place), xticklabels=names, ylim=(0, 1), ylabel="belief", xlabel="class")
    ax.legend()


def adaptation(
    problem: Problem,
    image: Tensor,
    before: Tensor,
    after: Tensor,
    label: Tensor | None = None,
    losses: Sequence[float] = (),
) -> Figure:
    """Draw the effect on one image (1, C, H, W) in [0, 1]: beliefs, or maps and their change, and each step's loss.

    `before`, `after`: outputs of the task network (1, ...). `label`: the truth, if it is known.
    """
    if problem.task == "classification":
        return belief(image, before.softmax(1)[0], after.softmax(1)[0], problem.classes, losses)
    import matplotlib.pyplot as plt

    panels = ["image", *(["truth"] if label is not None else []), "before", "after", "change"]
    fig, axes = plt.subplots(1, len(panels) + bool(losses), figsize=(2.1 * (len(panels) + bool(losses)), 2.4))
    for ax, name in zip(axes, panels, strict=False):
        ax.set_title(name, loc="center")
        ax.axis("off")
    picture(axes[0], image[0])
    maps = ([label] if label is not None else []) + [before[0], after[0]]
    for ax, output in zip(axes[1:], maps, strict=False):
        if problem.task == "segmentation":
            segmentation(ax, output if output.ndim == 2 else output.argmax(0), len(problem.classes))
        else:
            depth(ax, output[0], problem.condition.near, problem.condition.far)
    place = len(panels) - 1
    if problem.task == "segmentation":
        changed_classes(axes[place], before[0].argmax(0), after[0].argmax(0), label)
    else:
        depth_error(axes[place], after[0, 0], before[0, 0])
        axes[place].set_title("change: red nearer,\nblue further", loc="center", fontsize=9)
    if losses:
        steps = range(1, len(losses) + 1)
        axes[-1].plot(steps, losses, "o-", color=VERMILION)
        axes[-1].set(xlabel="step", title="diffusion loss", xticks=steps)
    return fig
