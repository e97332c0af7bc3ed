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
# After [chapter 06](../06_open_vocabulary.ipynb). You build what a CLIP classifier does with its vectors, mix prompts
# token by token, write LoRA from nothing, merge it into a weight, and then look at what it moves when CLIP is adapted to one portrait.
#
# **24 points, about 110 minutes.** All of it runs on a CPU in seconds. In each task you write the body of one function,
# where `...` stands. The cell below it checks what you wrote and says what it found; run it as often as you like. When
# your work is graded, the same cell and some hidden tests run again. Tasks do not depend on each other, and you may
# add cells of your own. Do not edit the cells that check.

# %% nbgrader={"grade": false, "grade_id": "setup", "locked": true, "schema_version": 3, "solution": false, "task": false}
import torch

from dtta.course import check

SEED = check.variant(0)  # the data of the checks and of the experiment

# %% [markdown]
# ## Task 1: logits from angles
#
# *Difficulty ●○○ · 3 points · 10 minutes*
#
# CLIP turns images and sentences into vectors. How well they fit is the cosine of the angle between them. The cosines
# are multiplied by a learnt number, stored as its logarithm $\tau$:
#
# $$\text{logit}_{nj} = e^{\tau} \cos(\text{image}_n, \text{text}_j), \qquad
# \cos(a, b) = \frac{a \cdot b}{\lVert a \rVert\, \lVert b \rVert} .$$
#
# The vectors come in any length; keep their dtype.
#
# <details><summary>Hint</summary>
#
# First make all rows unit vectors: divide by `norm(dim=1, keepdim=True)`. Then one matrix product gives all cosines.
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
# again. Without the first step a template whose vectors are long would speak louder than the others.
#
# <details><summary>Hint</summary>
#
# Which axis holds the numbers of a vector, and which the templates? `torch.nn.functional.normalize` has an argument `dim`.
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
# A text-to-image model is told its prompt as one vector for *each token*. So the embedding $\ell_j$ of a name is a matrix,
# tokens by numbers, and the network's belief mixes them place by place:
#
# $$c_n = \sum_j y_{nj}\, \ell_j, \qquad y_n = \mathrm{softmax}(\text{logits}_n) .$$
#
# Whatever the dtypes that come in, compute in float32 and return float32. The condition must carry a gradient to the
# logits: through it the network learns.
#
# <details><summary>Hint</summary>
#
# `torch.einsum("nl,ltd->ntd", ...)` names the axes and sums over l. Which axis of the logits holds the names?
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "tokens-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def token_mixture(logits, embeddings):
    """The condition c (N, tokens, D) in float32, from logits (N, L) and prompt embeddings (L, tokens, D)."""
    ### BEGIN SOLUTION
    y = logits.float().softmax(1)
    return torch.einsum("nl,ltd->ntd", y, embeddings.float())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "tokens-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.token_mixture(token_mixture)

# %% nbgrader={"grade": true, "grade_id": "tokens-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: one image, one token, equal sides, a very sure network, half precision, the gradient's value.
### BEGIN HIDDEN TESTS
_tested = check.Student(token_mixture)
for _n, _l, _shape, _dtype in [(1, 5, (7, 3), torch.float32), (4, 4, (4, 4), torch.float32),
                               (2, 3, (1, 6), torch.float16), (3, 2, (5, 2), torch.bfloat16)]:  # fmt: skip
    _g = check.generator(_l)
    _logits = (8 * torch.randn(_n, _l, generator=_g)).to(_dtype)
    _prompts = torch.randn(_l, *_shape, generator=_g).to(_dtype)
    _y = torch.stack([row.double().exp() / row.double().exp().sum() for row in _logits])
    _right = torch.stack([sum(y * p.double() for y, p in zip(row, _prompts, strict=True)) for row in _y])
    _tested.gives(_right.float(), _logits, _prompts, what="c")
