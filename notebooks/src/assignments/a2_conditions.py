# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Assignment 2: from an output to a condition
#
# After [chapter 02](../02_conditions.ipynb). You turn outputs into conditions, for classes, for pixels and for depth,
# derive the gradient of a mixture by hand, accumulate it over micro-batches, extend the mixture, and then measure how
# large the gradient is when the classifier is confident.
#
# **30 points, about 125 minutes.** Everything runs on a CPU in seconds. In each task you write the body of one
# function, where `...` is. The cell below it checks the function and explains what is wrong; run it as often as you
# like. Grading runs the same check and hidden tests on other inputs. Tasks do not depend on each other, and you may add
# cells. Do not edit the cells with checks.

# %% nbgrader={"grade": false, "grade_id": "setup", "locked": true, "schema_version": 3, "solution": false, "task": false}
import torch

from dtta.course import check

SEED = check.variant(0)  # the data of the checks and of the experiment

# %% [markdown]
# ## Task 1: a mixture of class embeddings
#
# *Difficulty ●○○ · 3 points · 10 minutes*
#
# The network returns logits. Their softmax is the vector of predicted class probabilities, which the course calls the
# *belief*. The condition is the average of the class embeddings, weighted by the belief:
#
# $$y = \operatorname{softmax}(\text{logits}), \qquad c = \sum_j y_j\, l_j .$$
#
# An embedding may have any shape: a vector (D,), or a sequence of vectors (tokens, D). Whatever the dtype of the
# logits, compute in float32 and return float32. Logits may be large.
#
# <details><summary>Hint</summary>
#
# You need a sum over the last axis of `y` and the first axis of the embeddings, whatever follows it: look at
# `tensordot`. Why does a library softmax subtract the largest logit first?
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
# Let $g = \partial L / \partial c$ be the gradient that the diffusion model returns. By the chain rule the gradient at
# the logits $z$ is
#
# $$\frac{\partial L}{\partial z_j} = y_j \Big( g \cdot l_j - \sum_k y_k\, g \cdot l_k \Big).$$
#
# The logit of a class changes in proportion to its probability and to the difference between its embedding's score and
# the mixture's. Write it by hand, without autograd: the check switches autograd off.
#
# <details><summary>Hint</summary>
#
# First compute the scores $g \cdot l_j$ of all images and classes, of shape (N, L). The sum in the bracket is the mean
# of a row's scores, weighted by its probabilities. Which axis must stay for the subtraction?
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


# %% nbgrader={"grade": true, "grade_id": "gradient-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.mixture_gradient(mixture_gradient)


# %% nbgrader={"grade": true, "grade_id": "gradient-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: other numbers of images, classes and dimensions, double precision; compared with autograd.
### BEGIN HIDDEN TESTS
def _try_gradient(cases):
    _tested = check.Student(mixture_gradient)
    for _N, _L, _D, _scale, _dtype in cases:
        _g = check.generator(_N)
        _leaf = (_scale * torch.randn(_N, _L, generator=_g, dtype=_dtype)).requires_grad_()
        _l, _c = torch.randn(_L, _D, generator=_g, dtype=_dtype), torch.randn(_N, _D, generator=_g, dtype=_dtype)
        (_right,) = torch.autograd.grad((_leaf.softmax(1) @ _l * _c).sum(), _leaf)
        with torch.inference_mode():
            _tested.gives(_right, _leaf.detach(), _l, _c, what="the gradient at the logits")


_ = _try_gradient([(5, 3, 2, 1, torch.float32), (4, 4, 4, 2, torch.float64)])
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "gradient-edge", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: one image, one class, very confident beliefs.
### BEGIN HIDDEN TESTS
_ = _try_gradient([(1, 3, 2, 1, torch.float32), (3, 6, 1, 200, torch.float32), (2, 1, 3, 1, torch.float32)])
### END HIDDEN TESTS

# %% [markdown]
# ## Task 3: a mixture at every pixel
#
# *Difficulty ●●○ · 3 points · 10 minutes*
#
# A segmentation network predicts a belief at every pixel $u$. Its condition is a map, with the D numbers of the
# embedding as channels:
#
# $$c^u = \sum_j y_j^u\, l_j .$$
#
# Again compute in float32 and return float32.
#
# <details><summary>Hint</summary>
#
# Name the axes of what comes in and of what goes out with one letter each; `torch.einsum` takes such letters. `reshape`
# and `view` never move an axis; they only divide the same sequence of numbers differently.
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
# The output of a depth network needs no mixture. It is only rescaled to the range of the diffusion model: the depth
# `near` becomes -1, `far` becomes 1, and the map between them is linear. Depths outside are replaced by the nearest of
# the two. Some networks return (N, H, W), some (N, 1, H, W); the condition is (N, 1, H, W) in both cases. It must carry
# a gradient.
#
# <details><summary>Hint</summary>
#
# Which comes first, limiting the range or rescaling? Does it matter here? For the shape look at the number of axes.
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
# The loss is the mean over B pairs $(t, \epsilon)$, and B pairs do not fit into memory at once. Take at most `size`
# pairs at a time and accumulate the gradient at the condition. The result must be the gradient of the mean over *all*
# pairs, whatever the size; the last part may be smaller.
#
# `loss(t, noise, c)` takes M pairs: `t` (M,), `noise` (M, ...) and `c` (M, ...), and returns M losses. Your `c` has the
# shape (1, ...), and so has the result.
#
# <details><summary>Hint</summary>
#
# `backward()` adds to the `.grad` of a leaf. Which leaf do you need, and how do you leave the caller's `c` unchanged?
# If the parts differ in size, why is the mean of the parts' means wrong?
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


