# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Assignment 3: classification
#
# After [chapter 03](../03_classification.ipynb). You write one step of Algorithm 1, restore the parameters after an
# image, implement TENT for comparison, derive its gradient, compute the interval of a gain, find a bug in an
# evaluation, and then measure what adaptation changes under two shifts.
#
# **29 points, about 140 minutes.** Everything runs on a CPU in seconds. In each task you write the body of one
# function, where `...` is. The cell below it checks the function and explains what is wrong; run it as often as you
# like. Grading runs the same check and hidden tests on other inputs. Tasks do not depend on each other, and you may add
# cells. Do not edit the cells with checks.

# %% nbgrader={"grade": false, "grade_id": "setup", "locked": true, "schema_version": 3, "solution": false, "task": false}
import copy

import torch

from dtta.course import check

SEED = check.variant(0)  # the data of the checks and of the experiment

# %% [markdown]
# ## Task 1: one step of Algorithm 1
#
# *Difficulty ●●○ · 4 points · 20 minutes*
#
# Evaluate the network, mix the class embeddings by its belief, take the mean diffusion loss over the B pairs
# $(t, \epsilon)$, and let the optimizer take one step. Gradients that are in the parameters' `.grad` from before must
# not count. Return the loss before the step, a tensor without axes and without a gradient.
#
# `loss(z0, t, noise, condition)` takes a batch of one length and returns a loss for each pair. There is one image.
#
# <details><summary>Hint</summary>
#
# There are three parts: belief and condition, loss, step of the optimizer. What do the image and the condition need so
# that all four arguments have the length B? What does an optimizer's step use, and where does that come from?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "step-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def adapt_step(network, loss, embeddings, optimizer, x, z0, t, noise):
    """One step; returns the mean loss before it.

    network: x (1, ...) -> logits (1, L);  embeddings: (L, D);  z0: (1, C, H, W);  t: (B,);  noise: (B, C, H, W)
    loss: (z0 (B, C, H, W), t (B,), noise (B, C, H, W), condition (B, D)) -> losses (B,)
    """
    ### BEGIN SOLUTION
    B = len(t)
    condition = network(x).softmax(1) @ embeddings
    mean = loss(z0.expand(B, -1, -1, -1), t, noise, condition.expand(B, -1)).mean()
    optimizer.zero_grad()
    mean.backward()
    optimizer.step()
    return mean.detach()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "step-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.adapt_step(adapt_step)


# %% nbgrader={"grade": true, "grade_id": "step-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: Adam, other networks, gradients left over from before.
### BEGIN HIDDEN TESTS
def _try_step(cases):
    _tested = check.Student(adapt_step)
    for _B, _L, _kind, _rate in cases:
        _g = check.generator(_B)
        _net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 5), torch.nn.Tanh(), torch.nn.Linear(5, _L))
        _net.eval()
        for _p in _net.parameters():
            _p.data = torch.randn(_p.shape, generator=_g)
            _p.grad = torch.ones(_p.shape)
        _x, _l = torch.randn(1, 2, 2, 2, generator=_g), torch.randn(_L, 3, generator=_g)
        _z, _noise = torch.randn(1, 3, 1, 1, generator=_g), torch.randn(_B, 3, 1, 1, generator=_g)
        _t = torch.randint(1, 9, (_B,), generator=_g)

        def _score(z, t, e, c):
            return t * (z + e - c[:, :, None, None]).square().sum((1, 2, 3))

        _twin = copy.deepcopy(_net)
        _c = torch.einsum("nl,ld->nd", torch.softmax(_twin(_x), dim=-1), _l)
        _value = sum(_score(_z, _t[k], _noise[[k]], _c)[0] for k in range(_B)) / _B
        _grads = torch.autograd.grad(_value, list(_twin.parameters()))
        for _p, _d in zip(_twin.parameters(), _grads, strict=True):
            _p.grad = _d
        _kind(_twin.parameters(), lr=_rate).step()
        _tested.gives(
            _value.detach(), _net, _score, _l, _kind(_net.parameters(), lr=_rate), _x, _z, _t, _noise, what="the loss"
        )
        for _p, _q in zip(_net.parameters(), _twin.parameters(), strict=True):
            assert torch.allclose(_p, _q, atol=1e-4), "adapt_step changes the parameters otherwise than one step does"


