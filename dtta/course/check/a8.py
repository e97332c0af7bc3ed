"""Checks of assignment 8: which parameters are adapted, how they are restored, and adapted logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtta.course.judge import Student, public
from dtta.course.runner.variants import normal


def _made(build) -> nn.Module:
    """A network, without a trace in the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


@public
def select_parameters(student: Student) -> None:
    """The parameters of the norm layers, of the last linear layer, or all, each once."""
    block = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 6), nn.LayerNorm(6))
    network = nn.Sequential(block, nn.ReLU(), nn.Linear(6, 3))
    own = {"norm": [*block[1].parameters(), *block[4].parameters()], "head": [*network[2].parameters()]}
    own["all"] = [*network.parameters()]
    names = {id(p): name for name, p in network.named_parameters()}
    for kind, wanted in own.items():
        came = student(network, kind)
        if isinstance(came, set | frozenset):
            student.fail("returns a set, whose order is never the same, and which no optimizer takes; return a list")
        if isinstance(came, Tensor | nn.Module | str) or not hasattr(came, "__iter__"):
            student.fail(f"should return a list of weights, and returned {type(came).__name__}, for kind {kind!r}")
        came = list(came)
        if not all(isinstance(p, Tensor) for p in came):
            student.fail(
                f"should return the weights themselves; for kind {kind!r} a {type(came[0]).__name__} is among them.\n"
                "  a likely reason: named_parameters() gives pairs, modules() gives layers; parameters() gives weights"
            )
        if any(id(p) not in names for p in came):
            student.fail(f"returns copies for kind {kind!r}; an optimizer needs the network's parameters themselves")
        found, right = [names[id(p)] for p in came], [names[id(p)] for p in wanted]
        if missing := [n for n in right if n not in found]:
            student.fail(f"leaves out {', '.join(missing)} for kind {kind!r}")
        if more := [n for n in found if n not in right]:
            student.fail(f"takes {', '.join(more)} as well for kind {kind!r}")
        if len(found) > len(right):
            student.fail(f"lists a parameter twice for kind {kind!r}: an optimizer would update it twice")


@public
def episode(student: Student) -> None:
    """Adapt and predict; then the parameters are restored to the last bit and the optimizer has no state."""
    network = _made(lambda: nn.Linear(3, 2))
    weights, image = list(network.parameters()), normal(1, 3)
    start = [p.detach().clone() for p in weights]
    optimizer = torch.optim.SGD(weights, lr=0.37, momentum=0.9)

    def adapt() -> None:
        for _ in range(3):
            optimizer.zero_grad()
            network(image).square().sum().backward()
            optimizer.step()

    before = network(image).detach()
    adapt()
    with torch.no_grad():
        right = network(image)
        for p, old in zip(weights, start, strict=True):
            p.copy_(old)
    optimizer.state.clear()
    came = student.gives(
        right,
        network, optimizer, adapt, image,
        what="the prediction",
        reasons={
            "the network was evaluated before adapt()": before,
            "the network was evaluated after the parameters were restored": before,
        },
    )  # fmt: skip
    if came.requires_grad:
        student.fail("returns a prediction with a gradient; compute it within torch.no_grad()")
    if not all(p is q for p, q in zip(network.parameters(), weights, strict=True)):
        student.fail("replaces the parameters by new objects; the optimizer still holds the old ones: use p.copy_(old)")
    if all(torch.allclose(p, q, atol=1e-4) for p, q in zip(weights, start, strict=True)) and not all(
        map(torch.equal, weights, start)
    ):
        student.fail("restores the parameters nearly: the last bits differ. Copy the old values, do not compute them")
    if not all(map(torch.equal, weights, start)):
        student.fail(
            "leaves the parameters changed.\n  a likely reason: they are not copied back, or the copy changed with "
            "them (p.detach() is no copy, p.detach().clone() is one)"
        )
    if optimizer.state:
        student.fail("leaves the optimizer's state: the last image's momentum would influence the next image")


