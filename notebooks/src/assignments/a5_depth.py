# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Assignment 5: depth
#
# After [chapter 05](../05_depth.ipynb). You map depths to the range of a diffusion model, derive the gradient of this
# map by hand, fit a relative prediction to the truth, measure errors of distance and of structure, and then measure
# which errors the diffusion loss sees.
#
# **26 points, about 115 minutes.** Everything runs on a CPU in seconds. In each task you write the body of one
# function, where `...` is. The cell below it checks the function and explains what is wrong; run it as often as you
# like. Grading runs the same check and hidden tests on other inputs. Tasks do not depend on each other, and you may add
# cells. Do not edit the cells with checks.

# %% nbgrader={"grade": false, "grade_id": "setup", "locked": true, "schema_version": 3, "solution": false, "task": false}
import torch

from dtta.course import check

SEED = check.variant(0)  # the data of the checks and of the experiment

# %% [markdown]
# ## Task 1: equal steps for equal ratios
#
# *Difficulty ●○○ · 3 points · 10 minutes*
#
# Depths are mapped to $[-1, 1]$ so that equal *ratios* become equal steps:
#
# $$c = 2\,\frac{\log d - \log d_\text{near}}{\log d_\text{far} - \log d_\text{near}} - 1 .$$
#
# A depth outside the range is replaced by the nearest of its two ends. Networks return zero, and sometimes less, where
# they fail: that is nearer than `near`. Return the shape that you get, with a gradient.
#
# <details><summary>Hint</summary>
#
# `near` and `far` are plain numbers, so their logarithms can be computed once. What must come first, the logarithm of
# the depth or the limits?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "log-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def log_depth(depth, near, far):
    """c (...) in [-1, 1], from depth (...) and two numbers 0 < near < far."""
    ### BEGIN SOLUTION
    span = torch.tensor(far / near).log()
    return 2 * (depth.clamp(near, far) / near).log() / span - 1
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "log-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.log_depth(log_depth)

# %% nbgrader={"grade": true, "grade_id": "log-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: other shapes and ranges, double precision, depths of zero and below, infinitely far.
### BEGIN HIDDEN TESTS
_tested = check.Student(log_depth)
for _shape, _near, _far in [((7,), 0.1, 80.0), ((2, 1, 3, 4), 1.0, 2.0), ((1, 5, 5), 2.0, 64.0)]:
    _g = check.generator(len(_shape))
    _share = torch.rand(_shape, generator=_g, dtype=torch.float64 if len(_shape) == 3 else torch.float32)
    _depth = _near * (_far / _near) ** _share
    _depth.view(-1)[:4] = torch.tensor([0.0, -1.0, float("inf"), 2 * _far])
    _right = 2 * _share - 1
    _right.view(-1)[:4] = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    _tested.gives(_right, _depth, _near, _far, what="c", tolerance=1e-4)
### END HIDDEN TESTS

# %% [markdown]
# ## Task 2: the gradient of the condition
#
# *Difficulty ●●○ · 3 points · 20 minutes*
#
# The diffusion loss has a gradient at the condition, $g = \partial L / \partial c$. What is the gradient at the depth,
# through the formula of task 1? Write $\partial L / \partial d$ by hand; the check switches autograd off. Where the
# depth is outside [near, far], the clamp is constant, and the gradient is 0. No depth is exactly `near` or `far`.
#
# <details><summary>Hint</summary>
#
# Differentiate the formula of task 1 on paper: all but one logarithm are constants. What must a depth of 0 give, and
# does your formula divide by it?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "slope-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def log_depth_gradient(depth, near, far, c_grad):
    """∂L/∂d (...), from depth (...), two numbers 0 < near < far, and ∂L/∂c (...)."""
    ### BEGIN SOLUTION
    inside = (depth > near) & (depth < far)
    slope = 2 / (depth * torch.tensor(far / near).log())
    return torch.where(inside, slope * c_grad, torch.zeros_like(c_grad))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "slope-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.log_depth_gradient(log_depth_gradient)