_ = _try_step([(5, 4, torch.optim.Adam, 0.05), (3, 6, torch.optim.SGD, 0.1)])
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "step-edge", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: a single pair, a large learning rate.
### BEGIN HIDDEN TESTS
_ = _try_step([(1, 3, torch.optim.SGD, 0.3)])
### END HIDDEN TESTS

# %% [markdown]
# ## Task 2: restore the parameters
#
# *Difficulty ●●○ · 3 points · 15 minutes*
#
# Each image is adapted separately. So keep a copy of the parameters, call `step()` as often as `steps` says, evaluate
# the network with the parameters that this leaves, and restore the parameters. An optimizer holds the parameters'
# tensors: write the old *values* into them, and do not give the network other tensors. If a step raises an error, the
# parameters are restored too, and the error reaches the caller. Return the logits without a gradient.
#
# <details><summary>Hint</summary>
#
# Which of `p`, `p.detach()` and `p.clone()` still changes when the optimizer changes `p`? Which statement of Python
# runs its last block in any case? Writing into a parameter needs `torch.no_grad()`.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "restore-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def adapt_and_restore(network, step, steps, x):
    """The logits (N, L) after `steps` calls of step(), with all weights as they were before.

    network: a module, x (N, ...) -> logits (N, L);  step: a function without arguments that changes parameters
    """
    ### BEGIN SOLUTION
    kept = [p.detach().clone() for p in network.parameters()]
    try:
        for _ in range(steps):
            step()
        with torch.no_grad():
            return network(x)
    finally:
        with torch.no_grad():
            for p, old in zip(network.parameters(), kept, strict=True):
                p.copy_(old)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "restore-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.adapt_and_restore(adapt_and_restore)

# %% nbgrader={"grade": true, "grade_id": "restore-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: no step at all, parameters that require no gradient, and a step that fails.
### BEGIN HIDDEN TESTS
_tested = check.Student(adapt_and_restore)
for _steps, _fails in [(0, False), (3, False), (4, True)]:
    _g = check.generator(_steps)
    _net = torch.nn.Linear(3, 2).eval()
    _net.bias.requires_grad_(False)
    for _p in _net.parameters():
        _p.data = torch.randn(_p.shape, generator=_g)
    _w, _b = _net.weight.detach().clone(), _net.bias.detach().clone()
    _x, _left = torch.randn(4, 3, generator=_g), [_steps]

    def _step(net=_net, left=_left, fails=_fails):
        with torch.no_grad():
            net.weight += 1.0
            net.bias -= 0.5
        left[0] -= 1
        if fails and left[0] == 1:
            raise FloatingPointError("the loss is not finite")

    if _fails:
        _message = ""
        try:
            _tested(_net, _step, _steps, _x)
        except check.Wrong as _error:
            _message = str(_error)
        assert "the loss is not finite" in _message, (
            _message or "adapt_and_restore swallows the error of a step: it must reach the caller"
        )
    else:
        _right = _x @ (_w + _steps).T + _b - 0.5 * _steps
        _tested.gives(_right, _net, _step, _steps, _x, what="the logits", tolerance=1e-4)
    assert torch.equal(_net.weight, _w) and torch.equal(_net.bias, _b), (
        "adapt_and_restore does not put all weights back" + (" when a step raises an error" if _fails else "")
    )
### END HIDDEN TESTS

