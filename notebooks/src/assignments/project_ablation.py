# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Final project: an ablation of your choice
#
# After [chapters 01 to 08](../07_loss_ablations.ipynb). You ask one question about test-time adaptation, plan how to
# answer it, measure on the digits of the course or on your own, and report what you found, whatever it is. First you
# write three small tools that keep a report honest.
#
# **40 points, about 300 minutes.** Everything runs on a CPU; plan runs of some minutes. In parts 1 to 3 you write the
# body of one function, where `...` is, and the cell below it checks the function. Parts 4 to 6 are graded by a person:
# each has a table of criteria with levels, and its points are the sum of the levels. You may add cells. Do not edit the
# cells with checks.

# %% nbgrader={"grade": false, "grade_id": "setup", "locked": true, "schema_version": 3, "solution": false, "task": false}
import torch

from dtta.course import check

SEED = check.variant(0)  # the data of the checks and of the experiment

# %% [markdown]
# ## Part 1: settings from validation images only
#
# *Difficulty ●○○ · 3 points · 15 minutes*
#
# You have tried S settings. For each there is a gain in points on validation images, and one on test images too. Return
# the number of the setting to use: the one with the largest gain on *validation* images. If several are equal, take the
# first. A setting whose run failed has the gain `nan`, and is never chosen. If all have failed, raise a `ValueError`.
#
# <details><summary>Hint</summary>
#
# How do comparisons and `max` treat nan? By which number would a failed run lose against every other? What may the test
# gains be used for here?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "choice-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def choose_setting(validation, test):
    """The number of the chosen setting, a tensor () in int64, from the gains (S,) on validation and on test images."""
    ### BEGIN SOLUTION
    if validation.isnan().all():
        raise ValueError("every run failed: there is nothing to choose from")
    worst_if_failed = validation.nan_to_num(nan=float("-inf"), neginf=float("-inf"), posinf=float("inf"))
    level = worst_if_failed == worst_if_failed.max()
    return level.nonzero()[0, 0]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "choice-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.choose_setting(choose_setting)

# %% nbgrader={"grade": true, "grade_id": "choice-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: gains below zero, equal settings, failed runs, a single setting, nothing but failed runs.
### BEGIN HIDDEN TESTS
_tested, _nan = check.Student(choose_setting), float("nan")
for _validation, _best in [([-3.0, -1.0, -2.0], 1), ([2.0, 5.0, 5.0], 1), ([_nan, -7.0, _nan], 1), ([0.0], 0)]:
    _test = torch.arange(len(_validation), 0.0, -1)
    _tested.gives(torch.tensor(_best), torch.tensor(_validation), _test, what="the chosen setting")
_message = ""
try:
    _tested(torch.tensor([_nan, _nan]), torch.tensor([1.0, 2.0]))
except check.Wrong as _error:
    _message = str(_error)
assert "stopped with ValueError" in _message, "where every run failed there must be a ValueError"
### END HIDDEN TESTS

# %% [markdown]
# ## Part 2: a paired interval
#
# *Difficulty ●●○ · 4 points · 30 minutes*
#
# Both methods are evaluated on the same n images. So use the *difference* on each,
# $d_i = \text{after}_i - \text{before}_i$: what makes an image hard for both then cancels. The bootstrap estimates how
# much the mean of the differences varies by chance: draw n images with replacement, many times, and take the mean of
# each draw. The interval leaves out 2.5% of these means on either side.
#
# The draws are given: row r of `draws` holds the numbers of the n images of draw r. Scores lie in [0, 1]; return
# percent points, in float64.
#
# <details><summary>Hint</summary>
#
# Index the differences with all draws at once. Over which axis is the mean of a draw? Must the conversion to float64
# come before or after the difference?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "interval-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def gain_interval(before, after, draws):
    """Mean, low and high (3,) of the gain in points, from scores (n,) and (n,), and R draws of image numbers (R, n)."""
    ### BEGIN SOLUTION
    d = 100 * (after.double() - before.double())
    ends = torch.quantile(d[draws].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64))
    return torch.cat([d.mean()[None], ends])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "interval-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.gain_interval(gain_interval)


