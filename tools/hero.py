"""Draw the README's picture from the stored results: python tools/hero.py -> book/_static/hero.png

Left: test images under a shift whose answer adaptation mended, beside images it broke, taken at equal distances
from the list of all such images. Right: the gain for each shift with its 95% paired interval.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import dtta
from dtta.evaluation.statistics import paired_gain
from dtta.experiments import stored
from dtta.pages import figures
from dtta.problems.digits.shifts import SHIFTS

OUT = Path(__file__).parent.parent / "book" / "_static" / "hero.png"


def main() -> None:
    figures.style()
    problem = dtta.load("digits")
    pairs = list(zip(*stored.align(*(stored.rows("digits-test", r) for r in ("none", "diffusion-tta"))), strict=True))
    mended = [b for a, b in pairs if b.score > a.score]
    broken = [b for a, b in pairs if b.score < a.score]
    fig = plt.figure(figsize=(11, 4.2), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=(1, 1.25))
    axes = left.subplots(4, 6)
    for rows, part, edge in ((mended, axes[:2], figures.BLUE), (broken, axes[2:], figures.VERMILION)):
        step = max(1, len(rows) // part.size)
        for ax in part.flat:
            ax.axis("off")
        for ax, row in zip(part.flat, rows[::step], strict=False):
            image, label = problem.image(row.index, row.shift, row.severity)
            ax.imshow(image[0, 0], vmin=0, vmax=1)
            ax.set_title(str(int(label)), fontsize=10, loc="center")
            ax.add_patch(plt.Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, lw=3, ec=edge))
    left.suptitle(f"{len(mended)} answers mended (blue), {len(broken)} broken (red)", fontsize=12)
    ax = right.subplots()
    figures.forest_into(
        ax,
        {s.replace("_", " "): paired_gain(*zip(*[p for p in pairs if p[0].shift == s], strict=True)) for s in SHIFTS},
    )
    ax.set_title("Gain over no adaptation by shift, with 95% interval")
    fig.savefig(OUT, dpi=110, metadata={"Software": None})
    print(OUT)


if __name__ == "__main__":
    main()
