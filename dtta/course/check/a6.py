"""Checks of assignment 6: CLIP's logits and templates, prompts mixed token by token, LoRA, and LoRA merged."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dtta.course.judge import Student, Wrong, public
from dtta.course.runner.variants import generator, normal


@public
def clip_logits(student: Student) -> None:
    """e^τ times the cosines of all images (N, D) with all sentences (L, D)."""
    image, text, tau = 3 * normal(2, 5), normal(4, 5, seed=1) / 2, torch.tensor(1.5)
    cosine = normalize(image, dim=1) @ normalize(text, dim=1).T
    student.gives(
        tau.exp() * cosine,
        image, text, tau,
        what="the logits",
        reasons={
            "these are the cosines; the temperature e^τ is missing": cosine,
            "τ is a logarithm: multiply by e^τ, not by τ": tau * cosine,
            "the cosines are divided by e^τ; they are multiplied by it": cosine / tau.exp(),
            "neither of the two was made a unit vector": tau.exp() * image @ text.T,
            "the images were made unit vectors, the sentences not": tau.exp() * normalize(image, dim=1) @ text.T,
            "the sentences were made unit vectors, the images not": tau.exp() * image @ normalize(text, dim=1).T,
            "normalized along the wrong axis: each row is a vector": tau.exp()
            * normalize(image, dim=0)
            @ normalize(text, dim=0).T,
            "divided by the norm of the whole matrix; divide each row by its norm": tau.exp()
            * image
            @ text.T
            / (image.norm() * text.norm()),
            "this is the softmax of the logits": (tau.exp() * cosine).softmax(1),
        },
    )  # fmt: skip


@public
def name_vectors(student: Student) -> None:
    """Unit vectors (S, L, D), their mean over the S templates, made unit vectors again (L, D)."""
    length = torch.tensor([[1.0, 4.0], [0.2, 1.0], [3.0, 0.5]])[..., None]
    vectors = length * normal(3, 2, 4)
    mean = normalize(vectors, dim=2).mean(0)
    student.gives(
        normalize(mean, dim=1),
        vectors,
        what="the vectors of the names",
        reasons={
            "the mean of unit vectors is shorter than 1: make it a unit vector again": mean,
            "each vector must be a unit vector before the mean: here the long ones count more": normalize(
                vectors.mean(0), dim=1
            ),
            "no vector was made a unit vector": vectors.mean(0),
            "only the first template counts": normalize(vectors[0], dim=1),
            "normalized along the templates, not along the numbers of a vector": normalize(
                normalize(vectors, dim=0).mean(0), dim=1
            ),
            "normalized along the names, not along the numbers of a vector": normalize(
                normalize(vectors, dim=1).mean(0), dim=1
            ),
        },
    )


@public
def token_mixture(student: Student) -> None:
    """c = Σ_j y_j l_j token by token: logits (N, L), prompts (L, tokens, D) -> (N, tokens, D), with a gradient."""
    logits, prompts = 2 * normal(2, 3), normal(3, 4, 5, seed=1)
    logits.requires_grad_()

    def mix(weights: Tensor) -> Tensor:
        return torch.einsum("nl,ltd->ntd", weights, prompts)

    y = logits.softmax(1)
    student.gives(
        mix(y),
        logits, prompts,
        what="c",
        reasons={
            "the softmax is missing: the logits themselves were the weights": mix(logits),
            "softmax over the images, not over the names": mix(logits.softmax(0)),
            "only the likeliest name counts; all are mixed": prompts[logits.argmax(1)],
            "the mean over the names, whatever the network believes": mix(torch.full_like(y, 1 / 3)),
            "all tokens got the mean over the tokens: mix each token separately": mix(y)
            .mean(1, keepdim=True)
            .expand(-1, 4, -1),
            "softmax twice": mix(y.softmax(1)),
            "this is log-softmax": mix(y.log()),
        },
    )  # fmt: skip


@public
def lora_output(student: Student) -> None:
    """h = W x + α/r B A x for x (..., in), with a gradient to A and B and none to W."""
    x, W = normal(2, 3, 5), normal(4, 5, seed=1).requires_grad_()
    A, B = normal(2, 5, seed=2).requires_grad_(), normal(4, 2, seed=3).requires_grad_()
    alpha, plain, added = 6.0, x @ W.detach().T, x @ A.T @ B.T
    came = student.gives(
        plain + 3 * added,
        x, W, A, B, alpha,
        what="h",
        reasons={
            "the factor α/r is missing": plain + added,
            "multiplied by α; the factor is α/r": plain + 6 * added,
            "multiplied by r/α; the factor is α/r": plain + added / 3,
            "α was divided by another side than the rank r, the length of A": plain + 6 / 5 * added,
            "α was divided by another side than the rank r, the width of B": plain + 6 / 4 * added,
            "W x is missing": 3 * added,
            "B A x is missing": plain,
            "only B A x has the factor α/r": 3 * (plain + added),
            "subtracted instead of added": plain - 3 * added,
        },
    )  # fmt: skip
    grads = torch.autograd.grad(came.sum(), [W, A, B], allow_unused=True)
    if grads[0] is not None:
        student.fail("lets a gradient reach W. W is frozen: use W.detach()")
    for name, grad in zip("AB", grads[1:], strict=True):
        if grad is None:
            student.fail(f"lets no gradient reach {name}, so it could not be trained")


@public
def merged_weight(student: Student) -> None:
    """W' = W + α/r B A in the dtype of W, new, without a gradient."""
    W, A, B = (normal(*shape, seed=i).requires_grad_() for i, shape in enumerate([(4, 5), (2, 5), (4, 2)]))
    alpha, update = 6.0, (B @ A).detach()
    frozen = W.detach()
    came = student.gives(
        frozen + 3 * update,
        W, A, B, alpha,
        what="W'",
        reasons={
            "the factor α/r is missing": frozen + update,
            "multiplied by α; the factor is α/r": frozen + 6 * update,
            "multiplied by r/α; the factor is α/r": frozen + update / 3,
            "α was divided by another side than the rank r, the length of A": frozen + 6 / 5 * update,
            "α was divided by another side than the rank r, the width of B": frozen + 6 / 4 * update,
            "this is only α/r B A; W is missing": 3 * update,
            "only B A has the factor α/r": 3 * (frozen + update),
            "subtracted instead of added": frozen - 3 * update,
            "this is W as it was": frozen,
        },
    )  # fmt: skip
    if came.requires_grad:
        student.fail("returns W' with a gradient. What is merged no longer learns: use `.detach()`")


