# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Assignment 6: open vocabulary
#
# After [chapter 06](../06_open_vocabulary.ipynb). You compute how a CLIP classifier uses its vectors, mix prompts token
# by token, write LoRA from scratch, merge it into a weight, and then measure which parameters change when CLIP is
# adapted to a portrait.
#
# **28 points, about 110 minutes.** Everything runs on a CPU in seconds. In each task you write the body of one
# function, where `...` is. The cell below it checks the function and explains what is wrong; run it as often as you
# like. Grading runs the same check and hidden tests on other inputs. Tasks do not depend on each other, and you may add
# cells. Do not edit the cells with checks.

# %% nbgrader={"grade": false, "grade_id": "setup", "locked": true, "schema_version": 3, "solution": false, "task": false}
import torch

from dtta.course import check

SEED = check.variant(0)  # the data of the checks and of the experiment

# %% [markdown]
# ## Task 1: logits from angles
#
# *Difficulty ●○○ · 3 points · 10 minutes*
#
# CLIP maps images and sentences to vectors. How well they match is the cosine of the angle between them. The cosines
# are multiplied by a learnt number, stored as its logarithm $\tau$:
#
# $$\text{logit}_{nj} = e^{\tau} \cos(\text{image}_n, \text{text}_j), \qquad
# \cos(a, b) = \frac{a \cdot b}{\lVert a \rVert\, \lVert b \rVert} .$$
#
# The vectors have any length; keep their dtype.
#
# <details><summary>Hint</summary>
#
# If all rows are unit vectors, one matrix product gives all cosines. Which axis holds the numbers of one vector?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "logits-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def clip_logits(image, text, tau):
    """The logits (N, L) from image vectors (N, D), text vectors (L, D) and the scalar tensor τ ()."""
    ### BEGIN SOLUTION
    image = image / image.norm(dim=1, keepdim=True)
    text = text / text.norm(dim=1, keepdim=True)
    return tau.exp() * image @ text.T
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "logits-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.clip_logits(clip_logits)

# %% nbgrader={"grade": true, "grade_id": "logits-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: one image, one name, as many images as names, vectors of other lengths, double precision.
### BEGIN HIDDEN TESTS
_tested = check.Student(clip_logits)
for _images, _names, _size in [(1, 4, 3), (3, 1, 5), (4, 4, 4), (1, 1, 2), (7, 20, 16)]:
    for _dtype in (torch.float32, torch.float64):
        _g = check.generator(_images)
        _image = 30 * torch.randn(_images, _size, generator=_g, dtype=_dtype)
        _text = torch.randn(_names, _size, generator=_g, dtype=_dtype) / 20
        _tau = torch.tensor(0.3 * _names, dtype=_dtype)
        _right = _tau.exp() * torch.cosine_similarity(_image[:, None], _text[None], dim=2)
        _tested.gives(_right, _image, _text, _tau, what="the logits")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 2: many wordings, one vector