# %% nbgrader={"grade": true, "grade_id": "interval-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: right and wrong as 0 and 1, other numbers of draws, scores in double precision.
### BEGIN HIDDEN TESTS
def _try_interval(n, many, dtype):
    _g = check.generator(n)
    _before, _after = (torch.randint(2, (n,), generator=_g).to(dtype) for _ in range(2))
    if dtype == torch.float64:
        _before, _after = (torch.rand(n, generator=_g, dtype=dtype) for _ in range(2))
    _draws = torch.randint(n, (many, n), generator=_g)
    _each = [100 * (a - b) for a, b in zip(_after.tolist(), _before.tolist(), strict=True)]
    _means = sorted(sum(_each[i] for i in row) / n for row in _draws.tolist())
    _ends = []
    for _share in (0.025, 0.975):
        _place = _share * (many - 1)
        _low = int(_place)
        _ends.append(_means[_low] + (_place - _low) * (_means[min(_low + 1, many - 1)] - _means[_low]))
    _right = torch.tensor([sum(_each) / n, *_ends], dtype=torch.float64)
    check.Student(gain_interval).gives(_right, _before, _after, _draws, what="mean, low and high")


_try_interval(12, 41, torch.float64)
_ = _try_interval(30, 201, torch.float32)
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "interval-edge", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: no difference at all, a single image.
### BEGIN HIDDEN TESTS
_try_interval(1, 5, torch.float32)
_same = torch.tensor([0.2, 0.9, 0.4])
_ = check.Student(gain_interval).gives(
    torch.zeros(3, dtype=torch.float64), _same, _same.clone(), torch.tensor([[0, 0, 1], [2, 1, 2]]), what="the interval"
)
### END HIDDEN TESTS

# %% [markdown]
# ## Part 3: what an interval establishes
#
# *Difficulty ●●○ · 3 points · 15 minutes*
#
# For each of K comparisons there is a mean, a low and a high end. Return what each *establishes*: `1` a gain, if the
# whole interval lies above 0; `-1` a loss, if it lies below 0; `0` neither, if the interval contains 0 or ends there.
# Your report may say "better" only where this is 1.
#
# <details><summary>Hint</summary>
#
# Does the mean matter? Which end decides about a gain, and which about a loss?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "verdict-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def verdicts(intervals):
    """1, -1 or 0 for each comparison (K,), in int64, from (K, 3): mean, low and high."""
    ### BEGIN SOLUTION
    return (intervals[:, 1] > 0).long() - (intervals[:, 2] < 0).long()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "verdict-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.verdicts(verdicts)

# %% nbgrader={"grade": true, "grade_id": "verdict-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: ends at exactly 0, one comparison, double precision.
### BEGIN HIDDEN TESTS
_tested = check.Student(verdicts)
for _rows, _right in [([[2.0, 0.0, 4.0], [-2.0, -4.0, 0.0], [0.0, 0.0, 0.0]], [0, 0, 0]), ([[1.0, 0.1, 3.0]], [1])]:
    for _dtype in (torch.float32, torch.float64):
        _tested.gives(torch.tensor(_right), torch.tensor(_rows, dtype=_dtype), what="what each comparison shows")
### END HIDDEN TESTS

# %% [markdown]
# ## Part 4: the plan
#
# *Difficulty ●●○ · 9 points · 60 minutes*
#
# Write the plan **before** you run anything, in ten to twenty sentences: your question; the one thing that changes;
# what stays the same; which shifts, how many validation and how many test images; which settings are tried for each
# method, on which images; the number that decides; what you expect, and what would refute it.
#
# **With your own data.** In place of the digits of this course you may use forty or more of your own: write them on
# paper, photograph or scan them, and save each as one image file whose name begins with its digit (`7_anna_03.png`).
# Half of them are validation images. Your handwriting, pen and camera are then the shift. Plan too: who wrote which
# images (no writer may be in both halves), how you checked the labels, and what a fair comparison on the course's
# digits is.
#
# ```python
# from pathlib import Path
#
# from PIL import Image, ImageOps
#
#
# def read_digit(path):
#     """An image (1, 1, 8, 8) in [0, 1], light ink on dark, and its label, from a file named after its digit."""
#     ink = ImageOps.autocontrast(ImageOps.invert(Image.open(path).convert("L")), cutoff=2)
#     ink = ink.crop(ink.point(lambda v: 255 * (v > 100)).getbbox())
#     square = ImageOps.pad(ink, (8, 8), method=Image.Resampling.BOX)
#     pixels = torch.tensor(list(square.tobytes()), dtype=torch.float32).view(1, 1, 8, 8) / 255
#     return pixels, int(Path(path).name[0])
# ```
#
# <details><summary>Hint</summary>
#
# Small questions are good ones. How many steps? Does a restore rate help online? Does the norm of the loss matter at
# high severity? Give every method as many tried settings as every other: a method that alone is tuned looks better.
#
# </details>
#
# | criterion | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | **Question** | none | a topic | one thing that changes, and an expected result | and a number that would refute the expectation |
# | **Fair comparison** | test images are used to choose | validation and test are kept apart | and all methods get the same number of tried settings, the same images and noise | and what could still favour one method is named |
# | **Size and decision** | no numbers of images | numbers without a reason | the expected width of the interval for these numbers, and one comparison that decides | and what will be concluded if the interval contains 0 |