@public
def sgd_with_resets(student: Student) -> None:
    """SGD with momentum; weights and velocity go back to their start after every `period` steps."""
    start, gradients, lr, momentum, period = normal(3), normal(7, 3, seed=1), 0.2, 0.8, 3

    def run(keep_v=False, keep_w=False, late=0, mu=momentum, damp=1.0, nesterov=False, after=False) -> Tensor:
        w, v, found = start, torch.zeros(3), []
        for k, g in enumerate(gradients):
            if k and (k + late) % period == 0:
                w, v = (w if keep_w else start), (v if keep_v else torch.zeros(3))
            v = mu * v + damp * g
            w = w - lr * (damp * g + mu * v if nesterov else v)
            found.append(start if after and (k + 1) % period == 0 else w)
        return torch.stack(found)

    student.gives(
        run(),
        start, gradients, lr, momentum, period,
        what="the weights",
        reasons={
            "the velocity is not reset: the last image influences the next one": run(keep_v=True),
            "the weights are not reset, only the velocity": run(keep_w=True),
            "nothing is ever reset": run(keep_v=True, keep_w=True),
            "reset one step too early": run(late=1),
            "reset one step too late": run(late=2),
            "momentum is missing": run(mu=0.0),
            "v ← μ v + g: here the gradient was multiplied by 1 - μ": run(damp=1 - momentum),
            "this is Nesterov's momentum": run(nesterov=True),
            "the weights after the reset were kept instead of those before it": run(after=True),
            "uphill: the velocity must be subtracted": 2 * start - run(),
        },
    )  # fmt: skip


@public
def descend_logits(student: Student) -> None:
    """N steps of gradient descent on loss(y) from zero logits (1, L)."""
    goal, lr, steps = torch.tensor([[1.0, -2.0, 0.5, 3.0]]), 0.1, 4

    def loss(y: Tensor) -> Tensor:
        if not isinstance(y, Tensor) or y.shape != goal.shape:
            student.fail(f"calls loss with {getattr(y, 'shape', y)}; it takes logits of shape (1, 4)")
        return (y - goal).square().sum()

    def run(steps: int = steps, lr: float = lr, grow: bool = False) -> Tensor:
        y, total = torch.zeros(1, 4), torch.zeros(1, 4)
        for _ in range(steps):
            g = 2 * (y - goal)
            total = total + g
            y = y - lr * (total if grow else g)
        return y

    came = student.gives(
        run(),
        loss, 4, steps, lr,
        what="the logits",
        reasons={
            "uphill: the gradient must be subtracted": run(lr=-lr),
            "one step too few": run(steps - 1),
            "one step too many": run(steps + 1),
            "gradients add up from step to step: backward() adds to .grad, which must be emptied": run(grow=True),
            "this is the softmax of the logits": run().softmax(1),
            "the first gradient was used in every step": run(1, lr * steps),
        },
    )  # fmt: skip
    if came.requires_grad:
        student.fail("returns logits that still carry a gradient: end with .detach()")


@public
def ensemble_logits(student: Student) -> None:
    """log of the mean of two softmaxes, of logits (N, L)."""
    a, b = 2 * normal(2, 3), 2 * normal(2, 3, seed=1)
    p = (a.softmax(1) + b.softmax(1)) / 2
    student.gives(
        p.log(),
        a, b,
        what="log p",
        reasons={
            "this is p; return its logarithm": p,
            "the logits were averaged, not the beliefs": (a + b) / 2,
            "the logits were averaged, not the beliefs, and then log-softmax": ((a + b) / 2).log_softmax(1),
            "the logarithms of the beliefs were averaged: log of the mean, not mean of the logs": (
                a.log_softmax(1) + b.log_softmax(1)
            )
            / 2,
            "the ½ is missing: the beliefs were added": (2 * p).log(),
            "softmax over the images, not over the classes": ((a.softmax(0) + b.softmax(0)) / 2).log(),
        },
    )  # fmt: skip


@public
def shrink_to_start(student: Student) -> None:
    """The weights after each image: its update added, then the share ρ of the way back to the start."""
    start, updates, rho = normal(3), normal(4, 3, seed=1), 0.25

    def run(back=lambda w: w + rho * (start - w), first=False, before=False) -> Tensor:
        w, found = start, []
        for u in updates:
            moved = back(w) + u if first else back(w + u)
            found.append(w + u if before else moved)
            w = moved
        return torch.stack(found)

    student.gives(
        run(),
        start, updates, rho,
        what="the weights",
        reasons={
            "ρ and 1 - ρ are swapped": run(lambda w: start + rho * (w - start)),
            "the parameters are never moved back": run(lambda w: w),
            "shrunk towards zero, not towards the start": run(lambda w: (1 - rho) * w),
            "moved away from the start: a sign is wrong": run(lambda w: w + rho * (w - start)),
            "shrunk before the update; first comes the update": run(first=True),
            "the weights before the second step were kept instead of those after it": run(before=True),
            "each image began at the start again": start + (1 - rho) * updates,
        },
    )  # fmt: skip
