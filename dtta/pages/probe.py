"""Is a diffusion model sensitive to its condition, and at which t? The first question about a new pair of models.
The second: does it prefer the truth to what the network predicts?

    result = dtta.probe(dtta.load("digits"))
    print(result.sentence)
    result.figure().savefig("probe.png")
    result.frame                            # the numbers

    from dtta.pages.probe import preference_for_truth

    preference_for_truth(dtta.load("scenes-depth"), 10, "fog")

Nothing is adapted. The losses of the same images under the same (t, ε) are compared between the true condition (the
network's prediction where there are no labels) and those of other classes, or of other images' maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from dtta.core.adapter import check_counts, take_logits
from dtta.core.conditions import one_channel
from dtta.core.feedback import run_in_passes_that_fit
from dtta.core.precision import DTYPES
from dtta.core.probe import losses_under
from dtta.core.sampling import Sampling
from dtta.evaluation.statistics import bootstrap_interval, simultaneous_band
from dtta.pages import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dtta.core.problem import Problem

FEWEST = 8  # images; fewer give no useful interval
CERTAIN = 30.0  # a logit whose class has probability 1 in float32


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Attributes:
        sentence: the result in words.
        frame: a row for each range of t and each comparison: from `t_from` to `t_to`, the `loss` under the `reference`
            condition, how much higher it is under the `condition` (`gap`, % of the loss) with its 95% interval (`low`,
            `high`, simultaneous over the ranges of t), and `accuracy`, how often the true condition has the lowest
            loss among it and the others (NaN without labels).
        t_min, t_max: the range of t, as fractions of T, where the gap is established and which contains the largest
            one; None: it is established nowhere.
        accuracy: the same as in `frame`, for the mean loss over all t; None without labels.
        title: the problem, the shift and the images.
    """

    sentence: str
    frame: pd.DataFrame
    t_min: float | None
    t_max: float | None
    accuracy: float | None
    title: str

    def figure(self) -> Figure:
        """Draw the gaps and their intervals by t."""
        return plots.sensitivity(self.frame, self.title)


@torch.no_grad()
def probe(
    problem: Problem,
    images: int | None = None,
    shift: str = "clean",
    severity: int = 3,
    split: str | None = None,
    seed: int = 0,
    *,
    parts: int = 10,
    samples: int = 4,
    others: int = 3,
    precision: str = "float32",
    progress: bool = True,
) -> Probe:
    """Compare the losses of a problem's images under right and wrong conditions.

    Args:
        images: how many; None: 24, or all if there are fewer.
        shift, severity, split, seed: of the images; split None: validation if the problem has enough, else test.
        parts: equal parts of the range of t.
        samples: pairs (t, ε) for each image in each part, the same for all conditions.
        others: other classes, or other images' maps, for each image.
        precision: of the diffusion model, see ``dtta.core.precision``.

    Raises ValueError: unknown names, fewer than 8 images, or a number below 1.
    """
    for name, value in dict(parts=parts, samples=samples, others=others).items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if precision not in DTYPES:
        raise ValueError(f"precision must be one of {', '.join(DTYPES)}, not {precision!r}")
    split = split or ("validation" if problem.sizes.get("validation", 0) >= (images or FEWEST) else "test")
    count = min(24, problem.size(split)) if images is None else images
    if problem.size(split) < FEWEST:
        raise ValueError(f"a probe needs {FEWEST} images or more; {split} has {problem.size(split)}")
    if not FEWEST <= count <= problem.size(split):
        raise ValueError(f"images must be {FEWEST} to {problem.size(split)}, all of {split}; not {count}")
    x, labels = problem.images(count, shift, severity, split, seed)
    y = _predict(problem, x)
    conditions = _conditions(problem, y, labels if problem.labelled else None, others, seed)
    noun = "map" if problem.task != "classification" else "name" if problem.reader else "class"
    reference = f"the {'true' if problem.labelled else 'predicted'} {noun}"

    edges, device = np.linspace(0, 1, parts + 1).round(6).tolist(), x.device.type
    names = [name for name, group in conditions.items() for _ in group]
    flat = [c for group in conditions.values() for c in group]
    losses, passes = [], SimpleNamespace(micro_batch=None)
    for low, high in tqdm(list(pairwise(edges)), desc="probing", disable=not progress):
        sampling = Sampling("stratified", t_min=low, t_max=high)

        def attempt(batch: int, sampling: Sampling = sampling) -> Tensor:
            with torch.autocast(device, DTYPES[precision], enabled=DTYPES[precision] is not None):
                return losses_under(problem.diffusion, x, flat, samples, sampling, seed, batch)

        losses.append(run_in_passes_that_fit(passes, len(x), attempt))
    table = torch.stack(losses, dim=2).double().numpy()  # (N, conditions, parts)
    if not np.isfinite(table).all():
        raise FloatingPointError("a diffusion loss is not finite; try --precision float32 or check the weights")
    of = {name: table[:, [k for k, other in enumerate(names) if other == name]] for name in conditions}
    wrong = next(name for name in conditions if name.startswith("other"))
    right = of.pop("reference")[:, 0]  # (N, parts)
    wins = (right[:, None] < of[wrong]).all(axis=1).mean(axis=0) if problem.labelled else np.full(parts, np.nan)
    overall = float((right.mean(1)[:, None] < of[wrong].mean(2)).all(axis=1).mean()) if problem.labelled else None
    T = problem.diffusion.timesteps
    rows = []
    for name, values in of.items():
        gap, low, high = simultaneous_band(values.mean(axis=1) - right, right, seed=seed)
        rows += [
            dict(
                condition=name, reference=reference, t_from=round(edges[k] * T), t_to=round(edges[k + 1] * T),
                loss=right[:, k].mean(), gap=100 * gap[k], low=100 * low[k], high=100 * high[k],
                accuracy=wins[k] if name == wrong else np.nan,
            )
            for k in range(parts)
        ]  # fmt: skip
    frame = pd.DataFrame(rows)
    pictures = "your pictures" if problem.name == "own" else problem.name
    about = f"{pictures}, {'no added shift' if shift == 'clean' else shift}, {count} {split} images"
    chosen = frame[frame.condition == wrong].reset_index(drop=True)
    sentence, best = _sentence(chosen, f"{count} {split} images", overall, of[wrong].shape[1] + 1)
    t_min, t_max = (edges[best.start], edges[best.stop]) if best else (None, None)
    return Probe(_with_advice(sentence, t_min, t_max), frame, t_min, t_max, overall, about)


