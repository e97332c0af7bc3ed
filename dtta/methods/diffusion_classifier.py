"""Diffusion Classifier (Li et al., ICCV 2023, arXiv 2303.16203): the class with the lowest diffusion loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dtta.core.adapter import check_counts, check_image, take_logits
from dtta.core.diffusion import Diffusion
from dtta.core.feedback import run_in_passes_that_fit
from dtta.core.problem import Problem
from dtta.core.sampling import Sampling


class DiffusionClassifier(nn.Module):
    """log p_φ(c_j | x) ∝ -E_{t,ε} ‖ε_φ(z_t, t, l_j) - ε‖², one evaluation per class and pair (its Eq. 6).

    All classes are evaluated with the same (t, ε), whose noise cancels in their differences. Nothing is carried along.
    The attribute `evaluations` counts those of the diffusion model in the last call.

    Args:
        samples: B, pairs (t, ε) for each image; or, for a staged schedule, of each remaining class after each stage.
        keep: how many classes remain after each stage except the last, as in the authors' code. The logit of a class
            that was dropped is -infinity.
        sampling: how the pairs are drawn; the paper of this method spaces t evenly.
        temperature: divides the losses (summed over elements), which changes the belief only. 1 is the method's
            equation.
        embeddings: candidates l (L, ...); None: the diffusion model's ``class_embeddings``.
        micro_batch: the largest number of evaluations in one pass. If memory runs out it is halved until a pass fits.
        network, top: evaluate only the `top` likeliest classes of a task network, image -> logits (N, L); the logit of
            any other class is -infinity. None: evaluate all classes.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        samples: int | Sequence[int] = 48,
        sampling: Sampling | None = None,
        temperature: float = 1.0,
        embeddings: Tensor | None = None,
        micro_batch: int = 512,
        seed: int = 0,
        keep: Sequence[int] = (),
        network: nn.Module | None = None,
        top: int | None = None,
    ):
        super().__init__()
        stages = [samples] if isinstance(samples, int) else list(samples)
        check_counts(micro_batch=micro_batch)
        if not stages or stages[0] < 1 or temperature <= 0:
            raise ValueError(f"samples ({samples}) must be at least 1, temperature ({temperature}) above 0")
        if (
            any(a >= b for a, b in pairwise(stages))
            or any(a <= b for a, b in pairwise(keep))
            or min(keep, default=1) < 1
        ):
            raise ValueError(f"samples must grow from stage to stage and keep must shrink, not {stages}, {list(keep)}")
        if len(keep) != len(stages) - 1:
            raise ValueError(f"{len(stages)} stages need {len(stages) - 1} numbers of classes to keep, not {len(keep)}")
        if top is not None and network is None:
            raise ValueError("top needs a network, whose likeliest classes are evaluated")
        check_counts(top=1 if top is None else top)
        self.network, self.top = None if network is None else network.eval(), top
        self.diffusion, self.stages, self.keep = diffusion.eval(), stages, list(keep)
        self.samples, self.temperature = stages[-1], temperature
        self.sampling = sampling or Sampling(timesteps="stratified")
        self.embeddings, self.micro_batch = embeddings, micro_batch
        self.generator = torch.Generator().manual_seed(seed)
        self.evaluations = 0

    @torch.no_grad()
    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Image (N, C, H, W) in [0, 1] -> logits (N, L) = -losses / temperature."""
        check_image(image, self.diffusion)
        losses = self.losses(image, generator).nanmean(dim=2)  # (N, L)
        losses[self.dropped] = torch.inf  # it has fewer pairs than others, or none, and cannot win
        elements = self.diffusion.encode(image[:1]).numel()
        return -losses * elements / self.temperature

    @torch.no_grad()
    def losses(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the loss of every class under every pair, (N, L, B); NaN where a class had been dropped."""
        generator = generator or self.generator
        l = self.diffusion.class_embeddings if self.embeddings is None else self.embeddings
        z0 = self.diffusion.encode(image)
        N, L, B = len(z0), len(l), self.samples
        t, noise = self.sampling.draw(z0, B, self.diffusion.timesteps, generator)
        if self.keep:  # each stage's pairs are spread over the timesteps
            order = torch.randperm(B, generator=generator, device=generator.device).to(t.device)
            t, noise = t[:, order], noise[:, order]
        losses = torch.full((N, L, B), torch.nan, device=z0.device)
        self.dropped = torch.zeros(N, L, dtype=torch.bool, device=z0.device)
        if self.top is not None:
            self.dropped = ranks(-take_logits(self.network, image, self.network(image))) >= self.top
        self.evaluations, done = 0, 0
        for end, keep in zip(self.stages, [*self.keep, L], strict=True):
            due = torch.zeros_like(losses, dtype=torch.bool)
            due[:, :, done:end] = ~self.dropped[:, :, None]
            fill_in(self, losses, due, z0, t, noise, l.expand(N, *l.shape))
            if keep < L:
                mean = losses[:, :, :end].mean(2).nan_to_num(torch.inf)
                self.dropped |= ranks(mean) >= keep
            done = end
        return losses


def fill_in(method: nn.Module, losses: Tensor, due: Tensor, z0: Tensor, t: Tensor, noise: Tensor, l: Tensor) -> None:
    """Compute the losses (N, K, B) that are `due`, of candidates l (N, K, ...), in passes that fit; count them."""
    indices = due.nonzero(as_tuple=True)

    def evaluate(size: int) -> None:
        for n, k, b in zip(*(index.split(size) for index in indices), strict=True):
            losses[n, k, b] = method.diffusion.loss(z0[n], t[n, b], noise[n, b], l[n, k])

    run_in_passes_that_fit(method, len(indices[0]), evaluate)
    method.evaluations += len(indices[0])


def ranks(values: Tensor) -> Tensor:
    """Return the rank (N, L) of each value in its row, 0 for the lowest."""
    return values.argsort(dim=1).argsort(dim=1)


def build(
    problem: Problem,
    *,
    samples: Sequence[int] | int = 48,
    keep: Sequence[int] | int = (),
    t_min: float = 0.0,
    t_max: float = 1.0,
    temperature: float = 1.0,
    micro_batch: int = 512,
    top: int | None = None,
) -> DiffusionClassifier:
    """Build a Diffusion Classifier over the problem's classes; several numbers of samples make a staged schedule.

    `top`: evaluate only the classes that are likeliest for the network, if there are too many to evaluate each.
    """
    sampling = Sampling("stratified", t_min=t_min, t_max=t_max)
    keep = [keep] if isinstance(keep, int) else keep
    embeddings = problem.condition.embeddings
    shortlist = {} if top is None else {"network": problem.model, "top": top}
    return DiffusionClassifier(
        problem.diffusion, samples, sampling, temperature, embeddings, micro_batch, keep=keep, **shortlist
    )