@public
def initial_lora(student: Student) -> None:
    """A random (rank, in), B zero (out, rank), leaves that ask for a gradient; other ranks end in a ValueError."""
    inside, out, rank = 6, 5, 2
    pair = student(inside, out, rank, generator(3))
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(p, Tensor) for p in pair):
        student.fail("should return two tensors: return A, B")
    A, B = pair
    for name, value, shape in (("A", A, (rank, inside)), ("B", B, (out, rank))):
        if value.shape != shape:
            student.fail(
                f"gives {name} the shape {tuple(value.shape)}; for {inside} in, {out} out, rank {rank} it is {shape}"
            )
        if not value.requires_grad:
            student.fail(f"returns {name} without a gradient: no optimizer could move it. Use requires_grad_()")
        if not value.is_leaf:
            student.fail(
                f"returns {name} as the result of a computation, which no optimizer takes. Call requires_grad_() last"
            )
    if B.any():
        student.fail("does not start from B = 0, so that the network predicts something else from the start")
    if not A.any():
        student.fail("starts from A = 0; with B = 0 too, no gradient reaches either of them")
    drawn = torch.randn(rank, inside, generator=generator(3))
    reason = (
        "Is it drawn with the generator it was given?"
        if not torch.allclose(A, drawn)
        else "The √in_features is missing"
    )
    if torch.allclose(A, (A / drawn).mean() * drawn) and not torch.allclose(A, drawn):
        reason = "Divide by the square root of in_features"
    if not torch.allclose(A, drawn / inside**0.5, atol=1e-6):
        student.fail(f"gives other numbers than expected for A. {reason}")
    try:
        student(inside, out, 0, generator(3))
    except Wrong as error:
        if "stopped with ValueError" in str(error):
            return
        raise
    student.fail("takes rank 0 without a word: raise a ValueError")