# %% nbgrader={"grade": true, "grade_id": "slope-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: other shapes and ranges, depths of zero and below.
### BEGIN HIDDEN TESTS
_tested = check.Student(log_depth_gradient)
for _shape, _near, _far in [((6,), 0.1, 80.0), ((2, 1, 3, 4), 1.0, 3.0), ((1, 4, 4), 2.0, 64.0)]:
    _g = check.generator(len(_shape))
    _leaf = 1.5 * _far * torch.rand(_shape, generator=_g)
    _leaf.view(-1)[:2] = torch.tensor([0.0, -1.0])
    _leaf.requires_grad_()
    _upstream = torch.randn(_shape, generator=_g)
    _c = 2 * torch.log(_leaf.clamp(_near, _far)) / torch.log(torch.tensor(_far / _near))
    (_right,) = torch.autograd.grad((_c * _upstream).sum(), _leaf)
    with torch.inference_mode():
        _tested.gives(_right, _leaf.detach(), _near, _far, _upstream, what="the gradient at the depth")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 3: a scale and a shift
#
# *Difficulty ●●● · 4 points · 20 minutes*
#
# Many depth networks predict *relative* inverse depth: $1/d$ up to a scale $s$ and a shift $b$ that they do not know.
# Before such a prediction $a$ can be scored, both are fitted to the truth by least squares, for each image separately:
#
# $$(s, b) = \arg\min \sum_{u\ \text{valid}} \Big( s\, a_u + b - \frac{1}{d_u} \Big)^2 .$$
#
# Only the pixels that `valid` marks count; elsewhere the truth may hold anything, 0 and nan included.
#
# <details><summary>Hint</summary>
#
# This is a straight line through points: its slope is a covariance divided by a variance, and it passes through both
# means. Select the valid pixels of an image before anything is computed with the truth.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "align-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def scale_and_shift(answer, truth, valid):
    """s and b for each image (N, 2), from answer, truth (the depth, not its inverse) and valid (bool): (N, H, W)."""
    ### BEGIN SOLUTION
    rows = []
    for a, d, there in zip(answer, truth, valid, strict=True):
        a, inverse = a[there], 1 / d[there]
        s = ((a - a.mean()) * (inverse - inverse.mean())).mean() / (a - a.mean()).square().mean()
        rows.append(torch.stack([s, inverse.mean() - s * a.mean()]))
    return torch.stack(rows)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "align-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.scale_and_shift(scale_and_shift)


# %% nbgrader={"grade": true, "grade_id": "align-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: other numbers of images, all pixels valid and some.
### BEGIN HIDDEN TESTS
def _try_fit(cases):
    _tested = check.Student(scale_and_shift)
    for _N, _H, _W, _part, _fill in cases:
        _g = check.generator(_N)
        _truth = 1 + 9 * torch.rand(_N, _H, _W, generator=_g)
        _answer = torch.randn(_N, _H, _W, generator=_g) * 0.3 + (2 - _N) * 4 / _truth
        _valid = torch.rand(_N, _H, _W, generator=_g) < _part
        _right = []
        for _n in range(_N):
            _x = torch.stack([_answer[_n][_valid[_n]], torch.ones(int(_valid[_n].sum()))], dim=1).double()
            _right.append(torch.linalg.lstsq(_x, 1 / _truth[_n][_valid[_n]].double()).solution.float())
        _tested.gives(torch.stack(_right), _answer, _truth.where(_valid, torch.tensor(_fill)), _valid,
                      what="scale and shift", tolerance=1e-3)  # fmt: skip


_ = _try_fit([(2, 8, 8, 2.0, 1.0), (4, 5, 6, 0.7, 50.0)])
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "align-edge", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: one image, few valid pixels, zeros and nan where the truth is not valid, an inverted
# prediction.
### BEGIN HIDDEN TESTS
_ = _try_fit([(1, 5, 5, 0.5, 0.0), (3, 6, 4, 0.4, float("nan"))])
### END HIDDEN TESTS

