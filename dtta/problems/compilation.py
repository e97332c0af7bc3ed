"""Compile the blocks of a diffusion model with ``torch.compile``, in seconds instead of the minutes of the whole."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from dtta.problems.data.folders import one_line


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Return a network's repeated blocks, those that are worth compiling; there may be none."""
    names = getattr(network, "_repeated_blocks", None) or []  # diffusers lists a UNet's blocks, but not a DiT's
    blocks = [m for m in network.modules() if type(m).__name__ in names]
    return blocks or list(getattr(network, "transformer_blocks", []))


def is_on_gpu(network: nn.Module) -> bool:
    """Return whether a network is on a GPU of CUDA, where its blocks are compiled unless requested otherwise."""
    return next(network.parameters()).is_cuda


def is_compiled(network: nn.Module) -> bool:
    """Return whether the network's blocks are compiled, or will be when they run next."""
    return any(block._compiled_call_impl is not None for block in blocks_of(network))


def compile_blocks(network: nn.Module, fallback: bool = False, **options: Any) -> int:
    """Compile each of a network's repeated blocks when it runs next; return their number.

    They are compiled once if all passes have the same size: adapt to one image first, which finds the size that fits.

    Args:
        fallback: if the compiler fails, run the blocks as they were and warn once. False: raise its error.
        options: for ``torch.compile``, such as backend.

    Raises:
        ValueError: there are no blocks and no `fallback`.
    """
    blocks = blocks_of(network)
    if not (blocks or fallback):
        raise ValueError(f"{type(network).__name__} has no repeated blocks to compile; leave --compile out")
    for block in blocks:
        block.compile(**options)
    if blocks and fallback:
        _watch(network, blocks)
    return len(blocks)


def _watch(network: nn.Module, blocks: list[nn.Module]) -> None:
    """Let a pass in which the compiler fails be repeated without it, as are all later ones."""
    forward = network.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            with _backward_compiled_at_once():
                return forward(*args, **kwargs)
        except torch.OutOfMemoryError:  # a smaller pass may fit
            raise
        except Exception as error:
            network.forward = forward
            for block in blocks:
                block._compiled_call_impl = None
            output = forward(*args, **kwargs)  # raises again if the compiler is not the reason
            reason = f"the diffusion model's blocks cannot be compiled here ({one_line(error)})"
            warnings.warn(f"{reason}; they run uncompiled, slower. --no-compile does not try", stacklevel=2)
            return output

    network.forward = watched


def _backward_compiled_at_once() -> Any:
    """Return a context in which the backward pass is compiled with the forward pass, so that both fail there."""
    from torch._functorch import config

    return config.patch(force_non_lazy_backward_lowering=True) if hasattr(config, "patch") else nullcontext()
