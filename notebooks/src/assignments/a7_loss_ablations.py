# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Assignment 7: the parts of the loss
#
# After [chapter 07](../07_loss_ablations.ipynb). The loss of an adaptation step is a mean over random pairs of timestep
# and noise. You implement ways to draw and to weight timesteps, measure how noisy a gradient is, and then find out what
# more pairs gain.
#
# **27 points, about 125 minutes.** Everything runs on a CPU in seconds. In each task you write the body of one
# function, where `...` is. The cell below it checks the function and explains what is wrong; run it as often as you
# like. Grading runs the same check and hidden tests on other inputs. Tasks do not depend on each other, and you may add
# cells. Do not edit the cells with checks.

# %% nbgrader={"grade": false, "grade_id": "setup", "locked": true, "schema_version": 3, "solution": false, "task": false}
import torch

from dtta.course import check

SEED = check.variant(0)  # the data of the checks and of the experiment

# %% [markdown]
# ## Task 1: stratified timesteps
#
# *Difficulty ●○○ · 3 points · 15 minutes*
#
# If B timesteps are drawn independently, all of them may be low by chance. *Stratified* sampling divides the range into
# B equal parts and draws one number from each:
#
# $$t_k = \left\lfloor \frac{k + u_k}{B}\, T \right\rfloor, \qquad k = 0, \dots, B - 1 .$$
#
# The random numbers $u_k$ in $[0, 1)$ are given. Timesteps are whole numbers from 0 to $T - 1$; rounding may bring
# $(k + u_k) / B$ to 1, and even then $t$ must not leave the range.
#
# <details><summary>Hint</summary>
#
# The numbers k broadcast over the rows of `u`. How does torch turn a positive number into a whole one, up or down?
# Which function limits a range?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "stratified-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def stratified_times(u, T):
    """Timesteps t (N, B), whole numbers (int64), from u (N, B) in [0, 1): a row for each of N images."""
    ### BEGIN SOLUTION
    B = u.shape[1]
    return ((torch.arange(B) + u) / B * T).long().clamp(max=T - 1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "stratified-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.stratified_times(stratified_times)

# %% nbgrader={"grade": true, "grade_id": "stratified-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: one pair, more pairs than timesteps, a T that B does not divide, u at 0 and just below 1.
### BEGIN HIDDEN TESTS
_tested = check.Student(stratified_times)
for _n, _b, _T in [(1, 1, 10), (3, 7, 10), (2, 12, 5), (8, 8, 1000)]:
    _u = torch.rand(_n, _b, generator=check.generator(_b)) * 0.98 + 0.005
    _right = [[int((k + value) * _T / _b) for k, value in enumerate(row)] for row in _u.double().tolist()]
    _tested.gives(torch.tensor(_right), _u, _T, what="t")
_tested.gives(torch.tensor([[0, 250, 500, 750]]), torch.zeros(1, 4), 1000, what="t where u is 0")
_high = torch.full((1, 64), 1 - 2**-24)
_came = _tested(_high, 1000)
assert _came.max() == 999 and _came.min() >= 0, "where u is just below 1 a timestep leaves 0 to T - 1"
### END HIDDEN TESTS

# %% [markdown]
# ## Task 2: antithetic timesteps
#
# *Difficulty ●●○ · 3 points · 15 minutes*
#
# Another way: draw half of the timesteps, and give each a partner, mirrored at the middle of the range. If one is low,
# its partner is high. The first half is $t = \lfloor u\, T \rfloor$, the second $t' = T - 1 - t$.
#
# Of the B numbers `u` in each row, only the first half is used. If B is odd, use the first (B + 1) / 2, and leave out
# the last partner, so that B timesteps result: first all $t$, then their partners in the same order.
#
# <details><summary>Hint</summary>
#
# How do you round B / 2 up with whole numbers? If you make a partner for every $t$, how many timesteps are there for
# odd B, and which one is too many?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "antithetic-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def antithetic_times(u, T):
    """Timesteps t (N, B), whole numbers (int64), from u (N, B) in [0, 1), of which the first half is used."""
    ### BEGIN SOLUTION
    B = u.shape[1]
    t = (u[:, : (B + 1) // 2] * T).long()
    return torch.cat([t, T - 1 - t], dim=1)[:, :B]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "antithetic-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.antithetic_times(antithetic_times)

# %% nbgrader={"grade": true, "grade_id": "antithetic-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: odd numbers of pairs, a single pair, u of 0, as many images as pairs.
### BEGIN HIDDEN TESTS
_tested = check.Student(antithetic_times)
for _n, _b, _T in [(2, 5, 100), (3, 1, 10), (4, 4, 1000), (1, 9, 7)]:
    _u = torch.rand(_n, _b, generator=check.generator(_b))
    _u[0, 0] = 0
    _half = -(-_b // 2)
    _firsts = [[int(value * _T) for value in row[:_half]] for row in _u.double().tolist()]
    _right = torch.tensor([row + [_T - 1 - t for t in row[: _b - _half]] for row in _firsts])
    _tested.gives(_right, _u, _T, what="t")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 3: importance weights that keep the mean
#
# *Difficulty ●●○ · 4 points · 20 minutes*
#
# Some timesteps are more informative than others: draw these more often. The range is divided into K equal parts, and
# part $k$ is drawn in proportion to $q_k > 0$. To keep the *mean* of the loss, a timestep that is drawn often must
# count less:
#
# $$w(t) = \frac{\bar q}{q_{k(t)}}, \qquad \bar q = \frac{1}{K} \sum_k q_k, \qquad
# k(t) = \left\lfloor \frac{t + 1/2}{T}\, K \right\rfloor .$$
#
# (The half assigns $t$ to the part that holds most of it, if K does not divide T.)
#
# <details><summary>Hint</summary>
#
# Compute the part of every `t` at once, as whole numbers. A tensor of K weights can be indexed by a tensor of parts:
# what shape does that give?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "importance-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def importance_weights(q, t, T):
    """The weight of each timestep, in the shape of t, from the relative density q (K,) and whole numbers t (...)."""
    ### BEGIN SOLUTION
    part = ((t + 0.5) / T * len(q)).long()
    return (q.mean() / q)[part]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "importance-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.importance_weights(importance_weights)


# %% nbgrader={"grade": true, "grade_id": "importance-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: other densities, t with one and three axes; and whether the mean of what is drawn is kept.
### BEGIN HIDDEN TESTS
def _try_weights(cases):
    _tested = check.Student(importance_weights)
    for _q, _T, _shape in cases:
        _t = torch.arange(_T)[: torch.Size(_shape).numel()].view(_shape)
        _mean = sum(_q) / len(_q)
        _right = [_mean / _q[int((2 * t + 1) * len(_q) // (2 * _T))] for t in _t.flatten().tolist()]
        _tested.gives(torch.tensor(_right).view(_shape), torch.tensor(_q), _t, _T, what="the weights")


_try_weights([([1.0, 8.0, 3.0], 10, (5, 1, 2)), ([0.1, 0.4], 8, (8,))])
_q, _t = torch.tensor([1.0, 4.0, 3.0]), torch.arange(12)
_chance = _q.repeat_interleave(4) / (4 * _q.sum())  # that each t is drawn
_mean = (_chance * check.Student(importance_weights)(_q, _t, 12) * _t.square()).sum().item()
assert abs(_mean - _t.square().float().mean().item()) < 1e-3, "the mean over draws is not the mean over all timesteps"
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "importance-edge", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: an even density, one part, a T that K does not divide, a density that is not normalised.
### BEGIN HIDDEN TESTS
_ = _try_weights([([2.0, 2.0, 2.0], 9, (9,)), ([5.0], 4, (2, 2)), ([0.1, 0.4], 7, (7,))])
### END HIDDEN TESTS

# %% [markdown]
# ## Task 4: how noisy is a gradient?
#
# *Difficulty ●●○ · 3 points · 15 minutes*
#
# Draw the pairs of a step S times, and each time you get another gradient $g_s$, a row of L numbers. Their mean
# $\bar g$ is the signal; the deviations from it are noise. Measure the noise relative to the signal:
#
# $$\text{noise} = \sqrt{\frac{\frac{1}{S} \sum_s \lVert g_s - \bar g \rVert^2}{\lVert \bar g \rVert^2}} .$$
#
# Gradients can be tiny: the squares of numbers near $10^{-25}$ are 0 in float32. Compute in float64 and return float64.
#
# <details><summary>Hint</summary>
#
# Over which axis is the squared length of a row, and over which the mean of the draws? At which point must the
# conversion to float64 happen?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "noise-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def gradient_noise(g):
    """The noise of S draws of a gradient, g (S, L), as a scalar tensor () in float64."""
    ### BEGIN SOLUTION
    g = g.double()
    mean = g.mean(0)
    return ((g - mean).square().sum(1).mean() / mean.square().sum()).sqrt()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "noise-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.gradient_noise(gradient_noise)

# %% nbgrader={"grade": true, "grade_id": "noise-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: gradients that are tiny, two draws, one number, draws that all agree.
### BEGIN HIDDEN TESTS
_tested = check.Student(gradient_noise)
for _s, _l, _scale in [(8, 10, 1e-25), (2, 3, 1.0), (50, 1, 2.0), (6, 6, 1e4)]:
    _g = _scale * (1 + torch.randn(_s, _l, generator=check.generator(_s)))
    _rows = _g.double().tolist()
    _mean = [sum(column) / _s for column in zip(*_rows, strict=True)]
    _far = sum(sum((v - m) ** 2 for v, m in zip(row, _mean, strict=True)) for row in _rows) / _s
    _right = torch.tensor((_far / sum(m * m for m in _mean)) ** 0.5, dtype=torch.float64)
    _tested.gives(_right, _g, what="the noise")
_ = _tested.gives(torch.tensor(0.0, dtype=torch.float64), torch.ones(4, 3), what="the noise of draws that agree")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 5: steps from single pairs
#
# *Difficulty ●○○ · 2 points · 10 minutes*
#
# The gradient of a step is the mean over n pairs. From the gradients of M single pairs you can compute, without new
# draws, what steps of n pairs would give: take the first n, then the next n, and so on, and average each block. Rows at
# the end that do not fill a block are dropped.
#
# <details><summary>Hint</summary>
#
# How many whole blocks are there? Cut off the rest first; then one reshape makes an axis for the rows of a block.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "blocks-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def block_means(g, n):
    """The mean of each block of n consecutive rows of g (M, L): (M // n, L)."""
    ### BEGIN SOLUTION
    M, L = g.shape
    return g[: M // n * n].reshape(-1, n, L).mean(1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "blocks-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.block_means(block_means)

# %% nbgrader={"grade": true, "grade_id": "blocks-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: blocks of one, one block of all, a rest that is dropped, a tensor that was transposed, double
# precision.
### BEGIN HIDDEN TESTS
_tested = check.Student(block_means)
for _m, _n, _l in [(6, 1, 2), (6, 6, 3), (11, 4, 5), (9, 3, 3)]:
    _g = torch.randn(_l, _m, generator=check.generator(_m)).T.to(torch.float64 if _m == 11 else torch.float32)
    _right = [sum(_g[i] for i in range(k, k + _n)) / _n for k in range(0, _m - _n + 1, _n)]
    _tested.gives(torch.stack(_right), _g, _n, what="the means of the blocks")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 6: min-SNR weights
#
# *Difficulty ●●○ · 3 points · 15 minutes*
#
# The predicted noise gives a denoised image,
# $\hat z_0 = (z_t - \sqrt{1 - \bar\alpha_t}\, \hat\epsilon) / \sqrt{\bar\alpha_t}$. Its squared error is that of the
# noise divided by the signal-to-noise ratio, SNR. A noise loss with the weight $1 / \text{SNR}$ is therefore the loss
# of the denoised image. At high $t$ this weight is enormous. Min-SNR ([Hang et al.
# 2023](https://arxiv.org/abs/2303.09556)) multiplies it by the smaller of SNR and a constant $m$:
#
# $$\text{SNR}(t) = \frac{\bar\alpha_t}{1 - \bar\alpha_t}, \qquad
# r(t) = \frac{\min(\text{SNR}(t),\, m)}{\text{SNR}(t)}, \qquad w(t) = \frac{r(t)}{\frac{1}{T} \sum_{s} r(s)} .$$
#
# So $r$ is 1 where SNR is at most $m$, and $m / \text{SNR}$ where it is larger. Some schedules end at
# $\bar\alpha_t = 0$, pure noise; there $r$ is 1 as well. Where $\bar\alpha_t = 1$, $r$ is 0. The division by the mean
# of $r$ over all T timesteps gives $w$ a mean of 1, so that a learning rate keeps its meaning.
#
# <details><summary>Hint</summary>
#
# Rewrite $r$ so that it contains no 0/0: which of the two ratios is finite or infinite, but never nan? Over which
# timesteps is the mean, and when are those asked for selected?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "snr-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def snr_weights(alpha_bar, t, m):
    """w in the shape of t, from ᾱ (T,), whole numbers t (...) and the number m."""
    ### BEGIN SOLUTION
    ratio = alpha_bar / (1 - alpha_bar)
    weight = (m / ratio).clamp(max=1)
    return (weight / weight.mean())[t]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "snr-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.snr_weights(snr_weights)

# %% nbgrader={"grade": true, "grade_id": "snr-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: m = inf, an m below every ratio, a first ᾱ of 1 and a last of 0, t with one and three axes.
### BEGIN HIDDEN TESTS
_tested = check.Student(snr_weights)
for _T, _m, _shape in [(8, float("inf"), (3,)), (12, 1e-3, (2, 1, 3)), (5, 5.0, (1, 1))]:
    _g = check.generator(_T)
    _level = torch.linspace(0.99, 0.02, _T, dtype=torch.float64)
    _t = torch.randint(_T, _shape, generator=_g)
    _each = [min(a / (1 - a), _m) * (1 - a) / a for a in _level.tolist()]
    _right = torch.tensor([_each[i] * _T / sum(_each) for i in _t.flatten().tolist()], dtype=torch.float64)
    _tested.gives(_right.view(_shape), _level, _t, _m, what="the weights")
_ends, _right = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.0, 1.0, 2.0])
_ = _tested.gives(_right, _ends, torch.tensor([0, 1, 2]), 0.5, what="the weights")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 7: what do more pairs gain?
#
# *Difficulty ●●● · 9 points · 35 minutes*
#
# An experiment. On one validation digit under low contrast, compute the gradients of 1920 single pairs at the logits,
# with *uniform* timesteps. With `block_means` and `gradient_noise` measure the noise of steps of 1, 3, 6, 12, 24 and 48
# pairs. Then change the error from squares (`"l2"`) to absolute values (`"l1"`) and measure again. Print both rows.
# Repeat on a second digit. The code is not run against tests; your answer below it is graded by a person, by the table.
#
# Begin with these lines:
#
# ```python
# import dtta
#
# problem = dtta.load("digits")
# diffusion = problem.diffusion
# first, second = check.numbers(297, 2)  # the validation images of your variant
# x, label = problem.image(first, "contrast", 3, "validation")  # image (1, 1, 8, 8), label
# z0, logits = diffusion.encode(x), problem.model(x).detach()
# g = check.generator(first)  # draws timesteps and noise
#
# y = logits.expand(1920, -1).clone().requires_grad_()  # a copy of the logits for each pair: (1920, 10)
# losses = diffusion.loss(z0.expand(1920, -1, -1, -1), t, noise, problem.condition(y), "l2")  # (1920,)
# gradients = torch.autograd.grad(losses.sum(), y)[0]  # (1920, 10), a row for each pair
# ```
#
# <details><summary>Hint</summary>
#
# There are `diffusion.timesteps` timesteps. Use the same pairs for both errors: then only the error differs. What does
# $1/\sqrt{n}$ predict?
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "experiment-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
import dtta

problem = dtta.load("digits")
diffusion, pairs = problem.diffusion, 1920
for number in check.numbers(297, 2):
    x, label = problem.image(number, "contrast", 3, "validation")
    z0, logits = diffusion.encode(x), problem.model(x).detach()
    generator = check.generator(number)
    t = torch.randint(diffusion.timesteps, (pairs,), generator=generator)
    noise = torch.randn(pairs, *z0.shape[1:], generator=generator)
    for norm in ("l2", "l1"):
        y = logits.expand(pairs, -1).clone().requires_grad_()
        losses = diffusion.loss(z0.expand(pairs, -1, -1, -1), t, noise, problem.condition(y), norm)
        gradients = torch.autograd.grad(losses.sum(), y)[0]
        row = [gradient_noise(block_means(gradients, n)).item() for n in (1, 3, 6, 12, 24, 48)]
        print(f"digit {number}, {norm}: " + ", ".join(f"{value:.2f}" for value in row))
### END SOLUTION

# %% [markdown]
# What did you find, and **why** is it so? Answer in five to ten sentences:
#
# * By which law does the noise fall with the number of pairs? How many times as many pairs does half the noise need?
# * How many pairs would you take for a step, if five steps are made and each pair costs one evaluation of the diffusion
#   model? Argue from your numbers.
# * Is L1 better or worse here? Does a smaller noise *mean* a better gradient?
#
# | criterion | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | **What was run** | nothing was printed | a part of the measurement | the whole measurement, with settings and the number of images | and a control of your own: another seed, more images or another setting, with what it changes |
# | **How the numbers are read** | no statement, or one that your numbers contradict | statements without numbers | each statement names the numbers that support it | and says how uncertain they are and which differences they do not establish |
# | **Reasons and limits** | none | a reason without a link to the numbers | a reason that would predict these numbers, and what follows from it in practice | and an observation that would refute the reason, or a limit that would change what follows |

# %% [markdown] nbgrader={"grade": true, "grade_id": "experiment-text", "locked": false, "points": 9, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# The noise falls about as $1/\sqrt{n}$: from 1 to 48 pairs it decreases by a factor of six to eight, where
# $\sqrt{48} = 6.9$. So half the noise needs four times the pairs, and a tenth a hundred times. It must be so, since the
# pairs are independent and the step uses their mean. With one pair the L2 noise is 6 and 15 times the signal on my two
# digits, and the step goes nearly anywhere; with 24 it is 1.1 and 3.1. Five steps add up, which reduces the noise by
# about $\sqrt 5$, so I would accept a noise near 2 in each, and take 12 to 24 pairs: beyond that each halving costs
# four times as much. L1 is less noisy than L2 on both digits, by about half. That does not make it better: L1 has
# another mean, that is another signal, and a gradient can be precise and wrong. Only accuracy on validation images
# decides. With 48 pairs there are only forty blocks, so the last number is uncertain by a tenth or more. Two digits
# under one shift show the law; if the noise stopped falling at some n, the pairs would not be independent.
# ### END SOLUTION

# %% [markdown] key="experiment-text"
# **What the reference prints** under five variants (ten digits): with one pair the L2 noise is 2.7 to 14.8 and the L1
# noise 1.9 to 6.7; with 48 pairs 0.31 to 2.4 and 0.24 to 0.98.
#
# * From 1 to 48 pairs the noise falls by a factor of 6 to 9, near √48 = 6.9, in every row.
# * L1 is less noisy than L2 on every digit, by a factor of 1.08 to 2.9 for one pair.
#
# **Reading**: level 2 needs the law $1/\sqrt{n}$ checked against the numbers, and L1 against L2; level 3 also that the
# last columns rest on few blocks (40 at n = 48).
#
# **Reasons**: independent pairs; a number of pairs argued from noise and cost (several steps average the noise; beyond
# a noise of 1 or 2 more pairs gain little; any number from 6 to 48 with such an argument is right). "L1 is better
# because it is less noisy" is level 1: it has another mean, and only validation accuracy decides.