# %% [markdown]
# ## Task 4: errors of distance
#
# *Difficulty ●○○ · 3 points · 15 minutes*
#
# $$\text{AbsRel} = \frac1{|U|} \sum_{u \in U} \frac{|d_u - d_u^*|}{d_u^*}, \qquad
# \text{RMSE} = \sqrt{\frac1{|U|} \sum_{u \in U} (d_u - d_u^*)^2},$$
#
# with the prediction $d$, the truth $d^*$, and $U$ the pixels of one image whose *true* depth is below `far`: the sky
# is left out. Return both for each image. The sky differs in size, so $U$ differs from image to image.
#
# <details><summary>Hint</summary>
#
# One way is a loop over the images. The other is a sum in which the sky counts 0; what do you divide it by?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "errors-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def distance_errors(depth, truth, far):
    """AbsRel and RMSE of each image (N, 2), from depth and truth (N, H, W)."""
    ### BEGIN SOLUTION
    rows = []
    for d, true in zip(depth, truth, strict=True):
        there = true < far
        off = d[there] - true[there]
        rows.append(torch.stack([(off.abs() / true[there]).mean(), off.square().mean().sqrt()]))
    return torch.stack(rows)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "errors-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.distance_errors(distance_errors)

# %% nbgrader={"grade": true, "grade_id": "errors-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: one image, no sky, a truth of infinity in the sky, a prediction with sky elsewhere.
### BEGIN HIDDEN TESTS
_tested = check.Student(distance_errors)
for _N, _H, _W, _far, _sky in [(1, 4, 4, 16.0, 16.0), (3, 2, 5, 80.0, float("inf")), (2, 3, 3, 99.0, 1.0)]:
    _g = check.generator(_N)
    _truth, _depth = (1 + 9 * torch.rand(_N, _H, _W, generator=_g) for _ in range(2))
    _truth[:, 0, 0], _depth[:, -1, -1] = _sky, _far
    _right = []
    for _n in range(_N):
        _pairs = list(zip(_depth[_n].flatten().tolist(), _truth[_n].flatten().tolist(), strict=True))
        _pairs = [(p, q) for p, q in _pairs if q < _far]
        _relative = sum(abs(p - q) / q for p, q in _pairs) / len(_pairs)
        _right.append([_relative, (sum((p - q) ** 2 for p, q in _pairs) / len(_pairs)) ** 0.5])
    _tested.gives(torch.tensor(_right), _depth, _truth, _far, what="AbsRel and RMSE")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 5: structural similarity of one window
#
# *Difficulty ●●○ · 4 points · 20 minutes*
#
# SSIM compares two patches $p$ and $q$ under a window of weights $w$ that add up to 1. With the weighted means $\mu$,
# the weighted variances $\sigma^2$ and the weighted covariance $\sigma_{pq}$,
#
# $$\text{SSIM} = \frac{(2 \mu_p \mu_q + k_1)(2 \sigma_{pq} + k_2)}{(\mu_p^2 + \mu_q^2 + k_1)(\sigma_p^2 + \sigma_q^2 + k_2)},
# \qquad k_1 = (0.01\, R)^2, \quad k_2 = (0.03\, R)^2,$$
#
# where $R$ is the range of the data. A patch may be far away and nearly flat: 1000 units, with bumps of a hundredth.
#
# <details><summary>Hint</summary>
#
# There are two formulas for a covariance: the mean of products of deviations, and the mean of products minus the
# product of means. They are equal on paper. Which one loses its digits in float32 for the patch above?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "ssim-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def ssim_window(p, q, w, R):
    """SSIM, a tensor without axes, of two patches (H, W) under weights (H, W) that add up to 1; R is a number."""
    ### BEGIN SOLUTION
    mean_p, mean_q = (w * p).sum(), (w * q).sum()
    off_p, off_q = p - mean_p, q - mean_q
    both, own_p, own_q = (w * off_p * off_q).sum(), (w * off_p.square()).sum(), (w * off_q.square()).sum()
    k1, k2 = (0.01 * R) ** 2, (0.03 * R) ** 2
    level = (2 * mean_p * mean_q + k1) / (mean_p.square() + mean_q.square() + k1)
    return level * (2 * both + k2) / (own_p + own_q + k2)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "ssim-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.ssim_window(ssim_window)