# %% [markdown] nbgrader={"grade": true, "grade_id": "plan-text", "locked": false, "points": 9, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# Question: does the norm of the error, L1 or L2, matter for Diffusion-TTA on the digits? Only the norm changes; steps,
# pairs, timesteps and images stay. For each norm three learning rates are tried (0.01, 0.02, 0.04) on the validation
# images of my variant under low contrast, the same for both, with the same noise for each image. The rate with the
# largest gain there is used once on test images, which were not used before. The comparison that decides: L1 minus L2
# in accuracy on the test images, with its paired interval. Each gain over no adaptation is reported too, as background.
# With n images of which a tenth change, the standard error is about √(0.1 / n), 6 points for 30: only a large
# difference can be established. I expect none. A whole interval above or below 0 would refute this. If the interval
# contains 0, I shall report which differences it excludes. The same grid could favour L2, whose usual rate is in its
# middle. The answer is about one shift, one severity and one seed.
# ### END SOLUTION

# %% [markdown] key="plan-text"
# **Key**: could another person run this plan? Level 2 of **Fair comparison** needs the same number of tried settings
# and the same noise for all methods; a plan that tunes only its favourite has level 1. Level 2 of **Size and decision**
# needs an expected width, such as √(p / n) for a fraction p of images that change. For the variant with your own data:
# writers kept apart between validation and test belong to **Fair comparison**, checked labels to **Size and decision**;
# a plan that mixes one writer's images over both halves has at most level 1 there.

# %% [markdown]
# ## Part 5: the experiment
#
# *Difficulty ●●● · 9 points · 120 minutes*
#
# Run your plan. Print a table with one line for each comparison: its name, the number of images, the mean gain, and its
# interval, all with one decimal, and the result of part 3. Then say below what was run, how often, and where you
# departed from the plan.
#
# Begin with these lines. `image_generator` gives each image the same noise for every method:
#
# ```python
# import dtta
# from dtta.evaluation.evaluate import image_generator
# from dtta.methods import build
#
# problem = dtta.load("digits")
#
#
# def scores(method, shift, numbers, split):
#     rows = []
#     for number in numbers:
#         x, label = problem.image(number, shift, 3, split)
#         rows.append(float(method(x, image_generator(SEED, number)).argmax() == label))
#     return torch.tensor(rows)
# ```
#
# <details><summary>Hint</summary>
#
# `build(problem, "none")` is the network without adaptation; keywords of `build` such as `norm`, `lr` and `steps`
# replace settings. Try your code on two images first.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "experiment-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
import dtta
from dtta.evaluation.evaluate import image_generator
from dtta.methods.registry import build

problem = dtta.load("digits")


def scores(method, shift, numbers, split):
    rows = []
    for number in numbers:
        x, label = problem.image(number, shift, 3, split)
        rows.append(float(method(x, image_generator(SEED, number)).argmax() == label))
    return torch.tensor(rows)


shift, n, settings = "contrast", 8, {"steps": 3, "samples": 6}  # small, so that the example takes seconds
images = check.numbers(297, n), check.numbers(500, n)  # validation, test
base = [scores(build(problem, "none"), shift, images[k], split) for k, split in enumerate(("validation", "test"))]
tested = {"none": base[1]}
for norm in ("l2", "l1"):
    rates = (0.01, 0.02, 0.04)
    tries = [build(problem, "diffusion-tta", norm=norm, lr=lr, **settings) for lr in rates]
    gains = [(scores(tta, shift, images[0], "validation") - base[0]).mean() for tta in tries]
    best = int(choose_setting(torch.stack(gains), torch.zeros(len(rates))))
    print(f"{norm}: rate {rates[best]:g}")
    tested[norm] = scores(tries[best], shift, images[1], "test")
