"""What the methods' ``build`` functions share: optimizers by name, and the choice of parameters to adapt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from dtta.core.adapter import take_logits
from dtta.core.lora import add_lora
from dtta.core.parameters import select
from dtta.core.problem import Problem

OPTIMIZERS: dict[str, Callable] = {
    "sgd": torch.optim.SGD,
    "nesterov": partial(torch.optim.SGD, nesterov=True),
    "adam": torch.optim.Adam,
    "adamw": partial(torch.optim.AdamW, weight_decay=0.0),  # PyTorch's default is 0.01
}


def make_optimizer(name: str, parameters: list, lr: float, momentum: float = 0.9) -> torch.optim.Optimizer:
    """Make an optimizer by name, without weight decay (so that "adamw" equals "adam").

    Only "sgd" and "nesterov" (SGD with Nesterov's momentum) use the momentum. Raises ValueError: unknown, out of range.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; choose from {', '.join(OPTIMIZERS)}")
    if lr < 0 or momentum < 0:
        raise ValueError(f"lr and momentum must be 0 or more, not {lr!r} and {momentum!r}")
    return OPTIMIZERS[name](parameters, lr=lr, **({"momentum": momentum} if name in ("sgd", "nesterov") else {}))


def model_and_parameters(
    problem: Problem,
    trainable: str,
    rank: int = 4,
    layers: Sequence[int] | int | None = None,
    words: int = 4,
) -> tuple[nn.Module, list[nn.Parameter]]:
    """Return the network to adapt, wrapped or changed if `trainable` needs it, and its parameters to adapt.

    `trainable`: a choice of ``select``; "logits": the output itself; "prompt": `words` words before a CLIP's class
    names; "lora": LoRA of this `rank` on the blocks in `layers` (None: all). Raises ValueError: it does not suit.
    """
    if trainable == "logits":
        if problem.task != "classification":
            raise ValueError(f"trainable='logits' is for classification only, not for {problem.task}")
        model = Logits(len(problem.classes), problem.model)
        return model, [model.delta]
    if trainable == "prompt":
        if not hasattr(problem.model, "prompted"):
            raise ValueError(f"trainable='prompt' needs a network that reads class names; {problem.name} has none")
        model = problem.model.prompted(words)
        return model, [model.context]
    if trainable == "lora":
        add_lora(problem.model, rank=rank, layers=[layers] if isinstance(layers, int) else layers)
    return problem.model, select(problem.model, trainable)


@torch.no_grad()
def reinitialize(network: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all parameters again as at the network's creation (others: normal, 0.02), and reset running statistics.

    In place; the result is an untrained network of the same shape (paper, Table 6, "random init").
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset) and not list(module.children()):
                reset()
            else:
                for p in module.parameters(recurse=False):
                    p.normal_(std=0.02)
    return network


class Logits(nn.Module):
    """A network whose only parameter is its output for one image (paper, Table 6, "adapt logits").

    Args:
        network: gives the logits to start from, and is never changed; None: start from zero.
        classes: L.
    """

    def __init__(self, classes: int, network: nn.Module | None = None):
        super().__init__()
        self.network = network
        self.delta = nn.Parameter(torch.zeros(1, classes))

    def forward(self, image: Tensor) -> Tensor:
        """One image (1, C, H, W) -> logits (1, L)."""
        if len(image) != 1:
            raise ValueError(f"free logits belong to one image; got a batch of {len(image)}")
        if self.network is None:
            return self.delta.expand(1, -1).clone()
        with torch.no_grad():
            logits = take_logits(self.network, image, self.network(image))
        return logits + self.delta
