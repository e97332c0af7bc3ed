"""Paired intervals, and metrics of a data set."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dtta.evaluation.run import Row, spread
from dtta.evaluation.statistics import bootstrap_interval, paired_gain, value, wilson_interval
from dtta.problems.metrics import DEPTH_METRICS, segmentation_metrics


@given(st.integers(1, 15), st.integers(1, 40), st.integers(0, 40))
def test_spread_images_differ_within_a_shift_and_cover_all(shifts, count, more):
    total, names = count + more, [f"shift {k}" for k in range(shifts)]
    images = spread(names, count, total)
    assert list(images) == names
    for numbers in images.values():
        assert len(set(numbers)) == len(numbers) == count
        assert all(0 <= i < total for i in numbers)
    gap = -(-total // shifts)  # no two shifts start farther apart
    if count >= gap:
        assert set().union(*images.values()) == set(range(total))


def rows_of(values) -> list[Row]:
    return [Row("fog", 3, i, float(v), 0.0) for i, v in enumerate(values)]


def test_paired_gain_against_the_normal_approximation():
    """On 400 pairs the bootstrap interval is mean ± 1.96 standard errors of the differences."""
    rng = np.random.default_rng(0)
    before = rng.random(400) < 0.6
    after = before ^ (rng.random(400) < np.where(before, 0.05, 0.3))
    gain = paired_gain(rows_of(before), rows_of(after))
    difference = 100 * (after.astype(float) - before)
    error = 1.96 * difference.std(ddof=1) / 20
    assert gain["images"] == 400
    assert gain["before"] == pytest.approx(100 * before.mean())
    assert gain["after"] == pytest.approx(100 * after.mean())
    assert gain["gain"] == pytest.approx(difference.mean())
    assert gain["low"] == pytest.approx(difference.mean() - error, abs=0.3)
    assert gain["high"] == pytest.approx(difference.mean() + error, abs=0.3)
    swapped = paired_gain(rows_of(after), rows_of(before))
    assert swapped["gain"] == pytest.approx(-gain["gain"])
    assert gain == paired_gain(rows_of(before), rows_of(after))  # its chance is seeded


def test_pairing_is_what_makes_the_interval_narrow():
    """The same gain for every image leaves no doubt, however different the images are."""
    before = np.random.default_rng(0).random(50)
    gain = paired_gain(rows_of(before), rows_of(before + 0.1))
    assert gain["low"] == pytest.approx(10)
    assert gain["high"] == pytest.approx(10)


@pytest.mark.parametrize("other", [
    rows_of([1, 0]), rows_of([1, 0, 1])[::-1], [Row("fog", 2, i, 1.0, 0.0) for i in range(3)],
    [Row("blur", 3, i, 1.0, 0.0) for i in range(3)], [],
])  # fmt: skip
def test_other_images_are_not_paired(other):
    with pytest.raises(ValueError, match="the same images, in the same order"):
        paired_gain(rows_of([1, 0, 1]), other)


def test_nothing_is_not_paired():
    with pytest.raises(ValueError, match="the same images"):
        paired_gain([], [])


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """300 samples of 60 values of known mean: 95% of intervals should hold it (binomial error 1.3%)."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.exponential(2.0, 60), resamples=500)
        held += low < 2.0 < high
    assert 0.89 <= held / 300 <= 0.985


def test_the_interval_is_seeded_and_uses_its_resamples():
    values = np.random.default_rng(0).random(30)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)
    assert bootstrap_interval(values, resamples=500) != bootstrap_interval(values)


def test_an_image_under_many_shifts_counts_as_one_image():
    """Four copies of each image's gain know no more than one: the interval must not shrink."""
    gains = np.random.default_rng(1).normal(size=40)
    once = bootstrap_interval(gains)
    copies = bootstrap_interval(np.tile(gains, 4), groups=np.tile(np.arange(40), 4))
    assert copies == pytest.approx(once)
    naive = bootstrap_interval(np.tile(gains, 4))
    assert naive[1] - naive[0] < 0.7 * (once[1] - once[0])