# %% nbgrader={"grade": true, "grade_id": "ssim-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: equal and mirrored patches, other ranges, double precision.
### BEGIN HIDDEN TESTS
def _try_ssim(cases):
    _tested = check.Student(ssim_window)
    for _H, _W, _R, _level, _bump, _dtype in cases:
        _g = check.generator(_H)
        _p, _q = ((_level + _bump * torch.randn(_H, _W, generator=_g)).to(_dtype) for _ in range(2))
        _w = torch.rand(_H, _W, generator=_g).to(_dtype)
        _w = _w / _w.sum()
        for _first, _second in [(_p, _q), (_p, _p), (_p, _p.flip(1))]:
            _a, _b, _v = _first.double(), _second.double(), _w.double() / _w.double().sum()
            _m, _n = torch.tensordot(_v, _a, 2), torch.tensordot(_v, _b, 2)
            _cov = [torch.tensordot(_v, (x - x0) * (y - y0), 2)
                    for x, x0, y, y0 in [(_a, _m, _b, _n), (_a, _m, _a, _m), (_b, _n, _b, _n)]]  # fmt: skip
            _k, _l = _R * _R / 10000, 9 * _R * _R / 10000
            _right = (2 * _m * _n + _k) * (2 * _cov[0] + _l) / (_m * _m + _n * _n + _k) / (_cov[1] + _cov[2] + _l)
            _tested.gives(_right.to(_dtype), _first, _second, _w, _R, what="SSIM", tolerance=1e-3)


_ = _try_ssim([(3, 3, 1.0, 0.5, 0.2, torch.float64), (4, 5, 14.5, 7.0, 2.0, torch.float32)])
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "ssim-edge", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: flat patches, far patches with small bumps.
### BEGIN HIDDEN TESTS
_ = _try_ssim([(5, 4, 14.5, 7.0, 0.0, torch.float32), (6, 6, 0.02, 1000.0, 0.01, torch.float32)])
### END HIDDEN TESTS

# %% [markdown]
# ## Task 6: which errors does the diffusion loss see?
#
# *Difficulty ●●○ · 9 points · 30 minutes*
#
# An experiment. Distort the true depths of twelve clear validation scenes in four ways: all distances times 1.3; all
# times 2; blurred (average over squares of 8 × 8 pixels, then enlarged again); and mirrored. Print for each the AbsRel,
# with your `distance_errors`, and by how much the diffusion loss exceeds that of the truth: its mean over the scenes,
# and the standard error of this mean. Clamp depths to [near, far]. The code is not run against tests; your answer below
# it is graded by a person, by the table.
#
# Begin with these lines:
#
# ```python
# import dtta
# from dtta.core.probe import losses_under
#
# problem = dtta.load("scenes-depth")
# near, far = problem.condition.near, problem.condition.far
# numbers = check.numbers(100, 12)  # the validation scenes of your variant
# pairs = [problem.image(i, split="validation") for i in numbers]
# x, truth = torch.cat([x for x, _ in pairs]), torch.stack([d for _, d in pairs])  # (12, 3, 32, 32), (12, 1, 32, 32)
# # losses_under(problem.diffusion, x, [condition, ...]) -> the loss of each image under each condition (12, ...)
# # problem.condition(depth) is the condition of a depth map
# ```
#
# <details><summary>Hint</summary>
#
# `torch.nn.functional` has functions for pooling and for enlarging. Compare scene by scene: first the differences, then
# their mean, and their standard deviation divided by the root of their number.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "experiment-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
import dtta
from dtta.core.probe import losses_under