# %% nbgrader={"grade": true, "grade_id": "parts-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.gradient_in_parts(gradient_in_parts)


# %% nbgrader={"grade": true, "grade_id": "parts-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: a last part that is smaller, conditions that are maps.
### BEGIN HIDDEN TESTS
def _try_parts(cases):
    _tested = check.Student(gradient_in_parts)
    for _B, _size, _form in cases:
        _g = check.generator(_B)
        _c, _noise = torch.randn(1, *_form, generator=_g), torch.randn(_B, *_form, generator=_g)
        _t = torch.randint(100, (_B,), generator=_g)

        def _loss(t, e, c, most=_size):
            assert len(t) == len(e) == len(c) <= most
            return (1 + t) / 50 * (c - e).square().flatten(1).sum(1)

        _right = sum((1 + _t[k]) / 50 * 2 * (_c - _noise[[k]]) for k in range(_B)) / _B
        _tested.gives(_right, _loss, _c, _t, _noise, _size, what="the gradient at c", tolerance=1e-4)


_ = _try_parts([(7, 3, (4,)), (10, 4, (2, 3, 3))])
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "parts-edge", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: a size above B, a single pair, parts of one pair.
### BEGIN HIDDEN TESTS
_ = _try_parts([(5, 8, (3,)), (1, 1, (2,)), (6, 1, (5, 2))])
### END HIDDEN TESTS

# %% [markdown]
# ## Task 6: extend the method to the k likeliest classes
#
# *Difficulty ●●● · 4 points · 20 minutes*
#
# With a thousand classes, most of the mixture in task 1 comes from classes that the network all but excludes. Extend
# it: only the k likeliest classes of each image enter the mixture. Design it so that
#
# * the weights of each image add up to 1, and keep the ratios that the network's probabilities have;
# * with k = L, or more, it is the mixture of task 1, and with k = 1 the embedding of the likeliest class;
# * the gradient reaches the logits of the chosen classes, and no others.
#
# Embeddings are vectors here. Compute in float32 and return float32. If two logits are equal, either may be chosen.
#
# <details><summary>Hint</summary>
#
# Torch can return the k largest numbers of a row together with their places. What is the softmax of the chosen logits
# only, compared with the chosen entries of the whole softmax?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "top-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mix_top_classes(logits, embeddings, k):
    """c (N, D) in float32, from logits (N, L), embeddings (L, D) and the number k of classes that count."""
    ### BEGIN SOLUTION
    largest, chosen = logits.float().topk(min(k, logits.shape[1]), dim=1)
    return torch.einsum("nk,nkd->nd", largest.softmax(1), embeddings.float()[chosen])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "top-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.mix_top_classes(mix_top_classes)


# %% nbgrader={"grade": true, "grade_id": "top-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: other numbers of classes and images, half precision, and which logits get a gradient.
### BEGIN HIDDEN TESTS
def _try_top(cases):
    _tested = check.Student(mix_top_classes)
    for _N, _L, _k, _scale, _dtype in cases:
        _g = check.generator(_L)
        _leaf = (_scale * torch.randn(_N, _L, generator=_g)).to(_dtype).requires_grad_()
        _l = torch.randn(_L, 3, generator=_g)
        _order = [sorted(range(_L), key=row.__getitem__, reverse=True)[:_k] for row in _leaf.tolist()]
        _right = []
        for _row, _kept in zip(_leaf.detach().double(), _order, strict=True):
            _y = [(_row[j] - _row.max()).exp() for j in _kept]
            _right.append(sum(y / sum(_y) * _l[j].double() for y, j in zip(_y, _kept, strict=True)))
        _came = _tested.gives(torch.stack(_right).float().requires_grad_(), _leaf, _l, _k, what="c")
        _nonzero = torch.autograd.grad(_came.sum(), _leaf)[0] != 0
        _chosen = torch.zeros(_N, _L, dtype=torch.bool)
        for _n, _kept in enumerate(_order):
            _chosen[_n, _kept] = True
        assert not (_nonzero & ~_chosen).any(), "a gradient reaches the logit of a class that was not chosen"


