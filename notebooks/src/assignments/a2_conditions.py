# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Assignment 2: from an answer to a condition
#
# After [chapter 02](../02_conditions.ipynb). You turn answers into conditions, for classes, for pixels and for depth, take
# the gradient of a mixture by hand, collect it over micro-batches, and then measure what a sure network still feels.
#
# **20 points, about 95 minutes.** All of it runs on a CPU in seconds. In each task you write the body of one function,
# where `...` stands. The cell below it checks what you wrote and says what it found; run it as often as you like. When
# your work is graded, the same cell and some hidden tests run again. Tasks do not depend on each other, and you may
# add cells of your own. Do not edit the cells that check.

# %% nbgrader={"grade": false, "grade_id": "setup", "locked": true, "schema_version": 3, "solution": false, "task": false}
import torch

from dtta.course import check

SEED = check.variant(0)  # the data of the checks and of the experiment

# %% [markdown]
# ## Task 1: a mixture of class embeddings
#
# *Difficulty ●○○ · 3 points · 10 minutes*
#
# The network answers with logits. Its belief is their softmax, and the condition mixes the class embeddings by it:
#
# $$y = \operatorname{softmax}(\text{logits}), \qquad c = \sum_j y_j\, l_j .$$
#
# An embedding may have any shape: a vector (D,), or a sequence of vectors (tokens, D). Whatever the dtype of the logits,
# compute in float32 and return float32. Logits may be large.
#
# <details><summary>Hint</summary>
#
# `torch.tensordot(y, embeddings, dims=1)` sums over the last axis of the first and the first axis of the second. A library
# softmax takes off the largest logit first; why would you?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "mix-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mix_classes(logits, embeddings):
    """c (N, ...) in float32, from logits (N, L) and embeddings (L, ...)."""
    ### BEGIN SOLUTION
    return torch.tensordot(logits.float().softmax(1), embeddings.float(), dims=1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "mix-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.mix_classes(mix_classes)

# %% nbgrader={"grade": true, "grade_id": "mix-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: sequences of vectors, one class, very large logits, half precision.
### BEGIN HIDDEN TESTS
_tested = check.Student(mix_classes)
for _N, _L, _form, _scale, _dtype in [(2, 5, (3, 4), 1, torch.float32), (3, 1, (2,), 1, torch.float32),
                                      (2, 4, (3,), 300, torch.float32), (4, 4, (4, 4), 3, torch.bfloat16)]:  # fmt: skip
    _g = check.generator(_L)
    _logits = (_scale * torch.randn(_N, _L, generator=_g)).to(_dtype)
    _l = torch.randn(_L, *_form, generator=_g).to(_dtype)
    _e = (_logits.double() - _logits.double().amax(1, keepdim=True)).exp()
    _right = [sum(_e[n, j] / _e[n].sum() * _l[j].double() for j in range(_L)) for n in range(_N)]
    _tested.gives(torch.stack(_right).float(), _logits, _l, what="c")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 2: the gradient of the mixture
#
# *Difficulty ●●○ · 4 points · 20 minutes*
#
# Let $g = \partial L / \partial c$ be what comes back from the diffusion model. By the chain rule it reaches the logits $z$
# as
#
# $$\frac{\partial L}{\partial z_j} = y_j \Big( g \cdot l_j - \sum_k y_k\, g \cdot l_k \Big).$$
#
# A class is pushed by how much better or worse its embedding does than the mixture, times the belief in it. Write it by
# hand, without autograd: the check runs where autograd is switched off.
#
# <details><summary>Hint</summary>
#
# First the scores `c_grad @ embeddings.T`, of shape (N, L). The sum in the bracket is the mean of a row's scores, weighted
# by its beliefs; keep its axis.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "gradient-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mixture_gradient(logits, embeddings, c_grad):
    """∂L/∂logits (N, L), from logits (N, L), embeddings (L, D) and ∂L/∂c (N, D)."""
    ### BEGIN SOLUTION
    y = logits.softmax(1)
    score = c_grad @ embeddings.T
    return y * (score - (y * score).sum(1, keepdim=True))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "gradient-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.mixture_gradient(mixture_gradient)

# %% nbgrader={"grade": true, "grade_id": "gradient-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: one image, as many images as classes, very sure answers, double precision; autograd decides.
### BEGIN HIDDEN TESTS
_tested = check.Student(mixture_gradient)
for _N, _L, _D, _scale, _dtype in [(1, 3, 2, 1, torch.float32), (4, 4, 4, 2, torch.float64),
                                   (3, 6, 1, 200, torch.float32), (2, 1, 3, 1, torch.float32)]:  # fmt: skip
    _g = check.generator(_N)
    _leaf = (_scale * torch.randn(_N, _L, generator=_g, dtype=_dtype)).requires_grad_()
    _l, _c = torch.randn(_L, _D, generator=_g, dtype=_dtype), torch.randn(_N, _D, generator=_g, dtype=_dtype)
    (_right,) = torch.autograd.grad((_leaf.softmax(1) @ _l * _c).sum(), _leaf)
    with torch.inference_mode():
        _tested.gives(_right, _leaf.detach(), _l, _c, what="the gradient at the logits")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 3: a mixture at every pixel
#
# *Difficulty ●●○ · 3 points · 10 minutes*
#
# A segmentation has a belief at every pixel $u$. Its condition is a map, with the embedding's D numbers as channels:
#
# $$c^u = \sum_j y_j^u\, l_j .$$
#
# Again compute in float32 and return float32.
#
# <details><summary>Hint</summary>
#
# Write the axes down: `nlhw` and `ld` become `ndhw`. `torch.einsum` takes just these letters. `reshape` and `view` never
# move an axis; they only cut the same row of numbers anew.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "pixels-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mix_pixels(logits, embeddings):
    """c (N, D, H, W) in float32, from logits (N, L, H, W) and embeddings (L, D)."""
    ### BEGIN SOLUTION
    return torch.einsum("nlhw,ld->ndhw", logits.float().softmax(1), embeddings.float())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "pixels-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.mix_pixels(mix_pixels)

# %% nbgrader={"grade": true, "grade_id": "pixels-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: square maps, one pixel, as many channels as classes, half precision.
### BEGIN HIDDEN TESTS
_tested = check.Student(mix_pixels)
for _N, _L, _D, _H, _W, _dtype in [(1, 3, 3, 3, 3, torch.float32), (2, 4, 1, 1, 1, torch.float32),
                                   (1, 2, 5, 2, 6, torch.float16)]:  # fmt: skip
    _g = check.generator(_D)
    _logits = torch.randn(_N, _L, _H, _W, generator=_g).to(_dtype)
    _l = torch.randn(_L, _D, generator=_g).to(_dtype)
    _right = torch.zeros(_N, _D, _H, _W)
    for _n, _h, _w in [(n, h, w) for n in range(_N) for h in range(_H) for w in range(_W)]:
        _right[_n, :, _h, _w] = torch.softmax(_logits[_n, :, _h, _w].float(), 0) @ _l.float()
    _tested.gives(_right, _logits, _l, what="c")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 4: a depth map as condition
#
# *Difficulty ●○○ · 3 points · 10 minutes*
#
# A depth network's answer needs no mixture. It is only moved to where diffusion models live: the depth `near` becomes -1,
# `far` becomes 1, and between them it is a straight line. Depths outside are taken for the nearest of the two. Some
# networks answer (N, H, W), some (N, 1, H, W); the condition is (N, 1, H, W) in both cases. It must carry a gradient.
#
# <details><summary>Hint</summary>
#
# `clamp` first. For the shape look at `depth.ndim`.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "depth-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def depth_condition(depth, near, far):
    """c (N, 1, H, W) in [-1, 1], from depth (N, H, W) or (N, 1, H, W) and two numbers."""
    ### BEGIN SOLUTION
    if depth.ndim == 3:
        depth = depth.unsqueeze(1)
    return 2 * (depth.clamp(near, far) - near) / (far - near) - 1
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "depth-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.depth_condition(depth_condition)

# %% nbgrader={"grade": true, "grade_id": "depth-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: both shapes, one image, depths outside the range, other ranges.
### BEGIN HIDDEN TESTS
_tested = check.Student(depth_condition)
for _shape, _near, _far in [((1, 1, 3, 2), 0.5, 80.0), ((3, 4, 4), 1.0, 2.0), ((1, 2, 5), 0.1, 10.0)]:
    _g = check.generator(len(_shape))
    _share = 1.6 * torch.rand(_shape, generator=_g) - 0.3  # of the way from near to far
    _right = (2 * _share - 1).clamp(-1, 1).view(_shape[0], 1, *_shape[-2:])
    _tested.gives(_right, _near + _share * (_far - _near), _near, _far, what="c", tolerance=1e-4)
### END HIDDEN TESTS

# %% [markdown]
# ## Task 5: micro-batches add up
#
# *Difficulty ●●● · 4 points · 20 minutes*
#
# The loss is the mean over B pairs $(t, \epsilon)$, and all B do not fit into memory. Take at most `size` pairs at a time
# and collect the gradient at the condition. The result is to be the gradient of the mean over *all* pairs, whatever the
# size; the last part may be smaller.
#
# `loss(t, noise, c)` takes M pairs: `t` (M,), `noise` (M, ...) and `c` (M, ...), and returns M losses. Your `c` has the
# shape (1, ...), and your answer too.
#
# <details><summary>Hint</summary>
#
# Let a `leaf` collect it: `c`, detached, that asks for a gradient. For each part `t.split(size)`, `leaf.expand(M, ...)`,
# then the *sum* of the part's losses divided by B, then `backward()`: `leaf.grad` adds up by itself.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "parts-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def gradient_in_parts(loss, c, t, noise, size):
    """∂L/∂c (1, ...) of the mean loss over B pairs, by parts of at most `size`.

    loss: (t (M,), noise (M, ...), c (M, ...)) -> losses (M,)
    c: (1, ...), may need a gradient or not;  t: (B,);  noise: (B, ...)
    """
    ### BEGIN SOLUTION
    leaf = c.detach().requires_grad_()
    for t_part, noise_part in zip(t.split(size), noise.split(size), strict=True):
        losses = loss(t_part, noise_part, leaf.expand(len(t_part), *c.shape[1:]))
        (losses.sum() / len(t)).backward()
    return leaf.grad
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "parts-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.gradient_in_parts(gradient_in_parts)

# %% nbgrader={"grade": true, "grade_id": "parts-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: a last part that is smaller, a size above B, a single pair, conditions that are maps.
### BEGIN HIDDEN TESTS
_tested = check.Student(gradient_in_parts)
for _B, _size, _form in [(7, 3, (4,)), (5, 8, (3,)), (1, 1, (2,)), (10, 4, (2, 3, 3)), (6, 1, (5, 2))]:
    _g = check.generator(_B)
    _c, _noise = torch.randn(1, *_form, generator=_g), torch.randn(_B, *_form, generator=_g)
    _t = torch.randint(100, (_B,), generator=_g)

    def _loss(t, e, c, most=_size):
        assert len(t) == len(e) == len(c) <= most
        return (1 + t) / 50 * (c - e).square().flatten(1).sum(1)

    _right = sum((1 + _t[k]) / 50 * 2 * (_c - _noise[[k]]) for k in range(_B)) / _B
    _tested.gives(_right, _loss, _c, _t, _noise, _size, what="the gradient at c", tolerance=1e-4)
### END HIDDEN TESTS

# %% [markdown]
# ## Task 6: what does a sure network feel?
#
# *Difficulty ●●○ · 3 points · 25 minutes*
#
# An experiment. On eight validation digits put a belief of 0.5, 0.9, 0.99 and 0.999 on a *wrong* class, and share the rest
# evenly among the others. Measure the length of the gradient of the diffusion loss at the logits, its mean over the
# digits. Then do the same with the logits divided by a temperature of 3 before the mixture; and once more, both ways, with
# the belief on the *true* class. Print the 16 numbers. Nothing in this cell is graded by itself; the next one is.
#
# Begin with these lines:
#
# ```python
# import dtta
#
# problem = dtta.load("digits")
# diffusion = problem.diffusion
# x, labels = problem.images(8, split="validation")
# z0 = diffusion.encode(x)  # (8, 1, 8, 8)
# # diffusion.loss(z0 (M, ...), t (M,), noise (M, ...), c (M, D)) -> losses (M,)
# # diffusion.class_embeddings (10, D)
# ```
#
# <details><summary>Hint</summary>
#
# `belief.log()` are logits that have this belief; divide *them* by the temperature. Draw 24 pairs once, `t` from 250 to
# 749, and use them for every digit and every belief: then numbers differ for the belief's sake alone.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "experiment-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
import dtta

problem = dtta.load("digits")
diffusion = problem.diffusion
pairs = [problem.image(i, split="validation") for i in check.numbers(297, 8)]
labels = [label for _, label in pairs]
z0 = diffusion.encode(torch.cat([x for x, _ in pairs]))
g = check.generator(1)
t, noise = torch.randint(250, 750, (24,), generator=g), torch.randn(24, *z0.shape[1:], generator=g)
for temperature in (1, 3):
    for where in ("wrong", "true"):
        for p in (0.5, 0.9, 0.99, 0.999):
            size = 0.0
            for image, label in zip(z0, labels, strict=True):
                belief = torch.full((1, 10), (1 - p) / 9)
                belief[0, (label + 1) % 10 if where == "wrong" else label] = p
                logits = belief.log().requires_grad_()
                c = (logits / temperature).softmax(1) @ diffusion.class_embeddings
                loss = diffusion.loss(image.expand(24, -1, -1, -1), t, noise, c.expand(24, -1)).mean()
                (grad,) = torch.autograd.grad(loss, logits)
                size += grad.norm().item() / len(labels)
            print(f"temperature {temperature}, {p} on the {where} class: {size:.1e}")
### END SOLUTION

# %% [markdown]
# What did you find, and **why** is it so? Use the formula of task 2. Then say what the temperature of 3 buys and what it
# costs, and whether you would use it. Five to ten sentences.
#
# | points | for |
# |---|---|
# | 1 | the numbers, and the statement that the pull of a wrong belief vanishes as it gets surer |
# | 1 | the reason: the factor $y_j$ for all classes but one, and for that one a bracket that goes to 0, so about $1 - p$ |
# | 1 | what the temperature buys (a sure mistake is pulled again) and what it costs (a right, sure answer is pulled too; the condition no longer is what the network believes) |

# %% [markdown] nbgrader={"grade": true, "grade_id": "experiment-text", "locked": false, "points": 3, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# Without a temperature the pull of a wrong belief falls from about 1e-2 at 0.5 to 9e-5 at 0.999: beyond 0.9, ten times
# surer is about ten times weaker. The formula says why. Every class but the sure one is multiplied by its own belief, which
# is at most 1 - p; for the sure class the bracket compares its embedding with a mixture that is nearly the same, and is of
# the size 1 - p as well. So a network that is sure and wrong hardly hears the diffusion model, though the loss is large.
# Divided by 3, a belief of 0.999 becomes a mild one, and the pull is about 4e-3, nearly fifty times stronger. The price
# stands in the other rows: a belief of 0.999 in the *true* class was pulled by 3e-6 and is now pulled by 6e-4, two hundred
# times more, so an answer that was right is moved too. And the condition no longer is the network's belief: the loss is
# measured at an answer that nobody gave. I would use it only if validation images show that sure mistakes are common
# under the shift. Eight digits and one seed show the trend, which spans powers of ten, and not the second digit.
# ### END SOLUTION
