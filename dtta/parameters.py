"""Which weights move.

    optimizer = torch.optim.SGD(select(model, "norm"), lr=5e-3, momentum=0.9)
    optimizer = torch.optim.Adam([*select(model), *select(diffusion.network)], lr=1e-5)

The first is what TENT moves; the second adapts θ and φ together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PARTS = ("all", "norm", "head", "lora")


def select(module: nn.Module, part: str = "all") -> list[nn.Parameter]:
    """The weights of a network that adaptation may move.

    Args:
        part: "all": every weight; "norm": scales and shifts of the normalisation layers (as TENT);
            "head": the last linear layer or convolution; "lora": what peft added.

    Returns:
        Each parameter once, also where layers share it.

    Raises:
        ValueError: unknown part, or a network that has no such weights.
    """
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}; choose from {', '.join(PARTS)}")
    if part == "all":
        found = list(module.parameters())
    elif part == "norm":
        norms = [m for m in module.modules() if "norm" in type(m).__name__.lower()]
        found = [p for m in norms for p in m.parameters(recurse=False)]
    elif part == "head":
        layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        found = list(layers[-1].parameters()) if layers else []
    else:
        found = [p for name, p in module.named_parameters() if "lora_" in name]
    found = list(dict.fromkeys(found))
    if not found:
        raise ValueError(f"{type(module).__name__} has no weights of the kind {part!r}")
    return found


class Logits(nn.Module):
    """A network whose only free weight is its answer to one image (paper, Table 6, "adapt logits").

    Args:
        network: gives the logits to start from, and is never changed; None starts from zero.
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
            logits = self.network(image)
        return logits + self.delta
