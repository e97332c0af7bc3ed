"""Which weights move.

    optimizer = torch.optim.SGD(select(model, "norm"), lr=5e-3, momentum=0.9)
    optimizer = torch.optim.Adam([*select(model), *select(diffusion.network)], lr=1e-5)

The first is what TENT moves; the second adapts θ and φ together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

PARTS = ("all", "norm", "head", "lora", "leaves")


def select(module: nn.Module, part: str = "all") -> list[nn.Parameter]:
    """The weights of a network that adaptation may move.

    Args:
        part: "all": every weight; "norm": scales and shifts of the normalisation layers (as TENT);
            "head": the last linear layer or convolution; "lora": what peft added; "leaves": what the authors'
            released code moves, the layers that hold no other layers, but for the last: no classifier's last layer,
            and no weight that a block of layers holds itself (a quarter of torchvision's ViT-B/32).

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
    elif part == "leaves":
        layers = [m for m in module.modules() if not list(m.children())]
        found = [p for m in layers[:-1] for p in m.parameters(recurse=False)]
    else:
        found = [p for name, p in module.named_parameters() if "lora_" in name]
    found = list(dict.fromkeys(found))
    if not found:
        raise ValueError(f"{type(module).__name__} has no weights of the kind {part!r}")
    return found


def add_lora(
    network: nn.Module,
    targets: str | None = None,
    rank: int = 4,
    layers: Sequence[int] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Put LoRA (Hu et al., arXiv 2106.09685) beside linear layers: W x becomes W x + B A x, with B zero at first.

    So the network answers as before until B moves. LoRA that is there already is taken out, moved or not.

    Args:
        network: changed in place.
        targets: a regular expression for the names of the layers; None: the network's own ``lora_targets``.
        rank: rows of A (rank, in) and columns of B (out, rank).
        layers: numbers of the blocks that get it (the first number in a layer's name); None: all.
        seed: of A, drawn at random.

    Returns:
        The network.

    Raises:
        ValueError: no targets, no such layers, or a rank below 1.
    """
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and only needed here

    targets = targets or getattr(network, "lora_targets", None)
    if targets is None:
        raise ValueError(f"{type(network).__name__} does not say where LoRA goes; give targets")
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"the rank must be a whole number of at least 1, not {rank!r}")
    remove_lora(network)
    blocks = {name: re.search(r"\d+", name) for name, _ in network.named_modules() if re.fullmatch(targets, name)}
    chosen = [n for n, b in blocks.items() if layers is None or (b and int(b.group()) in layers)]
    if not chosen:
        where = "" if layers is None else f" in layers {', '.join(map(str, layers))}"
        raise ValueError(f"{type(network).__name__} has no layers named {targets}{where}")
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=chosen)  # α/r = 1: the update is B A itself
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network)
    return network.eval()


def remove_lora(network: nn.Module) -> None:
    """Take LoRA out again; the layers are what they were before ``add_lora``."""
    for name, layer in _lora_layers(network).items():
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, layer.get_base_layer())
    network.__dict__.pop("peft_config", None)  # peft's note of what it put in


def lora_updates(network: nn.Module) -> dict[str, Tensor]:
    """B A, what LoRA adds to each weight matrix (out, in), by the layer's name."""
    return {name: layer.get_delta_weight("default").detach() for name, layer in _lora_layers(network).items()}


def _lora_layers(network: nn.Module) -> dict[str, nn.Module]:
    return {name: layer for name, layer in network.named_modules() if hasattr(layer, "lora_A")}


@torch.no_grad()
def redraw(network: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all weights anew, as the layers do when they are made (others: normal, 0.02), running statistics too.

    An untrained network of the same shape (paper, Table 6, "random init"). Changes the network in place.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in network.modules():
            if callable(own := getattr(module, "reset_parameters", None)) and not list(module.children()):
                own()
            else:
                for p in module.parameters(recurse=False):
                    p.normal_(std=0.02)
    return network


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
