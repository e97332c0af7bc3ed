"""Checks of assignment 3: Algorithm 1, its reset, TENT and its gradient, and the interval of a gain."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dtta.course.judge import Student, public
from dtta.course.reasons import compare, likely
from dtta.course.runner.variants import generator, normal


def _network(seed: int, *layers: nn.Module) -> nn.Module:
    network, g = nn.Sequential(*layers), generator(seed)
    for p in network.parameters():
        p.data = torch.randn(p.shape, generator=g)
    return network.eval()


def _flat(parameters) -> Tensor:
    return torch.cat([p.detach().flatten() for p in parameters])


def _moved(student: Student, came: Tensor, expected: Tensor, start: Tensor, reasons: Mapping[str, Tensor]) -> None:
    """Compare by how much the weights have moved."""
    if torch.allclose(came, expected, atol=1e-5):
        return
    reason = "the parameters have not changed at all" if torch.equal(came, start) else None
    reason = reason or likely(came - start, expected - start, {name: w - start for name, w in reasons.items()}, 1e-4)
    _, right, wrong = compare(came - start, expected - start)
    lines = [
        "changes the parameters otherwise than expected",
        f"  change, expected:  {right}",
        f"  change, came:      {wrong}",
        *([f"  a likely reason: {reason}"] if reason else []),
    ]
    student.fail("\n".join(lines))


def _cut_off(student: Student, came: Tensor, what: str) -> None:
    if came.requires_grad:
        student.fail(
            f"returns {what} with a gradient: whoever keeps it keeps the whole graph in memory. Use `.detach()`"
        )


@public
def adapt_step(student: Student) -> None:
    """Belief, mixture, mean loss over the pairs, one step of the optimizer; returns the loss before it."""
    network = _network(0, nn.Flatten(), nn.Linear(4, 3))
    x, l, z0 = 0.3 * normal(1, 1, 2, 2), normal(3, 2, seed=1), normal(1, 2, 1, 1, seed=2)
    t, noise, rate = torch.tensor([1, 4, 2, 6]), normal(4, 2, 1, 1, seed=3), 0.5

    def score(z: Tensor, t_: Tensor, e: Tensor, c: Tensor) -> Tensor:
        return t_ * (z + e - c[:, :, None, None]).square().sum((1, 2, 3))

    def loss(z: Tensor, t_: Tensor, e: Tensor, c: Tensor) -> Tensor:
        sizes = {len(value) for value in (z, t_, e, c)}
        if len(sizes) > 1:
            found = ", ".join(str(tuple(value.shape)) for value in (z, t_, e, c))
            student.fail(f"calls loss with batches of different lengths: {found}. expand makes them one length")
        return score(z, t_, e, c)

    def run(belief=lambda z: z.softmax(1)) -> Tensor:
        return score(z0, t, noise, (belief(network(x)) @ l).expand(4, -1))

    weights = list(network.parameters())
    grads = torch.cat([g.flatten() for g in torch.autograd.grad(run().mean(), weights)])
    start = _flat(weights)
    by_logits = torch.cat([g.flatten() for g in torch.autograd.grad(run(lambda z: z).mean(), weights)])
    for p in weights:
        p.grad = torch.ones_like(p)
    right = run().mean().detach()
    came = student.gives(
        right,
        network, loss, l, torch.optim.SGD(weights, lr=rate), x, z0, t, noise,
        what="the loss",
        reasons={
            "the sum over the pairs instead of their mean": run().sum(),
            "the logits themselves were mixed; their softmax is the belief": run(lambda z: z).mean(),
            "only the likeliest class was taken; the mixture takes all": run(
                lambda z: nn.functional.one_hot(z.argmax(1), 3).float()
            ).mean(),
            "only the first pair counts": run()[0],
        },
    )  # fmt: skip
    _moved(
        student,
        _flat(weights),
        start - rate * grads,
        start,
        {
            "old gradients were not put to zero: zero_grad before backward": start - rate * (grads + 1),
            "the step goes uphill": start + rate * grads,
            "backward started from the sum over the pairs instead of their mean": start - 4 * rate * grads,
            "the belief in the loss that backward started from is not the softmax": start - rate * by_logits,
        },
    )
    _cut_off(student, came, "the loss")


@public
def adapt_and_restore(student: Student) -> None:
    """So many steps, the answer with the weights that they leave, and the weights as before."""
    network = _network(1, nn.Linear(3, 2))
    weights, x = list(network.parameters()), normal(2, 3)
    kept = [p.detach().clone() for p in weights]
    called = []

    def step() -> None:
        called.append(1)
        with torch.no_grad():
            weights[0].mul_(1.5)
            weights[1].add_(0.25)

    def answer(steps: int) -> Tensor:
        return x @ (kept[0] * 1.5**steps).T + kept[1] + 0.25 * steps

    came = student.gives(
        answer(3),
        network, step, 3, x,
        what="the logits",
        reasons={
            "the parameters were restored before the network was evaluated": answer(0),
            "a step too few": answer(2),
            "a step too many": answer(4),
            "the network was evaluated before the last step": answer(2),
            "one step, whatever `steps` says": answer(1),
        },
    )  # fmt: skip
    if any(p is not q for p, q in zip(network.parameters(), weights, strict=True)):
        student.fail("gives the network other tensors; the optimizer still holds the old ones. Use copy_")
    if not all(torch.equal(p, old) for p, old in zip(weights, kept, strict=True)):
        student.fail(
            "does not restore the parameters.\n"
            "  a likely reason: they were kept without `clone`, so the copy changed with them"
        )
    if came.requires_grad:
        student.fail("returns logits with a gradient: evaluate the network under torch.no_grad()")
    if len(called) != 3:
        student.fail(f"calls step {len(called)} times; steps is 3")


@public
def tent_step(student: Student) -> None:
    """One step downhill on the mean entropy, of the normalisation layers' scales and shifts alone."""
    network = _network(2, nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    x, rate = normal(5, 3, seed=1), 0.1
    start = _flat(network.parameters())
    norm = torch.cat([torch.full_like(p, float(n.startswith("1."))).flatten() for n, p in network.named_parameters()])
    log_y = network(x).log_softmax(1)
    entropy = -(log_y.exp() * log_y).sum(1)
    down = torch.cat([g.flatten() for g in torch.autograd.grad(entropy.mean(), list(network.parameters()))])
    log_y, entropy = log_y.detach(), entropy.detach()
    across = network(x).log_softmax(0).detach()
    came = student.gives(
        entropy.mean(),
        network, x, rate,
        what="the mean entropy",
        reasons={
            "the sum over the images instead of their mean": entropy.sum(),
            "the mean over the classes instead of their sum": entropy.mean() / 3,
            "the softmax runs over the images; it must run over the classes": -(across.exp() * across).sum(0).mean(),
            "minus is missing: entropy is never below 0": -entropy.mean(),
            "this is the entropy of the mean belief, not the mean entropy": -(
                log_y.exp().mean(0) * log_y.exp().mean(0).log()
            ).sum(),
        },
    )  # fmt: skip
    _moved(
        student,
        _flat(network.parameters()),
        start - rate * norm * down,
        start,
        {
            "all parameters changed; TENT changes only the normalisation layers": start - rate * down,
            "the step goes uphill: the network becomes less confident": start + rate * norm * down,
            "all but the normalisation layers changed": start - rate * (1 - norm) * down,
            "the step follows the sum over the images instead of their mean": start - 5 * rate * norm * down,
        },
    )
    _cut_off(student, came, "the entropy")


@public
def entropy_gradient(student: Student) -> None:
    """∂H/∂z_j = - y_j (log y_j + H), for each image."""
    logits = 1.5 * normal(2, 4)
    log_y = logits.log_softmax(1)
    y = log_y.exp()
    H = -(y * log_y).sum(1, keepdim=True)
    right = -y * (log_y + H)
    with torch.inference_mode():
        student.gives(
            right,
            logits,
            what="the gradient at the logits",
            reasons={
                "the sign is the wrong way round: this lowers the entropy": -right,
                "H is missing": -y * log_y,
                "H has the wrong sign: it is - Σ y log y, and above 0": -y * (log_y - H),
                "the factor y_j is missing": -(log_y + H),
                "this is the gradient at the beliefs, not at the logits": -(log_y + 1),
                "H was added up over all images; each image has one": -y * (log_y + H.sum()),
                "this is the gradient of the mean entropy; the task asks for that of each image's entropy": right / 2,
            },
        )


@public
def paired_interval(student: Student) -> None:
    """The ends between which a share `level` of the resampled mean gains lies."""
    g = generator(4)
    before, after = torch.rand(6, generator=g), torch.rand(6, generator=g)
    draws, level = torch.randint(6, (60, 6), generator=g), 0.8
    gain, ends = after - before, torch.tensor([0.1, 0.9])
    means = gain[draws].mean(1)
    b, a = before[draws].mean(1).quantile(ends), after[draws].mean(1).quantile(ends)
    right = means.quantile(ends)
    student.gives(
        right,
        before, after, draws, level,
        what="the interval",
        reasons={
            "the gain is after minus before": (-means).quantile(ends),
            "not paired: the intervals of before and after were taken apart": torch.stack([a[0] - b[1], a[1] - b[0]]),
            "not paired: ends of before and after were subtracted": a - b,
            "these are quantiles of single images' gains; resample their mean": gain.quantile(ends),
            "1 - level was left out at each side; it must be half of that": means.quantile(torch.tensor([0.2, 0.8])),
            "this leaves out 2.5% at each side, whatever the level": means.quantile(torch.tensor([0.025, 0.975])),
            "the mean runs over the resamples; it must run over the images of each": gain[draws].mean(0).quantile(ends),
            "the sum over the images instead of their mean": 6 * right,
            "the ends are swapped: the low one comes first": right.flip(0),
        },
    )  # fmt: skip


@public
def evaluate_episodic(student: Student) -> None:
    """Whether each image is right before and after adaptation, each from the same network, which stays as it was."""
    n, network = 16, _network(5, nn.Linear(4, 3))
    images, labels = normal(n, 4), torch.randint(3, (n,), generator=generator(1))
    start = [p.detach().clone() for p in network.parameters()]

    def adapt(net: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(x.mean().sign() * 0.7 * torch.arange(1, 4.0).view(3, *[1] * (p.ndim - 1)))

    def run(reset: bool = True) -> Tensor:
        w, b, rows = *start, []
        for x, label in zip(images, labels, strict=True):
            step = x.mean().sign() * 0.7 * torch.arange(1, 4.0)
            moved = w + step[:, None], b + step
            rows.append(torch.stack([(a @ x + c).argmax() == label for a, c in ((w, b), moved)]))
            w, b = start if reset else moved
        return torch.stack(rows)

    right = run()
    student.gives(
        right,
        network, adapt, images, labels,
        what="right before and after",
        reasons={
            "the network is not reset between images: does the kept copy change with it?": run(reset=False),
            "after is the same as before: was the network evaluated after the reset?": right[:, :1].expand(n, 2),
            "the columns are swapped: before comes first": right.flip(1),
        },
    )  # fmt: skip
    if not all(torch.equal(p, old) for p, old in zip(network.parameters(), start, strict=True)):
        student.fail("leaves the network adapted to the last image")
