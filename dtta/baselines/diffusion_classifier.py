"""Diffusion Classifier (Li et al., ICCV 2023, arXiv 2303.16203): the class with the least diffusion loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtta.adapt import check_image
from dtta.diffusion import Diffusion
from dtta.sampling import Sampling


class DiffusionClassifier(nn.Module):
    """log p_φ(c_j | x) ∝ -E_{t,ε} ‖ε_φ(z_t, t, l_j) - ε‖², one evaluation per class and pair (its Eq. 6).

    All classes see the same (t, ε): their differences matter, and shared noise cancels in them.

    Args:
        diffusion: the diffusion model; its ``class_embeddings`` are the candidates unless given.
        samples: B, pairs (t, ε) for each image.
        sampling: how the pairs are drawn; the paper of this method spaces t evenly.
        temperature: divides the losses (summed over elements); it makes the belief milder or sharper,
            and leaves the answer alone. 1 is the method's equation.
        embeddings: l (L, ...), other candidates.
        micro_batch: evaluations in one pass, at most.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        samples: int = 48,
        sampling: Sampling | None = None,
        temperature: float = 1.0,
        embeddings: Tensor | None = None,
        micro_batch: int = 512,
        seed: int = 0,
    ):
        super().__init__()
        if samples < 1 or micro_batch < 1 or temperature <= 0:
            raise ValueError(
                f"samples ({samples}) and micro_batch ({micro_batch}) must be at least 1, "
                f"temperature ({temperature}) above 0"
            )
        self.diffusion, self.samples, self.temperature = diffusion.eval(), samples, temperature
        self.sampling = sampling or Sampling(timesteps="stratified")
        self.embeddings, self.micro_batch = embeddings, micro_batch
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Image (N, C, H, W) in [0, 1] -> logits (N, L) = -losses / temperature."""
        check_image(image)
        losses = self.losses(image, generator).mean(dim=2)  # (N, L)
        elements = self.diffusion.encode(image[:1]).numel()
        return -losses * elements / self.temperature

    @torch.no_grad()
    def losses(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss of every class under every pair, (N, L, B)."""
        l = self.diffusion.class_embeddings if self.embeddings is None else self.embeddings
        z0 = self.diffusion.encode(image)
        N, L, B = len(z0), len(l), self.samples
        t, noise = self.sampling.draw(z0, B, self.diffusion.timesteps, generator or self.generator)
        found = []
        for index in torch.arange(N * L * B).split(self.micro_batch):
            n, j, b = index // (L * B), index // B % L, index % B
            found.append(self.diffusion.loss(z0[n], t[n, b], noise[n, b], l[j]))
        return torch.cat(found).view(N, L, B)
