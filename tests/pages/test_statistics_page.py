"""book/statistics.md: its snippet prints the output shown; the numbers in its text are those of stored results."""

from __future__ import annotations

import contextlib
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest

import dtta
from dtta.evaluation.statistics import paired_gain, value
from dtta.experiments import stored

TEXT = (Path(__file__).parents[2] / "book" / "statistics.md").read_text(encoding="utf-8")
SCENES = "scenes-segmentation-test"
NUMBER = r"([+−]?\d+(?:\.\d+)?)"


def numbers(pattern: str) -> list[float]:
    """Return the numbers of the text at the # of a pattern, in which a space may be a line break."""
    pattern = re.escape(pattern).replace(r"\#", NUMBER).replace(r"\ ", r"\s+")
    match = re.search(pattern, TEXT)
    assert match, pattern
    return [float(number.replace("−", "-")) for number in match.groups()]


@pytest.fixture(scope="module")
def mean_iou():
    return dtta.load("scenes-segmentation").metrics["mean IoU"]


def interval(gain: dict[str, float]) -> list[float]:
    return [gain["gain"], gain["low"], gain["high"]]


def shifts(run: str = "diffusion-tta") -> set[str]:
    return {row.shift for row in stored.rows(SCENES, run)} - {"clean"}


def test_the_snippet_prints_what_the_text_shows():
    code, output = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.DOTALL).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == output
    corrected, wrong, images, gain = numbers("(# − #) / # = # points")
    assert f"corrected: {corrected:.0f}\nmade wrong: {wrong:.0f}\n{gain:+.1f} " in output
    assert (corrected - wrong) / images * 100 == pytest.approx(gain)


def test_the_interval_without_pairs():
    before, after = stored.align(*(stored.rows("digits-test", run) for run in ("none", "diffusion-tta")), {"fog"})
    rng, n = np.random.default_rng(1), len(before)
    a, b = (np.array([100 * row.score for row in rows]) for rows in (before, after))
    draws = [b[rng.integers(n, size=n)].mean() - a[rng.integers(n, size=n)].mean() for _ in range(5000)]
    shown = numbers("the interval is [#, #]: the difficulty")
    assert shown == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=1.2)  # a step is 100 / 90
    assert shown[0] < 0


def test_the_numbers_of_images():
    digits = [row for row in stored.rows("digits-test", "none") if row.shift != "clean"]
    assert len(digits) == 1080 and "1,080\nscores" in TEXT
    assert len({row.index for row in digits}) == 90 and len({row.shift for row in digits}) == 12
    scenes = [row.index for row in stored.rows(SCENES, "none")]
    each, count, different = numbers("# clean images and 24 for each of # shifts come from # scenes")
    assert (len(shifts()), len(set(scenes)), len(scenes)) == (count, different, each * (count + 1))
    assert {scenes.count(index) for index in scenes} == {2}


def test_no_change_on_clean_digits():
    none, run = (stored.rows("digits-test", name) for name in ("none", "diffusion-tta"))
    before, after = stored.align(none, run, {"clean"})
    count, bound = numbers('"0 of #, at most #%"')
    assert len(before) == count and [row.score for row in before] == [row.score for row in after]
    assert bound == round(300 / count, 1)
    assert (1 - bound / 100) ** count == pytest.approx(0.05, abs=0.005)


def test_a_wider_interval_for_many_shifts(mean_iou):
    *gain, low, high = numbers("the gain is # [#, #]; the wider interval is [#, #]")
    run = stored.gain(SCENES, "diffusion-tta", {"impulse_noise"}, metric=mean_iou)
    assert gain == pytest.approx(interval(run), abs=0.051)
    rows = stored.align(*(stored.rows(SCENES, name) for name in ("none", "diffusion-tta")), {"impulse_noise"})
    images = np.unique([row.index for row in rows[0]])
    weight = np.random.default_rng(0).multinomial(len(images), np.full(len(images), 1 / len(images)), size=20_000)
    before, after = (value(part, mean_iou, images, weight) for part in rows)
    tail = 2.5 / len(shifts())
    assert [low, high] == pytest.approx(np.percentile(after - before, [tail, 100 - tail]), abs=0.15)
    assert gain[1] > 0 > low


def test_correlations_that_share_a_term(mean_iou):
    before, gain, first, second = [], [], [], []
    for shift in shifts():
        rows = stored.align(*(stored.rows(SCENES, run) for run in ("none", "diffusion-tta")), {shift})
        every = paired_gain(*rows, mean_iou, resamples=1)
        before.append(every["before"])
        gain.append(every["gain"])
        half = len(rows[0]) // 2
        first.append(paired_gain(*(part[:half] for part in rows), mean_iou, resamples=1)["before"])
        second.append(paired_gain(*(part[half:] for part in rows), mean_iou, resamples=1)["gain"])
    same, split = (np.corrcoef(pair)[0, 1] for pair in ((before, gain), (first, second)))
    assert numbers("is # on the same images, and # with different halves") == pytest.approx([same, split], abs=0.0051)
    width = 1.96 / math.sqrt(len(gain) - 3)  # Fisher's transform
    ends = [math.tanh(math.atanh(split) + sign * width) for sign in (-1, 1)]
    assert numbers("interval of the latter is [#, #]") == pytest.approx(ends, abs=0.0051)


def test_two_sets_of_images(mean_iou):
    main, variant = "diffusion-tta", "diffusion-tta, φ adapted"
    gains = [stored.gain(SCENES, run, shifts(), metric=mean_iou)["gain"] for run in (main, variant)]
    assert numbers("Their gains are # and # points") == pytest.approx(gains, abs=0.051)
    both = stored.gain(SCENES, variant, shifts(), against=main, metric=mean_iou)
    assert numbers("the difference is # [#, #]") == pytest.approx(interval(both), abs=0.051)


def test_validation_and_test(mean_iou):
    best = max(trial["gain"] for trial in stored.trials(SCENES) if trial["run"] == "tent")
    tested = stored.gain(SCENES, "tent", shifts("tent"), metric=mean_iou)["gain"]
    shown = numbers("gained # points of mean IoU on validation scenes and # on test scenes")
    assert shown == pytest.approx([best, tested], abs=0.051)