# %% [markdown]
# ## Task 3: TENT in ten lines
#
# *Difficulty ●●● · 4 points · 20 minutes*
#
# TENT minimises the entropy of the prediction, $H = -\sum_j y_j \log y_j$, averaged over the images. It changes only
# the scales and shifts (`weight` and `bias`) of the normalisation layers. Take one step of plain gradient descent with
# the learning rate `lr`, and return the mean entropy before it, without a gradient. Normalisation layers are
# `nn.LayerNorm`, `nn.GroupNorm`, `nn.BatchNorm1d` and `nn.BatchNorm2d`; some have no scale and shift.
#
# <details><summary>Hint</summary>
#
# `network.modules()` lists all layers, and `isinstance` accepts a tuple of classes. How do you compute $y \log y$ where
# a probability is 0? With `torch.autograd.grad` you need not touch any `.grad`.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "tent-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def tent_step(network, x, lr):
    """One step of TENT on images x (N, ...); returns the mean entropy before it, a tensor without axes."""
    ### BEGIN SOLUTION
    norms = (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    weights = [p for layer in network.modules() if isinstance(layer, norms) for p in layer.parameters()]
    log_y = network(x).log_softmax(1)
    entropy = -(log_y.exp() * log_y).sum(1).mean()
    with torch.no_grad():
        for p, grad in zip(weights, torch.autograd.grad(entropy, weights), strict=True):
            p -= lr * grad
    return entropy.detach()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "tent-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.tent_step(tent_step)


# %% nbgrader={"grade": true, "grade_id": "tent-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: layer and group normalisation, another normalisation without scale and shift, gradients left
# over from before.
### BEGIN HIDDEN TESTS
def _try_tent(norm, scale, seed):
    _tested, _g = check.Student(tent_step), check.generator(seed)
    _net = torch.nn.Sequential(torch.nn.Linear(4, 6), norm, torch.nn.LayerNorm(6, elementwise_affine=False),
                               torch.nn.Linear(6, 3)).eval()  # fmt: skip
    for _p in _net.parameters():
        _p.data = torch.randn(_p.shape, generator=_g) * scale
        _p.grad = torch.ones(_p.shape)
    _twin, _x = copy.deepcopy(_net), torch.randn(5, 4, generator=_g)
    _value = torch.distributions.Categorical(logits=_twin(_x).double()).entropy().mean()
    _chosen = list(_twin[1].parameters())
    _slope = torch.autograd.grad(_value, _chosen)
    for _p, _d in zip(_chosen, _slope, strict=True):
        _p.data = _p.data - 0.1 * _d
    _tested.gives(_value.detach().float(), _net, _x, 0.1, what="the mean entropy", tolerance=1e-4)
    for (_name, _p), _q in zip(_net.named_parameters(), _twin.named_parameters(), strict=True):
        assert torch.allclose(_p, _q[1], atol=1e-4), f"tent_step leaves other values than expected in {_name}"


for _k, _norm in enumerate([torch.nn.LayerNorm(6), torch.nn.GroupNorm(2, 6)]):
    _try_tent(_norm, 1, _k)
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "tent-edge", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: batch normalisation with running statistics, very confident predictions.
### BEGIN HIDDEN TESTS
_try_tent(torch.nn.BatchNorm1d(6).eval(), 1, 2)
_ = _try_tent(torch.nn.LayerNorm(6), 100, 3)
### END HIDDEN TESTS

# %% [markdown]
# ## Task 4: the gradient of the entropy
#
# *Difficulty ●●○ · 3 points · 15 minutes*
#
# In which direction does TENT change a prediction? The gradient of the entropy of one belief at its logits is
#
# $$\frac{\partial H}{\partial z_j} = - y_j \,( \log y_j + H ).$$
#
# Write it by hand for each image; the check switches autograd off. Beliefs may be so confident that a probability is 0.
#
# <details><summary>Hint</summary>
#
# $0 \cdot \log 0$ is 0 on paper and nan in floating point. In which order do you compute $y$ and $\log y$ to avoid it?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "entropy-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def entropy_gradient(logits):
    """∂H/∂logits (N, L) of each image's own entropy, from logits (N, L)."""
    ### BEGIN SOLUTION
    log_y = logits.log_softmax(1)
    y = log_y.exp()
    H = -(y * log_y).sum(1, keepdim=True)
    return -y * (log_y + H)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "entropy-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.entropy_gradient(entropy_gradient)

# %% nbgrader={"grade": true, "grade_id": "entropy-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: beliefs of 0 and 1, one image, as many images as classes, double precision.
### BEGIN HIDDEN TESTS
_tested = check.Student(entropy_gradient)
for _N, _L, _scale, _dtype in [(1, 3, 1, torch.float32), (4, 4, 2, torch.float64), (3, 5, 300, torch.float32)]:
    _g = check.generator(_N)
    _leaf = (_scale * torch.randn(_N, _L, generator=_g, dtype=_dtype)).requires_grad_()
    (_right,) = torch.autograd.grad(torch.distributions.Categorical(logits=_leaf.double()).entropy().sum(), _leaf)
    with torch.inference_mode():
        _tested.gives(_right, _leaf.detach(), what="the gradient at the logits", tolerance=1e-4)
### END HIDDEN TESTS

# %% [markdown]
# ## Task 5: an interval for a gain
#
# *Difficulty ●●○ · 3 points · 15 minutes*
#
# The same n images are scored before and after adaptation. A *paired* bootstrap resamples images, each with both of its
# scores, and measures how much the mean gain varies. The draws are given: row $r$ of `draws` holds the n image numbers
# of resample $r$. Return the two ends that leave out equal fractions at both sides, so that the fraction `level` is
# between them. Scores may be bool or whole numbers.
#
# <details><summary>Hint</summary>
#
# Index a tensor of gains with all the draws at once: what is its shape, and over which axis is the mean? Which two
# quantiles enclose the fraction `level`?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "interval-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def paired_interval(before, after, draws, level):
    """The low and the high end (2,) in float32, from scores (n,), draws (R, n) and a number such as 0.95."""
    ### BEGIN SOLUTION
    gains = (after.float() - before.float())[draws].mean(1)
    return gains.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2]))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "interval-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.paired_interval(paired_interval)

