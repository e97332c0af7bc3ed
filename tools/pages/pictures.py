"""Draw the pictures of README, introduction and live page, from the stored tables, and the diagram of the method."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

import dtta
from dtta.evaluation.evaluate import image_generator
from dtta.evaluation.statistics import paired_gain
from dtta.experiments import stored
from dtta.methods.registry import build
from dtta.pages import diagram, figures
from dtta.problems.digits.shifts import SHIFTS


def draw(folder: Path) -> list[Path]:
    """Write hero.png, method.svg and film.webp; return their paths."""
    figures.style()
    hero, method, film = folder / "hero.png", folder / "method.svg", folder / "film.webp"
    _hero().savefig(hero, dpi=110, metadata={"Software": None})
    with plt.rc_context({"svg.hashsalt": "dtta"}):  # the same bytes each time
        diagram.method().savefig(method, metadata={"Date": None})
    frames = [_pixels(fig) for fig in _film()]
    # It plays once, and stops after less than five seconds: nothing moves that the reader cannot stop.
    frames[0].save(film, save_all=True, append_images=frames[1:], duration=800, loop=1, quality=80, method=6)
    return [hero, method, film]


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


def _film() -> list[Figure]:
    """Draw the adaptation to the median success of the digits before each step and at the end, as the live page."""
    problem = dtta.load("digits")
    row = stored.outcomes("digits-test", "diffusion-tta", set(SHIFTS))["success"]
    tta = build(problem, "diffusion-tta", **stored.runs("digits-test")["diffusion-tta"].settings)
    image, label = problem.image(row.index, row.shift, row.severity)
    final = tta(image, image_generator(row.seed, row.index))
    beliefs = [output.softmax(1)[0] for output in (*(step.output for step in tta.history), final)]
    losses = [step.loss for step in tta.history]
    angle = 2 * torch.pi * torch.arange(len(problem.classes)) / len(problem.classes)
    corners = torch.stack([angle.sin(), angle.cos()], dim=1)
    path = torch.stack(beliefs) @ corners
    frames = []
    for k, belief in enumerate(beliefs):
        fig, axes = plt.subplots(1, 4, figsize=(10, 2.7), width_ratios=(1, 1.8, 1.4, 1.4), layout="constrained")
        figures.picture(axes[0], image[0])
        axes[0].set_title(f"true class: {int(label)}", loc="center")
        figures.bars(axes[1], beliefs[0], belief, problem.classes)
        axes[1].set_title(f"after step {k}" if k else "before", loc="center")
        axes[2].fill(*corners.T, fill=False, ec=figures.GREY)
        axes[2].plot(*path[: k + 1].T, "o-", color=figures.BLUE, ms=3)
        axes[2].plot(*path[k], "o", color=figures.BLUE, ms=8)
        for name, place in zip(problem.classes, 1.18 * corners, strict=True):
            axes[2].text(*place, name, ha="center", va="center")
        axes[2].set(aspect="equal", xlim=(-1.35, 1.35), ylim=(-1.35, 1.35))
        axes[2].set_title("belief as a point", loc="center")
        axes[3].plot(losses[: k + 1], "o-", color=figures.BLUE)
        axes[3].set(xlim=(-0.5, len(losses) - 0.5), ylim=(0.9 * min(losses), 1.1 * max(losses)), xlabel="step")
        axes[3].set_title("loss", loc="center")
        for ax in (axes[0], axes[2]):
            ax.axis("off")
        frames.append(fig)
    return frames


def _pixels(fig: Figure) -> Image.Image:
    fig.set_dpi(100)
    fig.canvas.draw()
    image = Image.fromarray(np.asarray(fig.canvas.buffer_rgba())).convert("RGB")
    plt.close(fig)
    return image
