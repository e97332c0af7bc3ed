"""Checks of the final project: settings from validation images, paired intervals, and what they show."""

from __future__ import annotations

import torch

from dtta.course.judge import Student, public
from dtta.course.runner.variants import generator


@public
def choose_setting(student: Student) -> None:
    """The first setting with the largest gain on validation images; failed runs (nan) are never chosen."""
    validation = torch.tensor([1.0, 2.5, float("nan"), 4.0, 0.5, 4.0, -6.0])
    test = torch.tensor([3.0, 9.0, 1.0, 2.0, 5.0, 2.5, -1.0])
    student.gives(
        torch.tensor(3),
        validation, test,
        what="the chosen setting",
        reasons={
            "chosen on test images: nothing that is reported may have been looked at before": torch.tensor(1),
            "chosen by the mean of both; test images must have no influence": torch.tensor(1),
            "a failed run (nan) was chosen": torch.tensor(2),
            "the smallest gain was chosen": torch.tensor(6),
            "of equal settings choose the first": torch.tensor(5),
            "the largest change in either direction was chosen": torch.tensor(6),
        },
    )  # fmt: skip


@public
def gain_interval(student: Student) -> None:
    """Mean, low and high of the paired gain in points, by the given bootstrap draws."""
    g = generator(0)
    before, after = torch.rand(9, generator=g), torch.rand(9, generator=g)
    draws = torch.randint(9, (60, 9), generator=g)
    d = 100 * (after.double() - before.double())

    def row(means: torch.Tensor, low: float = 0.025, high: float = 0.975) -> torch.Tensor:
        ends = torch.quantile(means, torch.tensor([low, high], dtype=torch.float64))
        return torch.cat([d.mean()[None], ends])

    right, means = row(d[draws].mean(1)), d[draws].mean(1)
    other = draws.flip(0)
    unpaired = 100 * (after.double()[draws].mean(1) - before.double()[other].mean(1))
    student.gives(
        right,
        before, after, draws,
        what="mean, low and high",
        reasons={
            "before and after are swapped: after - before": torch.stack([-right[0], -right[2], -right[1]]),
            "the scores were not turned into percent points": right / 100,
            "the mean of the draws instead of the mean of the images": torch.cat(
                [means.mean()[None], right[1:]]
            ),
            "this interval leaves out 5% on either side": row(means, 0.05, 0.95),
            "the smallest and largest mean, not the 2.5% and 97.5% quantiles": row(means, 0.0, 1.0),
            "the quantiles of single differences, not of their means": row(d),
            "not paired: before and after must be drawn together": row(unpaired),
            "the quantiles of the sums, not of the means": row(d[draws].sum(1)),
        },
    )  # fmt: skip


@public
def verdicts(student: Student) -> None:
    """1 where the interval lies above 0, -1 where it lies below, else 0."""
    rows = torch.tensor([[3.0, 1.0, 5.0], [2.0, -1.0, 5.0], [-2.0, -4.0, 0.5], [-3.0, -5.0, -0.2], [0.3, 0.1, 0.4]])
    student.gives(
        torch.tensor([1, 0, 0, -1, 1]),
        rows,
        what="what each comparison shows",
        reasons={
            "the sign of the mean is not enough: the whole interval must lie on one side of 0": torch.tensor(
                [1, 1, -1, -1, 1]
            ),
            "a loss is not distinguished from an undecided comparison": torch.tensor([1, 0, 0, 0, 1]),
            "a gain and a loss are swapped": torch.tensor([-1, 0, 0, 1, -1]),
            "one end is not enough: for a gain the low end must lie above 0": torch.tensor([1, 1, 1, -1, 1]),
            "this says whether 0 is in the interval, the other way round": torch.tensor([0, 1, 1, 0, 0]),
        },
    )