_sure = torch.tensor([[0.0, 200.0, -200.0]])
_prompts = torch.arange(12.0).view(3, 2, 2)
_tested.gives(_prompts[[1]], _sure, _prompts, what="c")
_logits = torch.zeros(1, 2, requires_grad=True)
_c = _tested(_logits, torch.tensor([[[1.0]], [[3.0]]]))
assert _c.requires_grad, "no gradient reaches the logits"
assert torch.allclose(torch.autograd.grad(_c.sum(), _logits)[0], torch.tensor([[-0.5, 0.5]])), (
    "the gradient at logit j is y_j (l_j - c)"
)
### END HIDDEN TESTS

# %% [markdown]
# ## Task 4: LoRA's forward pass
#
# *Difficulty ●●○ · 3 points · 15 minutes*
#
# A linear layer multiplies its input by a weight matrix $W$ (out, in). LoRA leaves $W$ alone and adds the product of two
# thin matrices, $A$ (r, in) and $B$ (out, r), times $\alpha / r$:
#
# $$h = W x + \frac{\alpha}{r}\, B A x .$$
#
# In PyTorch inputs are *rows*, so the layer computes `x @ W.T`. Write it for `x` of shape (..., in) with any number of
# axes in front. $W$ is frozen: only $A$ and $B$ get a gradient, even where the $W$ you are given asks for one.
#
# <details><summary>Hint</summary>
#
# Multiply from the right: first by A, which gives r numbers, then by B. Never make the large matrix BA. `.detach()` cuts a
# tensor off from the gradient. Which side of A tells you r?
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
# ## Task 5: where LoRA starts
#
# *Difficulty ●●○ · 3 points · 15 minutes*
#
# At the start the network must answer exactly as before, and yet be able to learn. So $B$ is zero and $A$ is random:
# `torch.randn(rank, in_features, generator=generator)`, divided by $\sqrt{\text{in\_features}}$. (If both were zero, no
# gradient would reach either.)
#
# Return the pair `A, B` as tensors that an optimizer can move: they ask for a gradient, and are *leaves*: made by
# nobody's computation.
#
# If the rank is not a whole number from 1 to the smaller of the two sides, raise a `ValueError`: a larger one would
# cost more than $W$ and could say no more.
#
# <details><summary>Hint</summary>
#
# `(torch.randn(...) / s).requires_grad_()` is a leaf: it asks for the gradient *after* the division. `isinstance(rank, int)`.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "start-answer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def lora_start(in_features, out_features, rank, generator):
    """A (rank, in_features), random, and B (out_features, rank), zero; both float32 leaves that ask for a gradient."""
    ### BEGIN SOLUTION
    if not isinstance(rank, int) or not 1 <= rank <= min(in_features, out_features):
        raise ValueError(f"the rank must be a whole number from 1 to {min(in_features, out_features)}, not {rank!r}")
    A = torch.randn(rank, in_features, generator=generator) / in_features**0.5
    return A.requires_grad_(), torch.zeros(out_features, rank, requires_grad=True)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "start-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.lora_start(lora_start)

# %% nbgrader={"grade": true, "grade_id": "start-hidden", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Hidden tests run here: other sizes and seeds, the largest rank, ranks that are too small, too large or no whole number.
### BEGIN HIDDEN TESTS
_tested = check.Student(lora_start)
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
# To run two thin matrices beside $W$ costs time at each call. When LoRA has learnt, one can add them to the weight once
# and for all:
#
# $$W' = W + \frac{\alpha}{r}\, B A, \qquad W' x = W x + \frac{\alpha}{r}\, B A x \quad \text{for every } x .$$
#
# Return $W'$ as a new tensor without a gradient, and leave $W$ as it is: who subtracts $BA$ again does not get the last bits
# of $W$ back. $A$ and $B$ are at least float32, $W$ may be in half precision. Add before you round, and round once, to the
# dtype of $W$.
#
# <details><summary>Hint</summary>
#
# PyTorch adds a float16 and a float32 tensor in float32. `.to(W.dtype)` rounds.
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
# Hidden tests run here: square matrices, rank 1, W in half and in double precision; the same answers as with LoRA beside.
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
    _each = torch.eye(_in, dtype=_fine)  # with one input at a time, the answers are the weight's columns
    _beside = _each @ _W.to(_fine).T + _alpha / _rank * (_each @ _A.T @ _B.T)
    _ = _tested.gives(_beside.T.to(_dtype), _W, _A, _B, _alpha, what="W'")