# %% nbgrader={"grade": true, "grade_id": "interval-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: bool scores and whole numbers, other levels, a single image, no gain at all.
### BEGIN HIDDEN TESTS
import numpy as np

_tested = check.Student(paired_interval)
for _n, _R, _level, _dtype in [(12, 400, 0.95, torch.bool), (30, 999, 0.5, torch.int64), (1, 10, 0.9, torch.float32)]:
    _g = check.generator(_n)
    _before, _after = (torch.randint(0, 2, (_n,), generator=_g).to(_dtype) for _ in range(2))
    _draws = torch.randint(0, _n, (_R, _n), generator=_g)
    _b, _a = _before.double().numpy(), _after.double().numpy()
    _means = [np.mean(_a[row] - _b[row]) for row in _draws.numpy()]
    _right = np.percentile(_means, [50 - 50 * _level, 50 + 50 * _level])
    _tested.gives(torch.tensor(_right, dtype=torch.float32), _before, _after, _draws, _level, what="the interval")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 6: find the bug
#
# *Difficulty ●●○ · 3 points · 20 minutes*
#
# This function evaluates episodic adaptation: every image starts from the same network. It runs without an error. But
# if the images are shuffled, the accuracy *before* adaptation changes, and it must not.
#
# ```python
# def evaluate_episodic(network, adapt, images, labels):
#     start = network.state_dict()
#     rows = []
#     for x, label in zip(images, labels):
#         before = network(x[None]).argmax() == label
#         adapt(network, x[None])
#         after = network(x[None]).argmax() == label
#         network.load_state_dict(start)
#         rows.append(torch.stack([before, after]))
#     return torch.stack(rows)
# ```
#
# Find the bug and write the function without it. `adapt` changes the network in place, its buffers too (the running
# means of a BatchNorm, say). At the end the network is as it was at the beginning.
#
# <details><summary>Hint</summary>
#
# Print one parameter and the same entry of `start` before the loop, after `adapt`, and after `load_state_dict`.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "bug-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def evaluate_episodic(network, adapt, images, labels):
    """Whether each image is right before and after adaptation (n, 2) in bool, from images (n, ...) and labels (n,).

    network: a module, x (1, ...) -> logits (1, L);  adapt: (network, x) -> None, changes the network in place
    """
    ### BEGIN SOLUTION
    start = {name: value.clone() for name, value in network.state_dict().items()}
    rows = []
    for x, label in zip(images, labels, strict=True):
        before = network(x[None]).argmax() == label
        adapt(network, x[None])
        after = network(x[None]).argmax() == label
        network.load_state_dict(start)
        rows.append(torch.stack([before, after]))
    return torch.stack(rows)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "bug-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.evaluate_episodic(evaluate_episodic)