#
# *Difficulty ●○○ · 3 points · 10 minutes*
#
# "a photo of a red ball", "a small red ball", "a drawing of a red ball": each template gives each name a vector. CLIP
# averages them: make every vector a *unit vector*, take the mean over the templates, and make the mean a unit vector
# again. Without the first step a template with long vectors would count more than the others.
#
# <details><summary>Hint</summary>
#
# Which axis holds the numbers of a vector, and which the templates? After the mean one axis fewer is left.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "templates-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def name_vectors(vectors):
    """One unit vector for each name (L, D), from the vectors (S, L, D) of S templates."""
    ### BEGIN SOLUTION
    unit = torch.nn.functional.normalize(vectors, dim=2)
    return torch.nn.functional.normalize(unit.mean(0), dim=1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "templates-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.name_vectors(name_vectors)

# %% nbgrader={"grade": true, "grade_id": "templates-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: one template, one name, many templates, equal sides, vectors of very different lengths.
### BEGIN HIDDEN TESTS
_tested = check.Student(name_vectors)
for _shape in [(1, 3, 4), (5, 1, 4), (4, 4, 4), (80, 2, 3), (1, 1, 6)]:
    _g = check.generator(sum(_shape))
    _vectors = torch.randn(_shape, generator=_g) * 10 ** (4 * torch.rand(_shape[:2], generator=_g)[..., None] - 2)
    _right = []
    for _j in range(_shape[1]):
        _sum = sum(v / v.square().sum().sqrt() for v in _vectors[:, _j])
        _right.append(_sum / _sum.square().sum().sqrt())
    _tested.gives(torch.stack(_right), _vectors, what="the vectors of the names")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 3: mix prompts token by token
#
# *Difficulty ●●○ · 4 points · 15 minutes*
#
# A text-to-image model receives its prompt as one vector for *each token*. So the embedding $\ell_j$ of a name is a
# matrix, tokens by numbers, and the belief mixes the matrices entry by entry:
#
# $$c_n = \sum_j y_{nj}\, \ell_j, \qquad y_n = \mathrm{softmax}(\text{logits}_n) .$$
#
# Whatever the dtypes that come in, compute in float32 and return float32. The condition must carry a gradient to the
# logits, through which the network is adapted.
#
# <details><summary>Hint</summary>
#
# Name the axes of both factors and of the result by letters; the one that is missing in the result is summed over.
# Which axis of the logits holds the names?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "tokens-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def token_mixture(logits, embeddings):
    """The condition c (N, tokens, D) in float32, from logits (N, L) and prompt embeddings (L, tokens, D)."""
    ### BEGIN SOLUTION
    y = logits.float().softmax(1)
    return torch.einsum("nl,ltd->ntd", y, embeddings.float())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "tokens-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.token_mixture(token_mixture)


# %% nbgrader={"grade": true, "grade_id": "tokens-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: one image, equal sides, half precision, the value of the gradient.
### BEGIN HIDDEN TESTS
def _try_tokens(cases):
    _tested = check.Student(token_mixture)
    for _n, _l, _shape, _dtype in cases:
        _g = check.generator(_l)
        _logits = (8 * torch.randn(_n, _l, generator=_g)).to(_dtype)
        _prompts = torch.randn(_l, *_shape, generator=_g).to(_dtype)
        _y = torch.stack([row.double().exp() / row.double().exp().sum() for row in _logits])
        _right = torch.stack([sum(y * p.double() for y, p in zip(row, _prompts, strict=True)) for row in _y])
        _tested.gives(_right.float(), _logits, _prompts, what="c")


_try_tokens([(1, 5, (7, 3), torch.float32), (4, 4, (4, 4), torch.float32), (3, 2, (5, 2), torch.bfloat16)])
_logits = torch.zeros(1, 2, requires_grad=True)
_c = check.Student(token_mixture)(_logits, torch.tensor([[[1.0]], [[3.0]]]))
assert _c.requires_grad, "no gradient reaches the logits"
assert torch.allclose(torch.autograd.grad(_c.sum(), _logits)[0], torch.tensor([[-0.5, 0.5]])), (
    "the gradient at logit j is y_j (l_j - c)"
)
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "tokens-edge", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: one token, a very confident belief.
### BEGIN HIDDEN TESTS
_try_tokens([(2, 3, (1, 6), torch.float16)])
_sure, _prompts = torch.tensor([[0.0, 200.0, -200.0]]), torch.arange(12.0).view(3, 2, 2)
_ = check.Student(token_mixture).gives(_prompts[[1]], _sure, _prompts, what="c")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 4: LoRA's forward pass
#
# *Difficulty ●●○ · 3 points · 15 minutes*
#
# A linear layer multiplies its input by a weight matrix $W$ (out, in). LoRA leaves $W$ unchanged and adds the product
# of two thin matrices, $A$ (r, in) and $B$ (out, r), times $\alpha / r$:
#
# $$h = W x + \frac{\alpha}{r}\, B A x .$$
#
# In PyTorch inputs are *rows*, so the layer computes `x @ W.T`. Write it for `x` of shape (..., in) with any number of
# axes in front. $W$ is frozen: only $A$ and $B$ get a gradient, even if the $W$ you are given requires one.
#
# <details><summary>Hint</summary>
#
# In which order do you multiply so that the large matrix $BA$ is never computed? Which side of $A$ is the rank? How is
# a tensor cut off from the gradient?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "forward-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def lora_output(x, W, A, B, alpha):
    """h (..., out), from x (..., in), the frozen W (out, in), A (r, in), B (out, r) and the number α."""
    ### BEGIN SOLUTION
    return x @ W.detach().T + alpha / len(A) * (x @ A.T @ B.T)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "forward-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.lora_output(lora_output)

# %% nbgrader={"grade": true, "grade_id": "forward-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: square matrices, rank 1 and full rank, inputs with one and with four axes, B of zeros.
### BEGIN HIDDEN TESTS
_tested = check.Student(lora_output)
for _front, _in, _out, _rank, _alpha in [((), 3, 2, 1, 4), ((5,), 4, 4, 4, 4), ((2, 1, 3), 6, 5, 2, 0.5),
                                         ((2, 3), 2, 7, 2, 16)]:  # fmt: skip
    _g = check.generator(_in)
    _x, _W = torch.randn(*_front, _in, generator=_g), torch.randn(_out, _in, generator=_g).requires_grad_()
    _A, _B = torch.randn(_rank, _in, generator=_g), torch.randn(_out, _rank, generator=_g)
    _A.requires_grad_(), _B.requires_grad_()
    _whole = _W.detach() + _alpha / _rank * torch.einsum("or,ri->oi", _B, _A)
    _came = _tested.gives(torch.einsum("oi,...i->...o", _whole, _x), _x, _W, _A, _B, _alpha, what="h", tolerance=1e-4)
    _grads = torch.autograd.grad(_came.sum(), [_W, _A, _B], allow_unused=True)
    assert _grads[0] is None, "W is frozen, and yet a gradient reaches it"
    assert _grads[1] is not None and _grads[2] is not None, "no gradient reaches A and B"
_ = _tested.gives(
    _x @ _W.detach().T, _x, _W.detach(), _A.detach(), torch.zeros(_out, _rank), 4, what="h where B is zero"
)
### END HIDDEN TESTS

# %% [markdown]
# ## Task 5: initialise LoRA
#
# *Difficulty ●●○ · 3 points · 15 minutes*
#
# At the start the network must predict exactly as before, and yet be able to learn. So $B$ is zero and $A$ is random:
# `torch.randn(rank, in_features, generator=generator)`, divided by $\sqrt{\text{in\_features}}$. (If both were zero, no
# gradient would reach either.)
#
# Return the pair `A, B` as tensors that an optimizer accepts: they require a gradient, and they are *leaves*, not
# results of a recorded computation.
#
# If the rank is not a whole number from 1 to the smaller of the two sides, raise a `ValueError`: a larger one would
# cost more than $W$ and represent no more.
#
# <details><summary>Hint</summary>
#
# A tensor becomes a leaf that requires a gradient if it is computed first and asked to require a gradient last. How do
# you test for a whole number in Python?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "start-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def initial_lora(in_features, out_features, rank, generator):
    """A (rank, in_features), random, and B (out_features, rank), zero; both float32 leaves that require a gradient."""
    ### BEGIN SOLUTION
    if not isinstance(rank, int) or not 1 <= rank <= min(in_features, out_features):
        raise ValueError(f"the rank must be a whole number from 1 to {min(in_features, out_features)}, not {rank!r}")
    A = torch.randn(rank, in_features, generator=generator) / in_features**0.5
    return A.requires_grad_(), torch.zeros(out_features, rank, requires_grad=True)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "start-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.initial_lora(initial_lora)

# %% nbgrader={"grade": true, "grade_id": "start-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: other sizes and seeds, the largest rank, ranks that are too small, too large or no whole number.
### BEGIN HIDDEN TESTS
_tested = check.Student(initial_lora)
for _in, _out, _rank in [(4, 9, 4), (9, 4, 4), (64, 64, 1), (1, 1, 1)]:
    _A, _B = _tested(_in, _out, _rank, check.generator(_in))
    _right = torch.randn(_rank, _in, generator=check.generator(_in)) * _in**-0.5
    assert torch.allclose(_A, _right), "A is not the numbers that the generator draws, divided by √in_features"
    assert _A.is_leaf and _B.is_leaf and _A.requires_grad and _B.requires_grad, "A and B are no leaves with a gradient"
    assert _B.shape == (_out, _rank) and not _B.any(), "B is not zero, of shape (out_features, rank)"
for _rank in (0, -1, 5, 1.5):
    try:
        _tested(9, 4, _rank, torch.Generator().manual_seed(0))
    except check.Wrong as _error:
        if "stopped with ValueError" in str(_error):
            continue
    raise AssertionError(f"rank {_rank} for 9 in and 4 out must end in a ValueError")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 6: merge LoRA into the weight
#
# *Difficulty ●●○ · 3 points · 10 minutes*
#
# Two more matrix products cost time at each call. After training, the product can be added to the weight once:
#
# $$W' = W + \frac{\alpha}{r}\, B A, \qquad W' x = W x + \frac{\alpha}{r}\, B A x \quad \text{for every } x .$$
#
# Return $W'$ as a new tensor without a gradient, and leave $W$ as it is: subtracting $BA$ later does not restore the
# last bits of $W$. $A$ and $B$ are at least float32, $W$ may be in half precision. Add before you round, and round
# once, to the dtype of $W$.
#
# <details><summary>Hint</summary>
#
# In which dtype does PyTorch add a float16 and a float32 tensor? Where must the conversion to the dtype of $W$ be?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "merge-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def merged_weight(W, A, B, alpha):
    """W' (out, in) in the dtype of W and without a gradient, from W (out, in), A (r, in), B (out, r) and the number α."""
    ### BEGIN SOLUTION
    return (W + alpha / len(A) * B @ A).detach().to(W.dtype)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "merge-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.merged_weight(merged_weight)

# %% nbgrader={"grade": true, "grade_id": "merge-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: square matrices, rank 1, W in half and in double precision; the same outputs as with separate LoRA.
### BEGIN HIDDEN TESTS
_tested = check.Student(merged_weight)
for _in, _out, _rank, _alpha, _dtype in [(3, 2, 1, 4, torch.float32), (4, 4, 2, 1, torch.float64),
                                         (5, 6, 2, 4, torch.float16), (8, 8, 2, 1, torch.bfloat16)]:  # fmt: skip
    _g = check.generator(_in)
    _fine = torch.float64 if _dtype == torch.float64 else torch.float32
    _W = torch.randn(_out, _in, generator=_g, dtype=_fine)
    if _fine == torch.float32:  # multiples of powers of 2 are added without an error: only the last rounding is left
        _W = ((128 * _W).round().clamp(-128, 128) / 128).to(_dtype)
    _A = torch.randint(-1024, 1025, (_rank, _in), generator=_g).to(_fine) / 1024
    _B = torch.randint(-1024, 1025, (_out, _rank), generator=_g).to(_fine) / 1024
    _each = torch.eye(_in, dtype=_fine)  # with one input at a time, the outputs are the weight's columns
    _apart = _each @ _W.to(_fine).T + _alpha / _rank * (_each @ _A.T @ _B.T)
    _ = _tested.gives(_apart.T.to(_dtype), _W, _A, _B, _alpha, what="W'")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 7: which parameters does adaptation change in CLIP?
#
# *Difficulty ●●● · 9 points · 35 minutes*
#
# An experiment. Adapt CLIP to three portraits with LoRA, and examine $BA$ afterwards, for the queries (q) and the
# values (v) of each layer. Print, averaged over the portraits,
#
# * the size of $BA$ relative to the $W$ it is added to, $\lVert BA \rVert / \lVert W \rVert$;
# * the fraction of $\lVert BA \rVert^2$ in its *first singular value*: 1 means that the update has one direction.
#
# The code is not run against tests; your answer below it is graded by a person, by the table.
#
# Begin with these lines. Within the loop the parameters stay adapted after `tta(x)`, until `tta.reset()`:
#
# ```python
# import dtta
# from dtta.core.lora import lora_updates
# from dtta.evaluation.evaluate import image_generator
# from dtta.methods import build
#
# problem = dtta.load("scenes-clip")
# tta = build(problem, "diffusion-tta", episodic=False)  # LoRA of rank 4 on queries and values, five steps of SGD
# for number in check.numbers(500, 3):  # the validation portraits of your variant
#     x, label = problem.image(number, "contrast", 3, "validation")
#     tta(x, image_generator(SEED, number))
#     for name, BA in lora_updates(problem.model).items():  # by layer: "....layers.0.self_attn.q_proj"
#         W = problem.model.get_submodule(name).weight
#         ...
#     tta.reset()
# ```
#
# <details><summary>Hint</summary>
#
# `torch.linalg` computes singular values without the vectors. What is the sum of their squares?
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "experiment-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
import dtta
from dtta.core.lora import lora_updates
from dtta.evaluation.evaluate import image_generator
from dtta.methods.registry import build

problem = dtta.load("scenes-clip")
tta = build(problem, "diffusion-tta", episodic=False)
sizes, shares = {}, {}
for number in check.numbers(500, 3):
    x, label = problem.image(number, "contrast", 3, "validation")
    tta(x, image_generator(SEED, number))
    for name, BA in lora_updates(problem.model).items():
        W = problem.model.get_submodule(name).weight
        squares = torch.linalg.svdvals(BA).square()
        sizes.setdefault(name, []).append((BA.norm() / W.norm()).item())
        shares.setdefault(name, []).append((squares[0] / squares.sum()).item())
    tta.reset()
for name in sizes:
    layer, kind = name.split(".layers.")[1].split(".")[0], name[-6]
    print(f"layer {layer}, {kind}: size {sum(sizes[name]) / 3:.1e}, first direction {sum(shares[name]) / 3:.2f}")
### END SOLUTION

# %% [markdown]
# What did you find, and **why** is it so? Answer in five to ten sentences:
#
# * Which of the two, queries or values, changes more? Which of them can change *what* the network takes from a patch,
#   and which only *from where*?
# * How many directions does the update for one portrait use? What does that say about the rank?
# * At the start $B = 0$. Which of $A$ and $B$ gets a gradient at the first step, and why does that need a large
#   learning rate?
#
# | criterion | 0 | 1 | 2 | 3 |
# |---|---|---|---|---|
# | **What was run** | nothing was printed | a part of the measurement | the whole measurement, with settings and the number of images | and a control of your own: another seed, more images or another setting, with what it changes |
# | **How the numbers are read** | no statement, or one that your numbers contradict | statements without numbers | each statement names the numbers that support it | and says how uncertain they are and which differences they do not establish |
# | **Reasons and limits** | none | a reason without a link to the numbers | a reason that would predict these numbers, and what follows from it in practice | and an observation that would refute the reason, or a limit that would change what follows |

# %% [markdown] nbgrader={"grade": true, "grade_id": "experiment-text", "locked": false, "points": 9, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# In every layer the update of the values is larger than that of the queries, relative to their weight matrices: 4 to 6
# percent against about 1 percent. A value is what a patch passes on; a query only decides from which patches it is
# taken, through a softmax whose gradient is small where attention is spread out or settled. So the values are the more
# direct way to another prediction. This is a hypothesis: to test it, adapt only the queries at a larger learning rate;
# if the prediction then changes as much, it is wrong. The first singular value holds 0.61 to 1.00 of the squared size,
# so the update for one portrait is close to one or two directions, and a rank of 4 is more than it uses. That fits the
# task: one portrait, one belief to change. At the first step the gradient at A is a product with B, which is zero, so A
# does not change and only B does; the gradient at B is a product with A, which is small. BA therefore grows slowly at
# first, and since the loss is a mean over pixels that changes little with the name, the learning rate has to be far
# larger than for whole weight matrices. Three portraits under one shift at one learning rate are few. I would repeat
# this over shifts, and with rank 1 and 8.
# ### END SOLUTION

# %% [markdown] key="experiment-text"
# **What the reference prints** under five variants:
#
# * Relative to their weights the values change three to twenty-five times as much as the queries, in all layers.
# * The first singular value holds more than half of the squared size in every layer.
# * The update with the weakest first direction is that of the values of layer 0 or layer 1, at 0.61 to 0.67.
#
# **Reading**: level 2 needs a statement about q and v with numbers, and one about the rank; level 3 also says that
# three portraits leave the sizes uncertain by a factor of two or more, or compares portraits.
#
# **Reasons**: values carry what is passed on, queries select from where (called a hypothesis, or tested); at the first
# step only B has a gradient, since A's is a product with B = 0. An answer that says that A learns first has it the
# wrong way round. That rank 1 suffices for all layers is contradicted by the values of layer 1 (0.61 to 0.67).
