"""Draw the pictures of README and introduction: results from the stored tables, and the diagram of the method."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import dtta
from dtta.evaluation.statistics import paired_gain
from dtta.experiments import stored
from dtta.pages import diagram, figures
from dtta.problems.digits.shifts import SHIFTS


def draw(folder: Path) -> list[Path]:
    """Write hero.png and method.svg; return their paths."""
    figures.style()
    hero, method = folder / "hero.png", folder / "method.svg"
    _hero().savefig(hero, dpi=110, metadata={"Software": None})
    with plt.rc_context({"svg.hashsalt": "dtta"}):  # the same bytes each time
        diagram.method().savefig(method, metadata={"Date": None})
    return [hero, method]


def _hero() -> Figure:
    """Draw what adaptation changes: on the left images, on the right the gain for each shift with its 95% interval.

    The images are those that adaptation corrects and those that it makes wrong, at equal distances in the list of all.
    """
    problem = dtta.load("digits")
    pairs = list(zip(*stored.align(*(stored.rows("digits-test", r) for r in ("none", "diffusion-tta"))), strict=True))
    corrected = [after for before, after in pairs if after.score > before.score]
    made_wrong = [after for before, after in pairs if after.score < before.score]
    fig = plt.figure(figsize=(11, 4.2), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=(1, 1.25))
    axes = left.subplots(4, 6)
    for rows, part, edge in ((corrected, axes[:2], figures.BLUE), (made_wrong, axes[2:], figures.VERMILION)):
        step = max(1, len(rows) // part.size)
        for ax in part.flat:
            ax.axis("off")
        for ax, row in zip(part.flat, rows[::step], strict=False):
            image, label = problem.image(row.index, row.shift, row.severity)
            ax.imshow(image[0, 0], vmin=0, vmax=1)
            ax.set_title(str(int(label)), fontsize=10, loc="center")
            ax.add_patch(plt.Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, lw=3, ec=edge))
    left.suptitle(f"{len(corrected)} answers corrected (blue), {len(made_wrong)} made wrong (red)", fontsize=12)
    gains = {}
    for shift in SHIFTS:
        before, after = zip(*[pair for pair in pairs if pair[0].shift == shift], strict=True)
        gains[shift.replace("_", " ")] = paired_gain(before, after)
    ax = right.subplots()
    figures.forest(gains, "Gain over no adaptation by shift, with 95% interval", ax)
    return fig