@torch.no_grad()
def preference_for_truth(
    problem: Problem,
    images: int,
    shift: str = "clean",
    severity: int = 3,
    split: str = "validation",
    seed: int = 0,
    *,
    sampling: Sampling | None = None,
    samples: int = 4,
) -> dict[str, float]:
    """Return by how much the diffusion model prefers the truth to the network's prediction: "gain", "low", "high".

    The preference is the diffusion loss (Eq. 2) under the prediction minus that under the truth, for the same (t, ε),
    in thousandths: its mean over the images, and its 95% bootstrap interval. Above zero the model prefers the truth.
    Where the truth is unknown, the prediction takes its place.

    Args:
        images: how many, the first of the split.
        shift, severity, split, seed: of the images; the seed is that of the pairs (t, ε), too.
        sampling: how the pairs are drawn; None: stratified over all timesteps.
        samples: pairs for each image.

    Raises ValueError: the problem has no labels, unknown names, or a number below 1. IndexError: too few images.
    """
    if not problem.labelled:
        raise ValueError(f"{problem.name} has no labels to compare the prediction with")
    check_counts(images=images)
    x, labels = problem.images(images, shift, severity, split, seed)
    y = _predict(problem, x)
    conditions = [problem.condition(output) for output in (_truth(problem, y, labels), y)]
    right, wrong = losses_under(problem.diffusion, x, conditions, samples, sampling, seed).T
    differences = 1000 * (wrong - right)
    low, high = bootstrap_interval(differences.tolist())
    return {"gain": differences.mean().item(), "low": low, "high": high}