### END HIDDEN TESTS

# %% [markdown]
# ## Task 7: what moves in CLIP?
#
# *Difficulty ●●● · 5 points · 35 minutes*
#
# An experiment. Adapt CLIP to three portraits with LoRA, and look at $BA$ afterwards, for the queries (q) and the values
# (v) of each layer. Print, as a mean over the portraits,
#
# * the size of $BA$ beside the $W$ it is added to, $\lVert BA \rVert / \lVert W \rVert$;
# * the share of $\lVert BA \rVert^2$ that its *first singular value* holds: 1 means that one direction says it all.
#
# Begin with these lines. Within the loop the weights stay adapted after `tta(x)`, until `tta.reset()`:
#
# ```python
# import dtta
# from dtta.evaluation.evaluate import image_generator
# from dtta.methods import build
# from dtta.core.parameters import lora_updates
#
# problem = dtta.load("scenes-clip")
# tta = build(problem, "diffusion-tta", episodic=False)  # LoRA of rank 4 on queries and values, five steps of SGD
# for number in range(3):
#     x, label = problem.image(number, "contrast", 3, "validation")
#     tta(x, image_generator(0, number))
#     for name, BA in lora_updates(problem.model).items():  # by layer: "....layers.0.self_attn.q_proj"
#         W = problem.model.get_submodule(name).weight
#         ...
#     tta.reset()
# ```
#
# <details><summary>Hint</summary>
#
# `torch.linalg.svdvals(BA)` gives the singular values, the largest first. Their squares add up to $\lVert BA \rVert^2$.
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
# * Which of the two, queries or values, moves more? Which of them can change *what* the network makes of a patch, and
#   which only *where* it looks?
# * How many directions does one portrait's update use? What does that say about the rank?
# * At the start $B = 0$. Which of $A$ and $B$ gets a gradient at the first step, and why does that ask for a large rate?
#
# | points | for |
# |---|---|
# | 1 | the two numbers for each matrix, and a statement about queries and values that they support |
# | 1 | values carry what is passed on, queries only decide from where: a reason for the difference, said as a guess or tested |
# | 1 | a statement on the rank, from the singular values: one direction holds most of the update, so a small rank suffices here |
# | 1 | at the first step only B has a gradient (A's is a product with B = 0), so BA grows slowly at first |
# | 1 | a limit of the experiment: three portraits, one shift, one rate; and what one would measure next |

# %% [markdown] nbgrader={"grade": true, "grade_id": "experiment-text", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# The values move more than the queries in every layer that I looked at, several times as much beside their own weight
# matrix. A value is what a patch passes on; a query only decides from which patches it is taken, through a softmax whose
# gradient is small where attention is spread out or settled. So the shortest way to another answer leads through the
# values. I take this as a likely reason; to test it one would let each of them move alone.
# The first singular value holds most of the squared size, so one portrait's update is close to one direction and a rank of
# one or two would say nearly the same. That fits the task: one portrait, one belief to move.
# At the first step the gradient at A is a product with B, which is zero, so A stands still and only B moves; the gradient at
# B is a product with A, which is small. BA therefore starts slowly, and since the loss is a mean over pixels and changes
# little with the name, the rate has to be far larger than for whole weights.
# Three portraits under one shift at one rate are few: I would repeat this over shifts, and with rank 1 and 8.
# ### END SOLUTION