_ = _try_top([(3, 6, 2, 1, torch.float32), (2, 9, 4, 2, torch.float16)])
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "top-edge", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: k = 1, k = L and k above L, one class, very large logits.
### BEGIN HIDDEN TESTS
_ = _try_top([(2, 5, 1, 1, torch.float32), (2, 4, 4, 1, torch.float32), (3, 1, 7, 1, torch.float32),
              (2, 3, 5, 1, torch.float32), (2, 8, 3, 300, torch.float32)])  # fmt: skip
### END HIDDEN TESTS

# %% [markdown]
# ## Task 7: how large is the gradient when the classifier is confident?
#
# *Difficulty ●●○ · 9 points · 35 minutes*
#
# An experiment. On eight validation digits assign the probability 0.5, 0.9, 0.99 and 0.999 to a *wrong* class, and
# divide the rest evenly among the others. Measure the norm of the gradient of the diffusion loss at the logits,
# averaged over the digits. Then do the same with the logits divided by a temperature of 3 before the mixture; and once
# more, both ways, with the probability on the *true* class. Print the 16 numbers. The code is not run against tests;
# your answer below it is graded by a person, by the table.
#
# Begin with these lines:
#
# ```python
# import dtta
#
# problem = dtta.load("digits")
# diffusion = problem.diffusion
# numbers = check.numbers(297, 8)  # the validation images of your variant
# pairs = [problem.image(i, split="validation") for i in numbers]
# labels = [label for _, label in pairs]
# z0 = diffusion.encode(torch.cat([x for x, _ in pairs]))  # (8, 1, 8, 8)
# g = check.generator(1)  # draws timesteps and noise
# # diffusion.loss(z0 (M, ...), t (M,), noise (M, ...), c (M, D)) -> losses (M,)
# # diffusion.class_embeddings (10, D)
# ```
#
# <details><summary>Hint</summary>
#
# Which logits have a given belief as their softmax? Divide *them* by the temperature. Draw 24 pairs once, `t` from 250
# to 749, and use them for every digit and every belief: then the numbers differ only because of the belief.
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
# What did you find, and **why** is it so? Use the formula of task 2. Then say what the temperature of 3 gains and what
# it costs, and whether you would use it. Five to ten sentences.
#
# | criterion | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | **What was run** | nothing was printed | a part of the measurement | the whole measurement, with settings and the number of images | and a control of your own: another seed, more images or another setting, with what it changes |
# | **How the numbers are read** | no statement, or one that your numbers contradict | statements without numbers | each statement names the numbers that support it | and says how uncertain they are and which differences they do not establish |
# | **Reasons and limits** | none | a reason without a link to the numbers | a reason that would predict these numbers, and what follows from it in practice | and an observation that would refute the reason, or a limit that would change what follows |

# %% [markdown] nbgrader={"grade": true, "grade_id": "experiment-text", "locked": false, "points": 9, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# Without a temperature the gradient of a wrong belief falls from 1.0e-2 at 0.5 to 8.9e-5 at 0.999: beyond 0.9, each
# factor of ten in confidence divides it by ten. The formula gives the reason. Every class but the confident one is
# multiplied by its probability, which is at most 1 - p; for the confident class the bracket compares its embedding with
# a mixture that is nearly the same, and is of the size 1 - p as well. So a network that is confident and wrong receives
# almost no gradient, though the loss is large. If the gradient fell more slowly than 1 - p, the formula would not be
# the reason. Divided by 3, the logits of a belief of 0.999 give a moderate one, and the gradient is 4.2e-3, 47 times
# larger. The other rows show the cost: a belief of 0.999 in the *true* class had a gradient of 2.3e-6 and now has
# 7.1e-4, 300 times more, so a correct prediction is changed too. And the condition is no longer the network's belief:
# the loss is evaluated at a prediction that the network did not make. I would use it only if validation images show
# that confident errors are common under the shift. Eight digits and one seed show the trend, which spans powers of ten,
# and not the second digit.
# ### END SOLUTION

# %% [markdown] key="experiment-text"
# **What the reference prints** under five variants:
#
# * Without a temperature the gradient of a wrong belief falls by a factor of 70 to 100 from 0.9 to 0.999.
# * Without a temperature it falls by 9 to 11 from 0.99 to 0.999, as 1 - p does.
# * With the temperature the gradient at 0.999 on a wrong class is 35 to 70 times as large.
# * With the temperature the gradient at 0.999 on the true class is 70 to 350 times as large.
#
# **Reading**: level 2 needs that the gradient of a wrong belief vanishes with its confidence, with numbers, and the
# cost of the temperature from the rows of the true class; level 3 also that eight digits give powers of ten and not the
# second digit, or that a true belief's gradient is smaller still.
#
# **Reasons**: the factor $y_j$ for all classes but one, and for that one a bracket that goes to 0, so about $1 - p$.
# What follows: the temperature lets confident errors be corrected and changes correct predictions too; the condition is
# no longer the network's belief. "The loss is small, so the gradient is small" is wrong: the loss of a wrong belief is
# large.