problem = dtta.load("scenes-depth")
near, far = problem.condition.near, problem.condition.far
pairs = [problem.image(i, split="validation") for i in check.numbers(100, 12)]
x, truth = torch.cat([x for x, _ in pairs]), torch.stack([d for _, d in pairs])
truth = truth.view(-1, 1, *truth.shape[-2:])
coarse = torch.nn.functional.avg_pool2d(truth, 8)
distorted = {
    "times 1.3": 1.3 * truth,
    "times 2": 2 * truth,
    "blurred": torch.nn.functional.interpolate(coarse, scale_factor=8),
    "mirrored": truth.flip(-1),
}
distorted = {name: depth.clamp(near, far) for name, depth in distorted.items()}
losses = losses_under(problem.diffusion, x, [problem.condition(d) for d in (truth, *distorted.values())])
for k, (name, depth) in enumerate(distorted.items()):
    rise = 1000 * (losses[:, k + 1] - losses[:, 0])
    error = distance_errors(depth[:, 0], truth[:, 0], far)[:, 0].mean()
    print(f"{name:10} AbsRel {error:.2f}, loss + {rise.mean():.1f} ± {rise.std() / 12**0.5:.1f} thousandths")
### END SOLUTION

# %% [markdown]
# What did you find, and **why** is it so? Does the order by AbsRel agree with the order by the diffusion loss? Argue
# from what a picture shows of each error. Then say what it means for the scores that adaptation by such a model can
# improve, and what twelve scenes and one small model allow you to claim. Five to ten sentences.
#
# | criterion | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | **What was run** | nothing was printed | a part of the measurement | the whole measurement, with settings and the number of images | and a control of your own: another seed, more images or another setting, with what it changes |
# | **How the numbers are read** | no statement, or one that your numbers contradict | statements without numbers | each statement names the numbers that support it | and says how uncertain they are and which differences they do not establish |
# | **Reasons and limits** | none | a reason without a link to the numbers | a reason that would predict these numbers, and what follows from it in practice | and an observation that would refute the reason, or a limit that would change what follows |

# %% [markdown] nbgrader={"grade": true, "grade_id": "experiment-text", "locked": false, "points": 9, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# The two orders disagree. By AbsRel doubled distances are by far the worst (0.94); a factor of 1.3 and a mirrored map
# are equally bad (both 0.29), and blur is the mildest (0.23). The diffusion loss increases most for the mirrored map
# (13.5 thousandths), then for the blurred one (8.6), less for the doubled one (2.0), and least for a factor of 1.3
# (0.3, with a standard error of 0.2, so an increase is not even established). A picture shows where objects and their
# edges are, so a map with the edges elsewhere, or without them, contradicts it at many pixels. A common factor moves no
# edge: in the logarithmic condition it is a common offset, which only perspective reveals, and the model was trained
# with maps that were offset a little. So adaptation by this model can correct the layout of a depth map, which SSIM
# scores, more than its distances, which AbsRel scores, and both have to be reported. If a factor of 2 raised the loss
# more than mirroring does, this reason would be wrong. Relative to their standard errors the large differences are
# certain with twelve scenes; nothing is said about other shifts or other diffusion models.
# ### END SOLUTION

# %% [markdown] key="experiment-text"
# **What the reference prints** under five variants: AbsRel 0.29 to 0.30 for times 1.3, 0.93 to 0.95 for times 2, 0.21
# to 0.24 for blurred, 0.25 to 0.44 for mirrored; the loss increases by 0.2 to 0.5, 1.9 to 2.8, 8.6 to 10.0 and 11.4 to
# 16.0 thousandths.
#
# * By AbsRel, doubled distances are the worst error.
# * By the diffusion loss, mirrored is the worst and blurred the second.
# * By the diffusion loss, a factor of 1.3 is the mildest error: it raises the loss by at most 0.5 thousandths.
#
# The order of mirrored and times 1.3 by AbsRel depends on the variant: either is right if the numbers say so.
#
# **Reading**: level 2 needs both orders with numbers; level 3 also which increases exceed their standard errors, scene
# by scene.
#
# **Reasons**: edges and layout are visible in a picture; a common factor is an offset of the logarithmic condition,
# visible only in perspective (or: training offset the maps). What follows: structure (SSIM) can gain more than
# distance; report both. An answer that expects AbsRel to gain most, because doubled distances are "most wrong", has
# level 1 at best.