# %% nbgrader={"grade": true, "grade_id": "bug-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: a network with buffers that adaptation changes, a single image.
### BEGIN HIDDEN TESTS
_tested = check.Student(evaluate_episodic)
for _n in (1, 24):
    _g = check.generator(_n)
    _net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).eval()
    for _p in _net.parameters():
        _p.data = torch.randn(_p.shape, generator=_g)
    _x, _labels = torch.randn(_n, 4, generator=_g), torch.randint(4, (_n,), generator=_g)
    _start = {name: value.clone() for name, value in _net.state_dict().items()}

    def _adapt(net, x):
        with torch.no_grad():
            net[1].running_mean += 3 * x[0]
            net[0].weight[x[0].argmax()] -= 2

    _right = []
    for _image, _label in zip(_x, _labels, strict=True):
        _w, _m = _start["0.weight"].clone(), _start["1.running_mean"] + 3 * _image
        _w[_image.argmax()] -= 2
        _row = []
        for _weight, _mean in ((_start["0.weight"], _start["1.running_mean"]), (_w, _m)):
            _h = _weight @ _image + _start["0.bias"] - _mean
            _h = _h / (_start["1.running_var"] + 1e-5).sqrt() * _start["1.weight"] + _start["1.bias"]
            _row.append(int(_h.argmax()) == int(_label))
        _right.append(_row)
    _tested.gives(torch.tensor(_right), _net, _adapt, _x, _labels, what="right before and after")
    assert all(torch.equal(_start[name], value) for name, value in _net.state_dict().items()), (
        "evaluate_episodic leaves the network adapted"
    )
### END HIDDEN TESTS

# %% [markdown]
# ## Task 7: one method, two shifts
#
# *Difficulty ●●○ · 9 points · 35 minutes*
#
# An experiment. Adapt to 40 validation digits at severity 3 under `gaussian_noise`, and to 40 under `rotation`, each
# image separately. Print for both shifts how many are right before and after, and the 95% interval of the gain by your
# `paired_interval`, from 2000 draws. The code is not run against tests; your answer below it is graded by a person, by
# the table.
#
# Begin with these lines:
#
# ```python
# import dtta
# from dtta.evaluation.evaluate import image_generator
# from dtta.methods import build
#
# problem = dtta.load("digits")
# tta = build(problem, "diffusion-tta")
# numbers = check.numbers(297, 40)  # the validation images of your variant
# x, label = problem.image(numbers[0], "rotation", 3, "validation")  # (1, 1, 8, 8) and its label
# # problem.model(x) are the logits before, tta(x, image_generator(SEED, numbers[0])) those after
# g = check.generator(1)  # draws the resamples
# ```
#
# <details><summary>Hint</summary>
#
# Collect two lists of True and False. A row of `draws` holds 40 places in these lists, not image numbers.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "experiment-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
import dtta
from dtta.evaluation.evaluate import image_generator
from dtta.methods.registry import build