def compare_with_gains(
    preferences: Mapping[str, Mapping[str, float]], gains: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Return in words how many shifts have which preference, and under how many of them a gain is established.

    `preferences`, `gains`: shift -> "low" and "high", a 95% interval: of ``preference_for_truth``, and of the gain of a
    method, in any unit. Established is what has an interval without zero. Raises KeyError: a shift has no gain.
    """
    groups = {
        "prefers the truth": [s for s, p in preferences.items() if p["low"] > 0],
        "prefers the network's map": [s for s, p in preferences.items() if p["high"] < 0],
        "too small to tell": [s for s, p in preferences.items() if p["low"] <= 0 <= p["high"]],
    }
    return [
        f"{name}: {len(group)} of {len(preferences)}; gain established under "
        f"{sum(gains[s]['low'] > 0 for s in group)}, drop under {sum(gains[s]['high'] < 0 for s in group)}"
        for name, group in groups.items()
    ]


def _predict(problem: Problem, x: Tensor) -> Tensor:
    """Return the task network's outputs (N, ...) for the images (N, C, H, W), eight in a pass."""
    return torch.cat([take_logits(problem.model, part, problem.model(part)) for part in x.split(8)])


def _truth(problem: Problem, y: Tensor, labels: Tensor) -> Tensor:
    """Return labels (N, ...) as outputs without doubt, (N, ...) as `y`, the prediction, which fills unknown pixels."""
    if problem.task == "depth":
        return torch.where(labels > 0, labels, one_channel(y))
    return _certain(torch.where(labels < 0, y.argmax(1), labels), len(problem.classes))


def _conditions(problem: Problem, y: Tensor, labels: Tensor | None, others: int, seed: int) -> dict[str, list[Tensor]]:
    """Return the conditions of all images by name: the reference, others, the prediction if it is not the reference,
    and no condition if the problem's text encoder can read an empty sentence."""
    L, N = len(problem.classes), len(y)
    if problem.task == "classification":
        best = y.argmax(1) if labels is None else labels
        right = y if labels is None else _certain(best, L)
        generator = torch.Generator().manual_seed(seed)
        offsets = torch.stack([torch.randperm(L - 1, generator=generator)[:others] + 1 for _ in range(N)]).to(y.device)
        wrong = [_certain((best + offset) % L, L) for offset in offsets.T]
        name, predicted = "other names" if problem.reader else "other classes", "the network's probabilities"
    else:
        right = y if labels is None else _truth(problem, y, labels)
        wrong = [right.roll(k, 0) for k in range(1, min(others, N - 1) + 1)]
        name, predicted = "other images' maps", "the network's prediction"
    conditions = {"reference": [right], name: wrong} | ({} if labels is None else {predicted: [y]})
    made = {key: [problem.condition(output) for output in outputs] for key, outputs in conditions.items()}
    if problem.reader:
        nothing = problem.reader([""]).to(y.device)
        made["no text"] = [nothing.expand(N, *nothing.shape[1:])]
    return made


def _certain(classes: Tensor, L: int) -> Tensor:
    """Return logits (N, L, ...) that give each class (N, ...) probability 1."""
    return CERTAIN * F.one_hot(classes, L).movedim(-1, 1).float()


def _runs(mask: np.ndarray) -> list[range]:
    """Return the runs of true entries."""
    groups = (list(group) for value, group in groupby(range(len(mask)), key=lambda k: bool(mask[k])) if value)
    return [range(group[0], group[-1] + 1) for group in groups]


def _sentence(rows: pd.DataFrame, images: str, accuracy: float | None, candidates: int) -> tuple[str, range | None]:
    """Return the result in words, and the run of rows that contains the largest established gap, if there is one."""
    wrong, right = rows.condition[0], rows.reference[0]
    simultaneous = f"simultaneous over {len(rows)} ranges of t" if len(rows) > 1 else "over all t"

    def spans(mask: pd.Series) -> str:
        return " and ".join(f"{rows.t_from[run.start]} to {rows.t_to[run[-1]]}" for run in _runs(mask.to_numpy()))

    higher, lower = rows.low > 0, rows.high < 0
    reverse = f" At t = {spans(lower)}, {wrong} give a lower loss." if lower.any() else ""
    if not higher.any():
        bound = max(rows.high.max(), 0)
        return (
            f"No sensitivity to the condition is established in {images}: at no t is the loss under {wrong} shown to "
            f"be higher than under {right} (by at most {_percent(bound)}% of the loss; 95% intervals {simultaneous})."
            f"{reverse}"
        ), None
    k = rows.gap.where(higher).idxmax()
    best = next(run for run in _runs(higher.to_numpy()) if k in run)
    sentence = (
        f"The diffusion model is sensitive to the condition at t = {spans(higher)}: {wrong} give a higher loss than "
        f"{right}, most at t = {rows.t_from[k]} to {rows.t_to[k]} (by {_percent(rows.gap[k])}% of the loss, 95% "
        f"interval {_percent(rows.low[k])} to {_percent(rows.high[k])}, {simultaneous}; {images}).{reverse}"
    )
    if accuracy is not None:
        sentence += (
            f" Of {candidates} conditions, {right} has the lowest loss for {accuracy:.0%} of the images "
            f"({1 / candidates:.0%} by chance)."
        )
    return sentence, best


def _percent(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _with_advice(sentence: str, t_min: float | None, t_max: float | None) -> str:
    if t_min is None or t_max is None:
        return f"{sentence} Adapting is unlikely to help; more images would narrow the intervals."
    if (t_min, t_max) == (0, 1):
        return f"{sentence} Adaptation can use all timesteps, the default."
    return f"{sentence} Adaptation can use this: try --set t_min={t_min:g} --set t_max={t_max:g}."