SEGMENTATION = segmentation_metrics(tuple("abc"))
MEAN_IOU = SEGMENTATION["mean IoU"]


def counts_of(seed: int, shifts: dict[str, list[int]]) -> list[Row]:
    """Random counts of three classes for each image."""
    rng, rows = np.random.default_rng(seed), []
    for shift, images in shifts.items():
        for i in images:
            sums = {}
            for name in "abc":
                both, missed, wrong = (float(n) for n in rng.integers(0, 30, 3))
                sums |= {f"true {name}": both + missed, f"called {name}": both + wrong, f"both {name}": both}
            rows.append(Row(shift, 3, i, 0.0, 0.0, sums))
    return rows


def errors_of(values, shift: str = "fog") -> list[Row]:
    return [Row(shift, 3, i, float(v), 0.0, {"SSIM": float(v)}) for i, v in enumerate(values)]


def pooled(rows: list[Row]) -> float:
    """Mean IoU of each shift, counted in plain loops, averaged over shifts."""
    values = []
    for shift in dict.fromkeys(r.shift for r in rows):
        own = [r.sums for r in rows if r.shift == shift]
        each = []
        for name in "abc":
            true, called, both = (sum(s[f"{part} {name}"] for s in own) for part in ("true", "called", "both"))
            each.append(100 * both / (true + called - both))
        values.append(sum(each) / 3)
    return sum(values) / len(values)


@given(st.integers(0, 1000))
def test_value_is_the_metric_of_each_shift_averaged_over_shifts(seed):
    rows = counts_of(seed, {"fog": [4, 1, 2], "blur": [1, 7]})
    assert value(rows, MEAN_IOU) == pytest.approx([pooled(rows)])
    assert value(rows[::-1], MEAN_IOU) == pytest.approx([pooled(rows)])
    severities = [replace(r, shift="fog", severity=1 + (r.shift == "blur")) for r in rows]
    assert value(severities, MEAN_IOU) == pytest.approx([pooled(rows)])  # a severity is a shift of its own


def test_a_weight_is_how_often_an_image_counts():
    rows = counts_of(0, {"fog": [4, 1, 2]})
    images, weight = np.array([1, 2, 4]), np.array([[1, 1, 1], [2, 0, 1]])
    expected = [pooled(rows), pooled([rows[0], rows[1], rows[1]])]
    assert value(rows, MEAN_IOU, images, weight) == pytest.approx(expected)


@given(st.integers(0, 1000))
def test_the_gain_in_a_metric_is_that_of_the_whole_data_set(seed):
    shifts = {"fog": [0, 1, 2, 3], "blur": [2, 3, 4]}
    before, after = counts_of(seed, shifts), counts_of(seed + 1, shifts)
    gain = paired_gain(before, after, MEAN_IOU)
    assert (gain["before"], gain["after"]) == pytest.approx((pooled(before), pooled(after)))
    assert gain["gain"] == pytest.approx(pooled(after) - pooled(before))
    assert gain["images"] == 7
    assert gain["low"] <= gain["high"]
    assert all(type(gain[name]) is float for name in ("before", "after", "gain", "low", "high"))
    assert gain == paired_gain(before, after, MEAN_IOU)


def test_the_same_gain_for_every_image_leaves_no_doubt():
    values = np.random.default_rng(0).random(50)
    gain = paired_gain(errors_of(values), errors_of(values + 0.1), DEPTH_METRICS["SSIM"])
    assert [gain[name] for name in ("gain", "low", "high")] == pytest.approx([10, 10, 10])
    same = counts_of(0, {"fog": list(range(9))})
    assert [paired_gain(same, same, MEAN_IOU)[name] for name in ("gain", "low", "high")] == [0, 0, 0]


