"""Paired gains with bootstrap intervals, and metrics of a data set from sums over its images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dtta.evaluation.run import Row

if TYPE_CHECKING:
    from dtta.core.problem import Metric


def paired_gain(
    before: list[Row], after: list[Row], metric: Metric | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Return "before", "after", "gain", its 95% paired bootstrap interval "low", "high", and "images" (rows).

    Images are resampled, with all their rows of several shifts or seeds. `metric`: one of the problem's, for each shift
    from the sums of its images, then averaged over shifts, in its unit; None: 100 x the mean score. Raises ValueError:
    the two lists are not of the same images, in the same order.
    """
    keys = [[r.key for r in rows] for rows in (before, after)]
    if keys[0] != keys[1] or not before:
        raise ValueError("a paired comparison needs the same images, in the same order, in both lists")
    if metric is None:
        a, b = (100 * np.array([r.score for r in rows]) for rows in (before, after))
        low, high = bootstrap_interval(b - a, [r.index for r in before], resamples, seed)
        return dict(before=a.mean(), after=b.mean(), gain=(b - a).mean(), low=low, high=high, images=len(a))
    images = np.unique([r.index for r in before])
    weight = _weightings(len(images), resamples, seed)
    a, b = (value(rows, metric, images, weight) for rows in (before, after))
    gains = (b - a)[1:]
    gains = gains[~np.isnan(gains)]  # a resample may contain nothing that the metric measures
    low, high = np.percentile(gains, [2.5, 97.5]).tolist() if len(gains) else (np.nan, np.nan)
    before_, after_ = float(a[0]), float(b[0])
    return dict(before=before_, after=after_, gain=after_ - before_, low=low, high=high, images=len(before))


def gains_of_shifts(before: list[Row], after: list[Row], metric: Metric | None = None) -> dict[str, dict[str, float]]:
    """Return the paired gain of each shift and, if there are several, the "mean" over those that are not "clean"."""
    shifts = list(dict.fromkeys(row.shift for row in after))
    parts = {shift: [[row for row in rows if row.shift == shift] for rows in (before, after)] for shift in shifts}
    if len(shifts) > 1:
        parts["mean"] = [[row for row in rows if row.shift != "clean"] for rows in (before, after)]
    return {name: paired_gain(*pair, metric) for name, pair in parts.items()}


def value(
    rows: list[Row], metric: Metric, images: np.ndarray | None = None, weight: np.ndarray | None = None
) -> np.ndarray:
    """Return a metric of each shift, from the totals of its images' sums, averaged over shifts: (R,), in its unit.

    `weight`: R weightings (R, n) of the images with the numbers `images` (n,); None: each once.
    """
    images = np.unique([r.index for r in rows]) if images is None else images
    weight = np.ones((1, len(images))) if weight is None else weight
    place = {index: i for i, index in enumerate(images.tolist())}
    by_shift: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        by_shift.setdefault((row.shift, row.severity), []).append(row)
    values = []
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        # a resample may leave a shift without images: its value is NaN, and the mean is over the other shifts
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        for group in by_shift.values():
            names = list(group[0].sums)
            table = np.array([[*(row.sums[name] for name in names), 1] for row in group])
            weight_of_rows = weight.T[[place[row.index] for row in group]]  # a shift may have few of the images
            values.append(metric(dict(zip([*names, "images"], table.T @ weight_of_rows, strict=True))))
        return np.nanmean(values, axis=0)


def bootstrap_interval(
    values: Sequence[float], groups: Sequence[int] | None = None, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of the mean of `values` (n,); `groups` (n,) are resampled whole."""
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    group = np.unique(groups, return_inverse=True)[1]
    sums, counts = np.bincount(group, weights=np.asarray(values, dtype=float)), np.bincount(group)
    draws = (_few_resamples if len(sums) <= 1000 else _resamples)(len(sums), resamples, seed)
    total, number = np.concatenate([portion @ np.stack([sums, counts], axis=1) for portion in draws]).T
    low, high = np.percentile(total / number, [2.5, 97.5])
    return float(low), float(high)


def _resamples(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each of n groups is drawn, for 500 resamples at a time to save memory: (500, n)."""
    rng = np.random.default_rng(seed)
    for _ in range(-(-resamples // 500)):
        pick = rng.integers(n, size=(500, n)) + n * np.arange(500)[:, None]
        yield np.bincount(pick.ravel(), minlength=500 * n).reshape(500, n).astype(float)


# Drawing costs more than all else, and a table of results asks for the same draws hundreds of times.
@lru_cache(maxsize=4)
def _few_resamples(n: int, resamples: int, seed: int) -> list[np.ndarray]:
    return list(_resamples(n, resamples, seed))


@lru_cache(maxsize=4)  # the tables of a page have few different n; 160 MB each with 2000 images
def _weightings(n: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each of n images counts: once each, then in each of R resamples: (1 + R, n).

    An image's numbers are contiguous, because `value` takes those of a few images at a time.
    """
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.asfortranarray(np.concatenate([np.ones((1, n)), draws]))


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a share, from counts; (0, 1) without trials."""
    z = 1.959964  # of the normal distribution, 95% within
    middle = (successes + z**2 / 2) / (trials + z**2)
    width = z * (successes * (trials - successes) / max(trials, 1) + z**2 / 4) ** 0.5 / (trials + z**2)
    return max(middle - width, 0.0), min(middle + width, 1.0)


def simultaneous_band(
    differences: np.ndarray, levels: np.ndarray, resamples: int = 4000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return K ratios of means, sum(differences) / sum(levels), and the lower and upper ends of their 95% intervals.

    Args:
        differences, levels: (n, K) of n images, for example gaps and losses at K ranges of t.

    The intervals hold for all K ratios at once: their half width is c standard errors, with c the 95% quantile of the
    largest of the K studentised deviations over resamples of the images (bootstrap-t, max-t).
    """
    d, l = np.asarray(differences, dtype=float), np.asarray(levels, dtype=float)
    n = len(d)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)

    def ratio_and_error(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = weight @ l
        ratio = weight @ d / total
        squares = weight @ d**2 - 2 * ratio * (weight @ (d * l)) + ratio**2 * (weight @ l**2)
        return ratio, np.sqrt(squares.clip(min=0) * n / (n - 1)) / total

    ratio, error = (part[0] for part in ratio_and_error(np.ones((1, n))))
    resampled, errors = ratio_and_error(draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviations = np.nan_to_num(np.abs(resampled - ratio) / errors, nan=0.0)  # 0 / 0: all images agree
    c = np.quantile(deviations.max(axis=1), 0.95)
    width = np.where(error > 0, c * error, 0.0)
    return ratio, ratio - width, ratio + width
