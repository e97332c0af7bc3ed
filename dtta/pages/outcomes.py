"""Draw what adaptation did to an image: success, no change and harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dtta.pages.display import BLUE, GREY
from dtta.pages.maps import changed_classes, changed_depth, class_legend, depth, depth_bar, picture, segmentation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from dtta.core.problem import Problem


def outcomes(problem: Problem, cases: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]) -> Figure:
    """Draw a column for each case, such as success, no change and harm: the image, and the output before and after.

    `cases`: title -> image (1, C, H, W) in [0, 1], outputs before and after (1, ...), and the label. Maps come with the
    truth and with what changed (see ``changed_classes`` and ``changed_depth``); of beliefs, the true class (with a
    star) and those with the highest belief before or after are drawn.
    """
    import matplotlib.pyplot as plt

    classification = problem.task == "classification"
    rows = ("image", "belief") if classification else ("image", "truth", "before", "after", "changed")
    height = 4.6 if classification else 1.75 * len(rows)
    width = 1.9 if classification and max(map(len, problem.classes)) < 5 else 2.4  # short names need less room
    fig, axes = plt.subplots(len(rows), len(cases), figsize=(width * len(cases), height), squeeze=False)
    for column, (title, (image, before, after, label)) in zip(axes.T, cases.items(), strict=True):
        picture(column[0], image[0])
        column[0].set_title(title, loc="center", fontsize=11)
        if classification:
            _few_bars(column[1], before.softmax(1)[0], after.softmax(1)[0], problem.classes, int(label))
            continue
        for ax, output in zip(column[1:4], (label, before[0], after[0]), strict=True):
            if problem.task == "segmentation":
                segmentation(ax, output if output.ndim == 2 else output.argmax(0), len(problem.classes))
            else:
                depth(ax, output.reshape(output.shape[-2:]), problem.condition.near, problem.condition.far)
        if problem.task == "segmentation":
            changed_classes(column[4], before[0].argmax(0), after[0].argmax(0), label)
        else:
            changed_depth(column[4], before[0, 0], after[0, 0], label.reshape(label.shape[-2:]))
    for row, name in zip(axes, rows, strict=True):
        for ax in row if name != "belief" else ():
            ax.set_axis_on()
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        if name != "belief":
            row[0].set_ylabel(name)
    if classification:
        fig.legend(*axes[-1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    elif problem.task == "segmentation":
        class_legend(fig, problem.classes, changes=True)
    else:
        depth_bar(fig, axes[:4], shrink=0.6)
        depth_bar(fig, axes[4], {-0.4: "worse", 0: "same", 0.4: "better"}, "error")
    return fig


def _few_bars(ax: Axes, before: Tensor, after: Tensor, classes: Sequence[str], truth: int, limit: int = 3) -> None:
    """Draw the belief (K,) before and after in the true class and in the likeliest others, `limit` classes together."""
    import torch

    others = torch.maximum(before, after)
    others[truth] = -1
    chosen = [truth, *others.argsort(descending=True)[: limit - 1].tolist()]
    for offset, values, colour, name in ((-0.2, before, GREY, "before"), (0.2, after, BLUE, "after")):
        ax.barh(
            [k + offset for k in range(len(chosen))], [values[j].item() for j in chosen], 0.4, color=colour, label=name
        )
    names = [classes[j][:14] + (" ★" if j == truth else "") for j in chosen]
    ax.set(yticks=range(len(chosen)), yticklabels=names, xlim=(0, 1), xticks=[0, 0.5, 1], xlabel="belief")
    ax.invert_yaxis()