def test_a_metric_that_is_a_mean_has_the_interval_of_the_mean():
    """Both ways to resample agree, to the chance of 2000 resamples."""
    rng = np.random.default_rng(3)
    before = rng.random(80)
    pair = errors_of(before), errors_of(before + rng.normal(0.1, 0.2, 80))
    mean, metric = paired_gain(*pair), paired_gain(*pair, DEPTH_METRICS["SSIM"])
    assert metric["gain"] == pytest.approx(mean["gain"])
    width = mean["high"] - mean["low"]
    assert metric["low"] == pytest.approx(mean["low"], abs=0.08 * width)
    assert metric["high"] == pytest.approx(mean["high"], abs=0.08 * width)
    assert metric["low"] < metric["gain"] < metric["high"]
    assert metric != paired_gain(*pair, DEPTH_METRICS["SSIM"], seed=1)
    assert metric != paired_gain(*pair, DEPTH_METRICS["SSIM"], resamples=500)


def test_images_under_several_shifts_are_resampled_together():
    """Four copies of each image know no more than one; as images of their own they would."""
    pair = [counts_of(seed, {"fog": list(range(30))}) for seed in (0, 1)]
    once = paired_gain(*pair, MEAN_IOU)
    copies = [[replace(r, shift=s) for s in ("fog", "blur", "jpeg", "shear") for r in rows] for rows in pair]
    together = paired_gain(*copies, MEAN_IOU)
    assert [together[k] for k in ("gain", "low", "high")] == pytest.approx([once[k] for k in ("gain", "low", "high")])
    apart = [[replace(r, index=i) for i, r in enumerate(rows)] for rows in copies]
    naive = paired_gain(*apart, MEAN_IOU)
    assert naive["high"] - naive["low"] < 0.7 * (once["high"] - once["low"])


def test_which_numbers_the_images_have_does_not_matter():
    """Only those that were evaluated are resampled, not the numbers between them."""
    pair = [counts_of(seed, {"fog": [0, 1, 2, 3, 4], "blur": [2, 3]}) for seed in (0, 1)]
    far = [[replace(r, index=7 + 40 * r.index) for r in rows] for rows in pair]
    assert paired_gain(*far, MEAN_IOU) == paired_gain(*pair, MEAN_IOU)


def test_a_resample_may_leave_a_shift_without_images():
    """Its mean is then over the other shifts, and nothing is said about it."""
    pair = [counts_of(seed, {"fog": [0], "blur": list(range(1, 8))}) for seed in (0, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gain = paired_gain(*pair, MEAN_IOU)
        assert gain["gain"] == pytest.approx(pooled(pair[1]) - pooled(pair[0]))
        assert gain["low"] < gain["gain"] < gain["high"]
        without = value(pair[0], MEAN_IOU, np.arange(8), np.array([[0, 1, 1, 1, 1, 1, 1, 1]]))
        assert without == pytest.approx([pooled(pair[0][1:])])
        depth = [Row(s, 3, i, 0.0, 0.0, {"SSIM": 0.1 * i}) for s, i in (("fog", 0), ("blur", 1), ("blur", 2))]
        assert np.isfinite(list(paired_gain(depth, depth, DEPTH_METRICS["SSIM"]).values())).all()


def test_a_metric_of_something_that_no_image_shows_is_nan():
    rows = [replace(r, sums={k: 0.0 if k.endswith("c") else v for k, v in r.sums.items()}) for r in
            counts_of(0, {"fog": [0, 1], "blur": [1, 2]})]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gain = paired_gain(rows, rows, SEGMENTATION["IoU c"])
    assert all(np.isnan(gain[name]) for name in ("before", "after", "gain", "low", "high"))


@pytest.mark.parametrize(("right", "of"), [(0, 1), (1, 1), (3, 66), (16, 22), (15, 29), (200, 200)])
def test_the_wilson_interval_is_scipys(right, of):
    interval = stats.binomtest(right, of).proportion_ci(method="wilson")
    assert wilson_interval(right, of) == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert wilson_interval(0, 0) == pytest.approx((0, 1))
