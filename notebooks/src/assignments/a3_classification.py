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
# After [chapter 03](../03_classification.ipynb). You write one step of Algorithm 1, put the weights back after an image,
# build TENT as its rival, look at the rival's gradient, put an interval to a gain, and then find a shift that the diffusion
# model mends and one that it makes worse.
#
# **20 points, about 110 minutes.** All of it runs on a CPU in seconds, the experiment in a minute. In each task you write
# the body of one function, where `...` stands. The cell below it checks what you wrote and says what it found; run it as
# often as you like. When your work is graded, the same cell and some hidden tests run again. Tasks do not depend on each
# other, and you may add cells of your own. Do not edit the cells that check.

# %% nbgrader={"grade": false, "grade_id": "setup", "locked": true, "schema_version": 3, "solution": false, "task": false}
import torch

from dtta.course import check

# %% [markdown]
# ## Task 1: one step of Algorithm 1
#
# *Difficulty ●●○ · 4 points · 20 minutes*
#
# Ask the network, mix the class embeddings by its belief, take the mean diffusion loss over the B pairs $(t, \epsilon)$,
# and let the optimizer go one step downhill. What may stand in the weights' `.grad` from before must not count. Return the
# loss that the step saw, a tensor without axes and without a gradient.
#
# `loss(z0, t, noise, condition)` takes a batch of one length and returns a loss for each. There is one image.
#
# <details><summary>Hint</summary>
#
# The order is: belief, condition, loss; then `zero_grad`, `backward`, `step`. `expand` makes the image and the condition
# B long.
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


# %% nbgrader={"grade": true, "grade_id": "step-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.adapt_step(adapt_step)

# %% nbgrader={"grade": true, "grade_id": "step-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: Adam, a single pair, other networks, gradients left over from before.
### BEGIN HIDDEN TESTS
import copy

_tested = check.Student(adapt_step)
for _B, _L, _kind, _rate in [(1, 3, torch.optim.SGD, 0.3), (5, 4, torch.optim.Adam, 0.05)]:
    _g = torch.Generator().manual_seed(_B)
    _net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(8, 5), torch.nn.Tanh(), torch.nn.Linear(5, _L)
    ).eval()
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
        _value.detach(), _net, _score, _l, _kind(_net.parameters(), lr=_rate), _x, _z, _t, _noise, what="loss"
    )
    for _p, _q in zip(_net.parameters(), _twin.parameters(), strict=True):
        assert torch.allclose(_p, _q, atol=1e-4), "adapt_step moved the weights elsewhere than one step of descent does"
### END HIDDEN TESTS

