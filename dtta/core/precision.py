"""Run a diffusion model in half precision, and in the memory layout that is fast on a GPU.

    prepare(method, problem.diffusion, native(device))

Softmax, mixing, loss and sums over samples stay in float32 in any precision.
"""

from __future__ import annotations

import torch
from torch import nn

from dtta.core.adapter import Adapter
from dtta.core.diffusion import Diffusion
from dtta.core.tta import DiffusionTTA

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYERS = (nn.Linear, nn.Conv2d)  # those that autocast computes in half precision


def native(device: torch.device | str) -> str:
    """Return a device's fastest precision: bfloat16 from compute capability 8 (A100), float16 from 7, else float32.

    On T4 (7.5) and V100 (7.0) torch emulates bfloat16 slowly and still reports it as supported.
    """
    if torch.device(device).type != "cuda":
        return "float32"
    major = torch.cuda.get_device_capability(device)[0]
    return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"


def prepare(
    method: nn.Module, diffusion: Diffusion, precision: str = "float32", channels_last: bool | None = None
) -> nn.Module:
    """Prepare a method to run with its diffusion model in the given precision, and return it.

    Fixed weights of the network's linear and convolution layers, except the first, are stored in that precision, in
    half the memory; all others, the VAE and a ControlNet stay float32. Results equal those of ``torch.autocast`` over
    float32 weights to the last bit. Changes the diffusion model in place.

    Args:
        channels_last: the memory layout in which tensor cores are fastest at convolutions; None: on a GPU.

    Raises ValueError: unknown precision, or weights that are stored in another one.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision must be one of {', '.join(DTYPES)}, not {precision!r}")
    if diffusion not in list(method.modules()):  # this method does not use it: leave its weights alone
        return method
    dtype, network = DTYPES[precision], diffusion.network
    if diffusion.autocast not in (None, dtype):
        raise ValueError(f"weights are stored in {diffusion.autocast}; for {precision}, load the diffusion model again")
    adapted = {id(p) for m in method.modules() if isinstance(m, Adapter) for p in m.adapted}
    if dtype is not None:
        layers = [m for m in network.modules() if isinstance(m, LAYERS)]
        for layer in layers[1:]:  # the first stays float32: diffusers reads the dtype of embeddings from it
            if not any(id(p) in adapted for p in layer.parameters()):
                layer.to(dtype)
        diffusion.autocast = dtype
    if next(network.parameters()).is_cuda if channels_last is None else channels_last:
        network.to(memory_format=torch.channels_last)
        if diffusion.vae is not None:
            diffusion.vae.to(memory_format=torch.channels_last)
    for tta in method.modules():
        if isinstance(tta, DiffusionTTA):
            tta.autocast = dtype
    return method
