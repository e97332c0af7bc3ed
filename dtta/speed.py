"""Precision, speed and memory: how a diffusion model computes, without a word about what it computes.

    precision = native(device)                 # "bfloat16" on an A100 or newer, "float16" on a T4, "float32" on a CPU
    method = build(problem, "diffusion-tta")
    prepare(method, problem.diffusion, precision)

Softmax, mixing, loss and the sums over samples stay in float32 whatever the precision. Attention needs nothing here:
diffusers takes torch's fused ``scaled_dot_product_attention`` by itself.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import torch
from torch import nn

from dtta.adapt import DiffusionTTA
from dtta.diffusion import Diffusion

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYERS = (nn.Linear, nn.Conv2d)  # what autocast computes in half precision
log = logging.getLogger(__name__)


def native(device: torch.device | str) -> str:
    """The precision a device is fast in.

    Tensor cores compute in bfloat16 from compute capability 8 on (A100). Before that (T4: 7.5, V100: 7.0) torch
    emulates it slowly, and still calls it supported, so that the capability is asked and not torch. There it is
    float16.
    """
    if torch.device(device).type != "cuda":
        return "float32"
    major = torch.cuda.get_device_capability(device)[0]
    return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"


def prepare(
    method: nn.Module,
    diffusion: Diffusion,
    precision: str = "float32",
    compile: bool = False,
    channels_last: bool | None = None,
    fit: bool = True,
) -> nn.Module:
    """Make a method ready to run, its diffusion model in the given precision.

    Weights that stand still are kept in the precision that they are multiplied in, so there is one copy of them, in
    half the memory. Weights that move stay float32, and so do norms, whose sums half precision would spoil. The numbers
    are those of ``torch.autocast`` over float32 weights, to the last bit. The diffusion model is changed in place, for
    this method.

    Args:
        compile: compile the diffusion model's blocks (see `compile_blocks`).
        channels_last: the layout of pictures that convolutions on tensor cores are fastest in; None: on a GPU.
        fit: begin with the number of pairs in one pass that was found to fit here before (see `remember`).

    Returns:
        The method.

    Raises:
        ValueError: unknown precision, or no blocks to compile.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision must be one of {', '.join(DTYPES)}, not {precision!r}")
    dtype, network = DTYPES[precision], diffusion.network
    device = next(network.parameters()).device
    adapters = [m for m in method.modules() if isinstance(m, DiffusionTTA)]
    moving = {id(p) for tta in adapters for p in tta.adapted}
    if dtype is not None:
        layers = [m for m in network.modules() if isinstance(m, LAYERS)]
        for layer in layers[1:]:  # from the first one diffusers tells in which type to add embeddings: it stays float32
            if not any(id(p) in moving for p in layer.parameters()):
                layer.to(dtype)
        network.forward = torch.autocast(device.type, dtype)(network.forward)
    if device.type == "cuda" if channels_last is None else channels_last:
        network.to(memory_format=torch.channels_last)
        if diffusion.vae is not None:
            diffusion.vae.to(memory_format=torch.channels_last)
    if compile:
        compile_blocks(network)
    for tta in adapters:
        tta.autocast = dtype
        if fit and tta.micro_batch is None:
            tta.micro_batch = remembered(key(tta, precision))
    return method


def compile_blocks(network: nn.Module, **options) -> int:
    """Compile each of a network's repeated blocks, which takes seconds where the whole network would take minutes.

    diffusers knows a UNet's blocks by name (``_repeated_blocks``) but none of a DiT, so there they are looked up.
    A micro-batch that divides the number of samples keeps the shapes the same and the compiler idle.

    Args:
        options: for ``torch.compile``, such as backend.

    Returns:
        How many blocks.

    Raises:
        ValueError: it has none.
    """
    named = getattr(network, "_repeated_blocks", None) or []
    blocks = [m for m in network.modules() if type(m).__name__ in named]
    blocks = blocks or list(getattr(network, "transformer_blocks", []))
    if not blocks:
        raise ValueError(f"{type(network).__name__} has no repeated blocks to compile; leave --compile out")
    for block in blocks:
        block.compile(**options)
    return len(blocks)


# --- how many pairs fit in one pass --------------------------------------------------------------------


def key(tta: DiffusionTTA, precision: str) -> str:
    """All that decides how many pairs fit: the device, the model, what of it moves, and in which precision."""
    network = tta.diffusion.network
    first = next(network.parameters())
    size = sum(p.numel() for p in network.parameters())
    own = {id(p) for p in network.parameters()}
    moving = sum(p.numel() for p in tta.adapted if id(p) in own)
    device = "cpu"
    if first.is_cuda:
        about = torch.cuda.get_device_properties(first.device)
        device = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    side = network.config.sample_size
    return f"{device}; {type(network).__name__} of {size} weights, {moving} moving, side {side}; {precision}"


def remember(tta: DiffusionTTA, precision: str) -> None:
    """Keep the number of pairs in one pass that was found by trying, where it is smaller than what was known.

    In micro-batch.json, in the folder $DTTA_CACHE or ~/.cache/dtta; delete it to search anew.
    """
    name, size = key(tta, precision), tta.found
    if size is None or (remembered(name) or size + 1) <= size:
        return
    known, path = _known(), _cache()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(known | {name: size}, indent=1) + "\n")
    temporary.replace(path)
    log.warning("%d pairs fit in one pass here; this is remembered in %s", size, path)


def remembered(name: str) -> int | None:
    """The number of pairs that was found to fit before; None: it was not searched, or all fit."""
    return _known().get(name)


def _cache() -> Path:
    return Path(os.environ.get("DTTA_CACHE", Path.home() / ".cache/dtta")) / "micro-batch.json"


def _known() -> dict[str, int]:
    try:
        found = json.loads(_cache().read_text())
        return {name: size for name, size in found.items() if isinstance(size, int) and size >= 1}
    except (OSError, ValueError, AttributeError):  # it is only a memory: what cannot be read is found again
        return {}