# %% [markdown]
# ## Task 2: and back again
#
# *Difficulty ●●○ · 3 points · 15 minutes*
#
# Each image is adapted by itself. So keep the weights, call `step()` so many times, ask the network with the weights that
# this has left, and put the weights back. An optimizer holds the weights' tensors: put the *numbers* back into them, and do
# not give the network other tensors. If a step raises an error, the weights go back all the same, and the error goes on to
# whoever called. Return the logits without a gradient.
#
# <details><summary>Hint</summary>
#
# `p.detach().clone()` keeps numbers; without `clone` it is the same memory. `try: ... finally: ...` runs its end in any
# case. `copy_` under `torch.no_grad()` writes into a tensor.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "restore-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def adapt_and_restore(network, step, steps, x):
    """The logits (N, L) after `steps` calls of step(), with all weights as they were before.

    network: a module, x (N, ...) -> logits (N, L);  step: a function without arguments that moves weights
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
# Hidden tests run here: no step at all, weights that ask for no gradient, and a step that fails.
### BEGIN HIDDEN TESTS
_tested = check.Student(adapt_and_restore)
for _steps, _fails in [(0, False), (3, False), (4, True)]:
    _g = torch.Generator().manual_seed(_steps)
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
        _said = ""
        try:
            _tested(_net, _step, _steps, _x)
        except check.Wrong as _error:
            _said = str(_error)
        assert "the loss is not finite" in _said, (
            _said or "adapt_and_restore swallows the error of a step: whoever called has to hear of it"
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
# TENT makes the network surer of itself. It goes downhill on the entropy of its belief,
# $H = -\sum_j y_j \log y_j$, the mean over the images, and moves nothing but the scales and shifts (`weight` and `bias`) of the
# normalisation layers. Take one step of plain gradient descent at rate `lr`, and return the mean entropy before it,
# without a gradient. Normalisation layers are `nn.LayerNorm`, `nn.GroupNorm`, `nn.BatchNorm1d` and `nn.BatchNorm2d`; some
# have no scale and shift.
#
# <details><summary>Hint</summary>
#
# `network.modules()` lists all layers, `isinstance` takes a tuple of kinds, and `layer.parameters()` is empty where there
# is nothing to move. `log_softmax` is safe where a belief is 0. Then `torch.autograd.grad(entropy, weights)`.
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


# %% nbgrader={"grade": true, "grade_id": "tent-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.tent_step(tent_step)

# %% nbgrader={"grade": true, "grade_id": "tent-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: every kind of normalisation layer, one without scale and shift, answers that are very sure,
# gradients left over from before.
### BEGIN HIDDEN TESTS
import copy

_tested = check.Student(tent_step)
_norms = [torch.nn.LayerNorm(6), torch.nn.BatchNorm1d(6).eval(), torch.nn.GroupNorm(2, 6)]
for _k, _norm in enumerate([*_norms, torch.nn.LayerNorm(6)]):
    _g = torch.Generator().manual_seed(_k)
    _net = torch.nn.Sequential(torch.nn.Linear(4, 6), _norm, torch.nn.LayerNorm(6, elementwise_affine=False),
                               torch.nn.Linear(6, 3)).eval()  # fmt: skip
    for _p in _net.parameters():
        _p.data = torch.randn(_p.shape, generator=_g) * (100 if _k == 3 else 1)
        _p.grad = torch.ones(_p.shape)
    _twin, _x = copy.deepcopy(_net), torch.randn(5, 4, generator=_g)
    _value = torch.distributions.Categorical(logits=_twin(_x).double()).entropy().mean()
    _own = list(_twin[1].parameters())
    _slope = torch.autograd.grad(_value, _own)
    for _p, _d in zip(_own, _slope, strict=True):
        _p.data = _p.data - 0.1 * _d
    _tested.gives(_value.detach().float(), _net, _x, 0.1, what="the mean entropy", tolerance=1e-4)
    for (_name, _p), _q in zip(_net.named_parameters(), _twin.parameters(), strict=True):
        assert torch.allclose(_p, _q, atol=1e-4), f"tent_step left other numbers than expected in the weight {_name}"
### END HIDDEN TESTS

# %% [markdown]
# ## Task 4: what entropy teaches
#
# *Difficulty ●●○ · 3 points · 15 minutes*
#
# Where does TENT push an answer? The gradient of the entropy of one belief at its logits is
#
# $$\frac{\partial H}{\partial z_j} = - y_j \,( \log y_j + H ).$$
#
# Write it by hand for each image; the check runs where autograd is switched off. Answers may be so sure that a belief is 0.
#
# <details><summary>Hint</summary>
#
# $0 \cdot \log 0$ is 0 on paper and nan on a computer: take `log_softmax` first and its `exp`.
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
    _g = torch.Generator().manual_seed(_N)
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
# The same n images are scored before and after. A *paired* bootstrap draws images again, each with both of its scores, and
# asks how the mean gain would vary. The draws are given: row $r$ of `draws` names the n images of resample $r$. Return the
# two ends that leave out equal parts at both sides, so that a share `level` lies between them. Scores may be bool or
# whole numbers.
#
# <details><summary>Hint</summary>
#
# `gain[draws]` is (R, n). Its mean in each row gives R gains; `torch.quantile` finds the ends.
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
    _g = torch.Generator().manual_seed(_n)
    _before, _after = (torch.randint(0, 2, (_n,), generator=_g).to(_dtype) for _ in range(2))
    _draws = torch.randint(0, _n, (_R, _n), generator=_g)
    _b, _a = _before.double().numpy(), _after.double().numpy()
    _means = [np.mean(_a[row] - _b[row]) for row in _draws.numpy()]
    _right = np.percentile(_means, [50 - 50 * _level, 50 + 50 * _level])
    _tested.gives(torch.tensor(_right, dtype=torch.float32), _before, _after, _draws, _level, what="the interval")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 6: mended and broken
#
# *Difficulty ●●○ · 3 points · 25 minutes*
#
# An experiment. Adapt 40 validation digits at severity 3 under `gaussian_noise`, and 40 under `rotation`, each alone. Print for
# both shifts how many are right before and after, and the 95% interval of the gain by your `paired_interval`, from 2000
# draws. Nothing in this cell is graded by itself; the next one is.
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
# x, label = problem.image(0, "rotation", 3, "validation")  # image number 0: (1, 1, 8, 8) and its label
# # problem.model(x) are the logits before, tta(x, image_generator(0, 0)) those after
# ```
#
# <details><summary>Hint</summary>
#
# Collect two lists of True and False. `torch.randint(40, (2000, 40), generator=g)` are the draws.
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
    for i in range(40):
        x, label = problem.image(i, shift, 3, "validation")
        with torch.no_grad():
            before.append(int(problem.model(x).argmax()) == label)
        after.append(int(tta(x, image_generator(0, i)).argmax()) == label)
    before, after = torch.tensor(before), torch.tensor(after)
    draws = torch.randint(40, (2000, 40), generator=torch.Generator().manual_seed(0))
    low, high = 100 * paired_interval(before, after, draws, 0.95)
    print(f"{shift}: {before.sum()} right before, {after.sum()} after; gain from {low:+.0f} to {high:+.0f} points")
### END SOLUTION

# %% [markdown]
# What did you find, and **why** do the two shifts differ? Argue from what the diffusion model knows about each kind of
# image. Then say what the intervals allow you to claim, and what you would want to know before you switch adaptation on for
# images of an unknown kind. Five to ten sentences.
#
# | points | for |
# |---|---|
# | 1 | the counts and both intervals, and what they support: a gain under noise, a loss under rotation, as neither holds 0 |
# | 1 | a reason: the middle timesteps drown grain, so the model knows better than the network; a turned digit is sharp, and a model of upright digits explains it as another class |
# | 1 | a limit and a consequence: 40 images, one severity and seed; one must know whether the teacher is better than the network under this shift, on validation images or otherwise |

# %% [markdown] nbgrader={"grade": true, "grade_id": "experiment-text", "locked": false, "points": 3, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# Under Gaussian noise 20 of 40 digits are right before and 35 after: a gain of 37.5 points, with an interval from about
# +22 to +52. Under rotation 37 are right before and 31 after: a loss of 15 points, from about -28 to -5. Neither interval
# holds zero, so both signs are shown for digits like these, at this severity; the sizes are known to within 15 points only.
# The classifier never saw grain, but at the middle timesteps the diffusion model looks through noise that is stronger than
# the image's own, so the digit is still there for it and its feedback is right. A turned digit is sharp, only in the
# wrong place, and a model of upright digits explains it best as another class; noise of any strength leaves it turned. A
# teacher can only teach what it knows better. So before switching adaptation on I would compare the diffusion model's own
# answers with the network's on labelled images of that kind, and without labels I would not trust a single rate for all.
# The intervals say nothing of other shifts, severities or networks.
# ### END SOLUTION
