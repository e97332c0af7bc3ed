"""Timesteps and noise: the noise levels of a schedule, and the (t, ε) pairs over which the loss is averaged.

The paper draws t uniformly and a new ε for each t (section 3.2). Stratified and antithetic timesteps reduce the
variance of the loss and shared noise increases it, with the same expectation; a narrower range of t has another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

TIMESTEPS = ("uniform", "stratified", "antithetic")
NOISE = ("fresh", "shared")


@dataclass(frozen=True)
class Sampling:
    """How the (t, ε) pairs of one adaptation step are drawn.

    Args:
        timesteps: "uniform": t independent and uniform (the paper); "stratified": one t from each of B
            equally likely parts of the range; "antithetic": pairs t, t' of quantiles u and 1 - u.
        noise: "fresh": one ε for each t (the paper); "shared": one ε for all t of a step.
        t_min, t_max: the range of t, as fractions of T. (0, 1) is the paper.
        reuse_noise: draw once for each image and use the same pairs at every step, so that the losses of two steps
            can be compared (common random numbers).
        t_density: importance sampling: relative frequencies of t in equal parts of the range. ``weight`` corrects for
            them, so that the loss has the same expectation (exactly, if the parts end at timesteps). Empty: uniform.
    """

    timesteps: str = "uniform"
    noise: str = "fresh"
    t_min: float = 0.0
    t_max: float = 1.0
    reuse_noise: bool = False
    t_density: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.timesteps not in TIMESTEPS:
            raise ValueError(f"timesteps must be one of {', '.join(TIMESTEPS)}, not {self.timesteps!r}")
        if self.noise not in NOISE:
            raise ValueError(f"noise must be one of {', '.join(NOISE)}, not {self.noise!r}")
        if not 0 <= self.t_min < self.t_max <= 1:
            raise ValueError(f"the range of t must satisfy 0 <= t_min < t_max <= 1, not {self.t_min}, {self.t_max}")
        if not all(0 < d < float("inf") for d in self.t_density):
            raise ValueError(f"t_density must hold numbers above 0, not {self.t_density}")

    def draw(self, z0: Tensor, samples: int, T: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return B = `samples` pairs for each of N images: integers t (N, B) in 0..T-1 and ε (N, B, C, h, w)."""
        images, device = len(z0), generator.device
        u = torch.rand(images, samples, generator=generator, device=device)
        if self.timesteps == "stratified":  # part k of B covers [k/B, (k+1)/B)
            u = (torch.arange(samples, device=device) + u) / samples
        elif self.timesteps == "antithetic":
            half = u[:, : (samples + 1) // 2]
            u = torch.cat([half, 1 - half], dim=1)[:, :samples]
        u = self._with_density(u)
        t = ((self.t_min + u * (self.t_max - self.t_min)) * T).long()
        t = t.clamp(*timestep_range(self.t_min, self.t_max, T))  # u just below 1 may round to 1
        each = 1 if self.noise == "shared" else samples
        noise = torch.randn(images, each, *z0.shape[1:], generator=generator, device=device).to(z0.dtype)
        if device.type == "cpu" and z0.is_cuda:  # from pinned memory, a copy does not wait for the GPU
            t, noise = (part.pin_memory().to(z0.device, non_blocking=True) for part in (t, noise))
        return t.to(z0.device), noise.to(z0.device).expand(-1, samples, *[-1] * (z0.ndim - 1))

    def weight(self, t: Tensor, T: int) -> Tensor:
        """Return the weight of the loss at each t, in the shape of t: uniform density over density drawn."""
        if not self.t_density:
            return torch.ones(t.shape, device=t.device)
        parts, q = len(self.t_density), torch.tensor(self.t_density, dtype=torch.float32, device=t.device)
        place = ((t + 0.5) / T - self.t_min) / (self.t_max - self.t_min)  # of t's middle within the range
        return (q.mean() / q)[(place * parts).long().clamp(0, parts - 1)]

    def _with_density(self, u: Tensor) -> Tensor:
        """Map uniform numbers in [0, 1) to numbers in [0, 1) with density `t_density`."""
        if not self.t_density:
            return u
        parts, q = len(self.t_density), np.array(self.t_density, dtype=float)
        v = u.cpu().numpy().astype(float)  # in double precision, which not every device has
        ends = (q / q.sum()).cumsum()
        starts = np.concatenate([[0.0], ends[:-1]])
        part = np.searchsorted(ends, v, side="right").clip(max=parts - 1)
        inside = (v - starts[part]) / (ends - starts)[part]
        return torch.from_numpy(((part + inside.clip(0, 1 - 1e-9)) / parts).astype(np.float32)).to(u.device)


def timestep_range(t_min: float, t_max: float, T: int) -> tuple[int, int]:
    """Return the lowest and the highest timestep in the range from t_min T to t_max T."""
    return math.floor(t_min * T + 1e-6), math.ceil(t_max * T - 1e-6) - 1  # 0.29 x 100 is 28.999...


def noise_levels(scheduler: Any) -> tuple[str, Tensor]:
    """Return what a scheduler's network predicts, and a_t and σ_t (2, T). Raises: see ``Diffusion``."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        sigma = scheduler.sigmas.flip(0)  # the library's begin with the most noise
        if len(sigma) != scheduler.config.num_train_timesteps or sigma[0] == 0:  # it appends a 0
            raise ValueError("the scheduler's set_timesteps has replaced its sigmas; load the scheduler again")
        return "flow", torch.stack([1 - sigma, sigma])
    if not isinstance(scheduler, DDPMScheduler):
        raise TypeError(
            f"the scheduler must be a FlowMatchEulerDiscreteScheduler or DDPMScheduler, not {type(scheduler).__name__};"
            " load it with DDPMScheduler.from_pretrained(repository, subfolder='scheduler')"
        )
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(f"prediction_type {scheduler.config.prediction_type!r} is not supported")
    alpha_bar = scheduler.alphas_cumprod
    return scheduler.config.prediction_type, torch.stack([alpha_bar, 1 - alpha_bar]).sqrt()
