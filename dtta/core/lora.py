"""LoRA (Hu et al., arXiv 2106.09685) next to linear and 2D convolution layers: W x becomes W x + B A x."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def add_lora(
    network: nn.Module, targets: str | None = None, rank: int = 4, layers: Sequence[int] | None = None, seed: int = 0
) -> nn.Module:
    """Add LoRA to a network, after removing any it has, and return it. B is zero: the output does not change yet.

    Args:
        network: changed in place.
        targets: a regular expression for names of linear and 2D convolution layers; None: its ``lora_targets``.
        rank: rows of A (rank, in) and columns of B (out, rank).
        layers: numbers of the blocks that get LoRA (the first number in a layer's name: 4 in layer4.0); None: all.
        seed: of A, which is drawn at random.

    Raises ValueError: no targets, no such layers (the network then has no LoRA any more), or a rank below 1.
    """
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and only needed here

    targets = targets or getattr(network, "lora_targets", None)
    if targets is None:
        raise ValueError(f"{type(network).__name__} has no lora_targets; give targets")
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"the rank must be a whole number of at least 1, not {rank!r}")
    remove_lora(network)
    names = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    blocks = {name: re.search(r"\d+", name) for name in names if re.fullmatch(targets, name)}
    chosen = [name for name, block in blocks.items() if layers is None or (block and int(block.group()) in layers)]
    if not chosen:
        where = "" if layers is None else f" in layers {', '.join(map(str, layers))}"
        raise ValueError(f"{type(network).__name__} has no linear or convolution layers named {targets}{where}")
    whole = "|".join(map(re.escape, chosen))  # of a list of names, peft would also take x.fc for fc
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=whole)  # α/r = 1: the update is B A itself
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network)
    return network.eval()


def remove_lora(network: nn.Module) -> None:
    """Remove LoRA; the layers compute what they did before ``add_lora``."""
    for name, layer in _lora_layers(network).items():
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer.get_base_layer())
    network.__dict__.pop("peft_config", None)  # peft's record of what it added


def lora_updates(network: nn.Module) -> dict[str, Tensor]:
    """Return B A, the change of each layer's weight, in its shape, by the layer's name."""
    return {name: layer.get_delta_weight("default").detach() for name, layer in _lora_layers(network).items()}


def _lora_layers(network: nn.Module) -> dict[str, Any]:  # peft's layers
    return {name: layer for name, layer in network.named_modules() if hasattr(layer, "lora_A")}