draws = torch.randint(n, (2000, n), generator=check.generator(1))
for first, second in (("none", "l2"), ("none", "l1"), ("l2", "l1")):
    row = gain_interval(tested[first], tested[second], draws)
    verdict = {1: "a gain", 0: "not established", -1: "a loss"}[int(verdicts(row[None]))]
    print(f"{second} over {first}: {row[0]:+.1f} [{row[1]:+.1f}, {row[2]:+.1f}], {n} images, {verdict}")
### END SOLUTION

# %% [markdown]
# Say what was run, how often, and where you departed from the plan and why.
#
# | criterion | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | **Carried out** | no results | a part of the plan | the plan as written, or each departure with its reason | and the test images were used once, after the choice, which the code shows |
# | **Table** | none | means only | names, numbers of images, means, intervals and results, with a sensible number of digits | and the settings that were chosen, and whether they are at the edge of the grid |
# | **Reproducible** | another person could not run it | seeds or image numbers are missing | seeds, image numbers and settings are given | and the code ran again with the same table, which the answer states |

# %% [markdown] nbgrader={"grade": true, "grade_id": "experiment-text", "locked": false, "points": 9, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# Run: for each norm three rates on 8 validation images, the best of each once on 8 test images, and the network without
# adaptation on both. Departure from the plan: 8 images, three steps and 6 pairs, so that the example takes seconds; a
# project should use the 30 or more of the plan. The noise is seeded by the variant and the image's number, the draws of
# the bootstrap by the variant. I ran the cell twice and got the same table. Nothing was run on test images before the
# rates were chosen; both chosen rates are printed, and one at 0.01 or 0.04 would be at the edge of the grid.
# ### END SOLUTION

# %% [markdown] key="experiment-text"
# **Key**: run the cell if in doubt; the printed table, not the text, decides **Carried out** and **Table**. Test images
# that appear before the choice in the code give level 1 at most in **Carried out**, whatever the text says. Few images
# cost nothing here if the text names the departure; they cost points in the conclusion if it claims too much.

# %% [markdown]
# ## Part 6: the conclusion
#
# *Difficulty ●●● · 12 points · 60 minutes*
#
# Answer your question in one page: what the data establish and what they do not; a possible reason; what speaks against
# your reading; for which images, shifts and models it holds; and the one experiment that should come next. A result of
# "not established" is as good as any.
#
# <details><summary>Hint</summary>
#
# Read each sentence and ask: which number of my table supports it? If none does, it is a hypothesis. Call it one.
#
# </details>
#
# | criterion | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | **Claims** | contradicted by the table | some have no number | every claim names its row, in size and direction | and "not established" is kept apart from "no effect" |
# | **Reason** | none | a reason that explains any result | a mechanism from the chapters that predicts this result | and an observation that would refute it |
# | **Objections** | none | general remarks | the ones that matter here: chance, number of comparisons, edge of the grid, seeds, small models | and how each would change the conclusion |
# | **Expectation and next step** | missing | one of the two | whether the expectation came true, and the next experiment | and what each outcome of the next experiment would mean |

# %% [markdown] nbgrader={"grade": true, "grade_id": "conclusion-text", "locked": false, "points": 12, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# Whether L1 or L2 is better is not established: with 8 images an interval is tens of points wide, unless the two agree
# on every image, and then it has no width only because these 8 contain no rarer case. That is not the same as "no
# effect": a difference of a few points, as between most losses in chapter 07, could not be seen. A possible reason that
# they are alike: both errors are small where the condition fits and large where it does not, so their gradients at the
# logits mostly point the same way, and the rate, chosen for each, compensates the difference in size. If one of them
# lost clearly at its best rate, this would be wrong. Against my reading: three comparisons were made with one seed, so
# one interval in twenty misses by chance; a rate at the edge of the grid may hide a better one, which could favour
# either; the networks are small, and low contrast keeps the shape of the digit. I expected that nothing would be
# established, and so it was, which with so few images was easy to predict. Next I would run the same on 300 test images
# of four shifts: an interval within ± 2 points would mean that the choice hardly matters here, one beyond that would
# mean that it does, and for which shift.
# ### END SOLUTION

# %% [markdown] key="conclusion-text"
# **Key**: mark each claim with the row that supports it. A mean that is called "better" while its interval contains 0
# is contradicted by the table: level 0 of **Claims** if it is the main claim, level 1 if it is a side remark. "No
# effect" for an interval that contains 0 is level 2 at most. Two reports with marks are in the lecturers' guide.