problem = dtta.load("digits")
tta = build(problem, "diffusion-tta")
for shift in ("gaussian_noise", "rotation"):
    before, after = [], []
    for i in check.numbers(297, 40):
        x, label = problem.image(i, shift, 3, "validation")
        with torch.no_grad():
            before.append(int(problem.model(x).argmax()) == label)
        after.append(int(tta(x, image_generator(SEED, i)).argmax()) == label)
    before, after = torch.tensor(before), torch.tensor(after)
    draws = torch.randint(40, (2000, 40), generator=check.generator(1))
    low, high = 100 * paired_interval(before, after, draws, 0.95)
    print(f"{shift}: {before.sum()} right before, {after.sum()} after; gain from {low:+.0f} to {high:+.0f} points")
### END SOLUTION

# %% [markdown]
# What did you find, and **why** do the two shifts differ? Argue from what the diffusion model knows about each kind of
# image. Then say what the intervals allow you to claim, and what you would want to know before you use adaptation on
# images of an unknown kind. Five to ten sentences.
#
# | criterion | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | **What was run** | nothing was printed | a part of the measurement | the whole measurement, with settings and the number of images | and a control of your own: another seed, more images or another setting, with what it changes |
# | **How the numbers are read** | no statement, or one that your numbers contradict | statements without numbers | each statement names the numbers that support it | and says how uncertain they are and which differences they do not establish |
# | **Reasons and limits** | none | a reason without a link to the numbers | a reason that would predict these numbers, and what follows from it in practice | and an observation that would refute the reason, or a limit that would change what follows |

# %% [markdown] nbgrader={"grade": true, "grade_id": "experiment-text", "locked": false, "points": 9, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# Under Gaussian noise 22 of 40 digits are right before and 30 after: a gain of 20 points, with an interval from +5 to
# +35, so a gain is established for digits like these at this severity; its size is not known better than that. Under
# rotation 35 are right before and 33 after: a loss of 5 points, with an interval from -15 to +5. It contains zero, so
# neither a loss nor a gain is established; a loss of 15 points is as compatible with the data as a small gain. Nor do
# these data show that rotation loses in general: that would need more images or a stronger rotation. The classifier was
# not trained on noise of this kind, while the diffusion model adds noise that is stronger than the image's at the
# middle timesteps: the digit is still visible to it, and its gradient is right. A rotated digit is sharp, only turned,
# and a model of upright digits has no reason to explain it better than the network does, so there is little to gain and
# something to lose. If the diffusion model alone classified rotated digits better than the network does, this reason
# would be wrong. Before I use adaptation on unknown images I would compare the diffusion model's classification with
# the network's on labelled images of that kind; without labels I would not trust it. The intervals say nothing about
# other shifts, severities or networks.
# ### END SOLUTION

# %% [markdown] key="experiment-text"
# **What the reference prints** under five variants:
#
# * Under Gaussian noise the whole interval is above zero: a gain is established.
# * Under rotation no gain is established: the interval contains zero or is below it.
# * Under rotation the change is at most one digit up and at most eight digits down.
#
# In four of the five variants the interval under rotation contains zero, in one it is below (38 right before, 30
# after): the student's interval decides. To write that rotation loses, or that adaptation does no harm there, while the
# interval contains zero claims more than the data allow: level 1 in reading at most.
#
# **Reading**: level 2 needs counts and both intervals and what they establish; level 3 also what they leave open (the
# size under noise is uncertain by 15 points either way; under rotation a loss of ten points or more is not excluded).
#
# **Reasons**: at the middle timesteps the added noise covers that of the image, so the diffusion model still sees the
# digit; a rotated digit is sharp, and a model of upright digits knows no more about it than the network. What follows:
# compare diffusion model and network on labelled validation images of the new kind first.
