"""Train the small models: one loop, which can be stopped and resumed without changing the resulting bytes.

A checkpoint (safetensors) holds the weights, their moving average, AdamW's moments, the random state and the step.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from dtta.core.diffusion import Diffusion

Loss = Callable[[nn.Module, torch.Generator], Tensor]  # of a random batch, a scalar


def fit(
    network: nn.Module,
    batch_loss: Loss,
    *,
    steps: int,
    lr: float,
    checkpoint: Path,
    seed: int = 0,
    weight_decay: float = 0.01,
    ema_decay: float = 0.999,
    save_every: int = 200,
    description: str = "training",
) -> nn.Module:
    """Minimise `batch_loss` with AdamW, warm-up, cosine decay and a moving average of the weights.

    Args:
        network: trained in place; returned with the averaged weights, in eval mode.
        checkpoint: written every `save_every` steps; if it exists, training resumes from it.
        ema_decay: of the moving average, smaller during the first steps.

    Raises FloatingPointError: the loss is not finite; the last checkpoint is kept.
    """
    average = {k: v.clone() for k, v in unique_tensors(network).items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(seed)
    start = 0
    if checkpoint.exists():
        start = _load(checkpoint, network, average, optimizer, generator)
    network.train()
    progress = tqdm(range(start, steps), initial=start, total=steps, desc=description, mininterval=5)
    for step in progress:
        warm_up = min(1.0, (step + 1) / 100)
        optimizer.param_groups[0]["lr"] = lr * warm_up * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        loss = batch_loss(network, generator)
        if not loss.isfinite():
            raise FloatingPointError(f"{description}: the loss is {loss} at step {step}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in unique_tensors(network).items():
                if value.is_floating_point():
                    average[name].lerp_(value, 1 - decay)
                else:
                    average[name].copy_(value)
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}")
        if (step + 1) % save_every == 0 or step + 1 == steps:
            _save(checkpoint, network, average, optimizer, generator, step + 1)
    with torch.no_grad():
        for name, value in unique_tensors(network).items():
            value.copy_(average[name])
    return network.eval()


def denoising_loss(diffusion: Diffusion, z0: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean of Eq. 2 over a batch of z0 (N, C, h, w), with timesteps stratified over the whole range."""
    size = len(z0)
    t = ((torch.arange(size) + torch.rand(size, generator=generator)) / size * diffusion.timesteps).long()
    t = t[torch.randperm(size, generator=generator)]
    noise = torch.randn(z0.shape, generator=generator)
    return diffusion.loss(z0, t.to(z0.device), noise.to(z0.device), condition).mean()


def depth_loss(prediction: Tensor, depth: Tensor) -> Tensor:
    """Return the L1 error of log depth and of its differences between neighbours (DenseDepth); depth 0: no label."""
    error = (prediction.log() - depth.clamp(min=1e-3).log()) * (depth > 0)
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + edges


def unique_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name; a shared tensor once, as safetensors requires."""
    tensors: dict[str, Tensor] = {}
    seen = set()
    for name, value in network.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            tensors[name] = value.data
    return tensors


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file atomically: a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial)
    os.replace(partial, path)


def _save(path, network, average, optimizer, generator, step) -> None:
    state = {f"network.{k}": v for k, v in unique_tensors(network).items()}
    state |= {f"average.{k}": v for k, v in average.items()}
    for i, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
    state |= {"generator": generator.get_state(), "step": torch.tensor(step)}
    write_tensors(path, {k: v.clone() for k, v in state.items()})


def _load(path, network, average, optimizer, generator) -> int:
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to train from the start") from error
    with torch.no_grad():
        for name, value in unique_tensors(network).items():
            value.copy_(state[f"network.{name}"])
            average[name].copy_(state[f"average.{name}"])
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".")
            moments.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    generator.set_state(state["generator"])
    return int(state["step"])
