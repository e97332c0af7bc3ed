"""Posterior over the network's top classes: its belief times factors from the diffusion losses, without adapting."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dtta.core.adapter import check_counts, check_image, take_logits
from dtta.core.diffusion import Diffusion
from dtta.core.problem import Problem
from dtta.core.sampling import Sampling
from dtta.methods.diffusion_classifier import fill_in


class DiffusionPosterior(nn.Module):
    """log p(c_j | x) = log p_θ(c_j | x) - β E_{t,ε} ‖ε_φ(z_t, t, l_j) - ε‖² + const, for the K likeliest classes.

    This is a product of two experts, the network and a Diffusion Classifier (Li et al., arXiv 2303.16203): the
    diffusion model reranks the network's candidates. All candidates of an image are evaluated under the same (t, ε),
    in stages; after each stage those that are significantly behind the leading one are dropped, and when one is left
    no more pairs are drawn (a race, Maron and Moore, 1993). Forward passes only; nothing is carried along.
    The attribute `evaluations` counts those of the diffusion model in the last call.

    Args:
        model: the task network f_θ, image -> logits (N, L). Kept in eval mode.
        diffusion, embeddings: ε_φ, and l (L, ...); embeddings None: the diffusion model's ``class_embeddings``.
        top: K, candidates.
        samples: the largest number of pairs (t, ε) of a candidate.
        beta: β, times the loss summed over elements; 1 is the Diffusion Classifier's equation, 0 the network's belief.
        bound: drop a candidate that is behind by more than this many standard errors of the paired difference of
            losses; None: drop none.
        stage: pairs of each remaining candidate in a stage, drawn by `sampling` for this stage.
        p_min: leave out candidates whose probability is less than this fraction of the likeliest class's; 0: none.
        sampling: how the pairs of a stage are drawn; None: t evenly spaced at random ("stratified").
        micro_batch: the largest number of evaluations in one pass. If memory runs out it is halved until a pass fits.
    """

    def __init__(
        self,
        model: nn.Module,
        diffusion: Diffusion,
        embeddings: Tensor | None = None,
        top: int = 3,
        samples: int = 8,
        beta: float = 1.0,
        bound: float | None = None,
        stage: int = 4,
        p_min: float = 0.0,
        sampling: Sampling | None = None,
        micro_batch: int = 512,
        seed: int = 0,
    ):
        super().__init__()
        check_counts(top=top, samples=samples, stage=stage, micro_batch=micro_batch)
        if not (beta >= 0 and 0 <= p_min < 1):
            raise ValueError(f"beta must be 0 or more and p_min must lie in [0, 1), not {beta!r} and {p_min!r}")
        if bound is not None and (stage < 2 or not bound >= 0):
            raise ValueError(f"bound must be 0 or more and needs a stage of at least 2, not {bound!r} and {stage!r}")
        self.model, self.diffusion = model.eval(), diffusion.eval()
        self.embeddings = embeddings
        self.top = top
        self.samples = samples
        self.beta = beta
        self.bound = math.inf if bound is None else bound
        self.stage = stage
        self.p_min = p_min
        self.sampling = sampling or Sampling(timesteps="stratified")
        self.micro_batch = micro_batch
        self.generator = torch.Generator().manual_seed(seed)
        self.evaluations = 0

    @torch.no_grad()
    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Image (N, C, H, W) in [0, 1] -> log posterior (N, L)."""
        check_image(image, self.model, self.diffusion)
        logits = take_logits(self.model, image, self.model(image))
        return self.rerank(image, logits, generator or self.generator)

    @torch.no_grad()
    def rerank(self, image: Tensor, logits: Tensor, generator: torch.Generator) -> Tensor:
        """Return the log posterior (N, L), given the network's logits.

        The candidates share the probability that the network gives to all of them; other classes keep the network's.
        """
        log_p = logits.float().log_softmax(dim=1)
        prior, classes = log_p.topk(min(self.top, log_p.shape[1]), dim=1)  # (N, K), likeliest first
        behind = self.race(self.diffusion.encode(image), prior, classes, generator)
        return log_p.scatter(1, classes, prior.logsumexp(1, keepdim=True) + (-behind).log_softmax(1))

    def race(self, z0: Tensor, prior: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Return how far each candidate is behind the leading one in log posterior, (N, K).

        A candidate that was dropped stays where it was then. `prior`, `classes`: log p_θ and indices (N, K).
        """
        l = (self.diffusion.class_embeddings if self.embeddings is None else self.embeddings)[classes]  # (N, K, ...)
        scale = self.beta * z0[0].numel()
        behind = prior[:, :1] - prior
        remaining = (-behind).exp() >= self.p_min
        losses = prior.new_empty(*prior.shape, 0)
        self.evaluations = 0
        while (done := losses.shape[2]) < self.samples:
            due = remaining & (remaining.sum(1, keepdim=True) > 1)
            if not due.any():
                break
            count = min(self.stage, self.samples - done)
            t, noise = self.sampling.draw(z0, count, self.diffusion.timesteps, generator)
            new = torch.full((*due.shape, count), torch.nan, device=z0.device)  # NaN: not due
            fill_in(self, new, due[:, :, None].expand_as(new), z0, t, noise, l)
            losses = torch.cat([losses, new], dim=2)
            scores = (prior - scale * losses.mean(2)).masked_fill(~due, -torch.inf)
            leader = scores.argmax(1, keepdim=True)  # (N, 1)
            differences = losses - losses.gather(1, leader[:, :, None].expand(-1, -1, done + count))  # paired
            gap = prior.gather(1, leader) - prior + scale * differences.mean(2)
            behind = torch.where(due, gap, behind)
            if self.bound < math.inf and done + count < self.samples:
                error = scale * differences.std(2) / math.sqrt(done + count)
                remaining = remaining & ~(due & (gap > self.bound * error))
        return behind


def build(
    problem: Problem,
    *,
    top: int = 3,
    samples: int = 8,
    beta: float = 1.0,
    bound: float | None = None,
    stage: int = 4,
    p_min: float = 0.0,
    t_min: float = 0.0,
    t_max: float = 1.0,
    micro_batch: int = 512,
) -> DiffusionPosterior:
    """Build the posterior over the network's top classes, with stratified timesteps."""
    sampling = Sampling("stratified", t_min=t_min, t_max=t_max)
    embeddings = problem.condition.embeddings
    options = dict(top=top, samples=samples, beta=beta, bound=bound, stage=stage, p_min=p_min, micro_batch=micro_batch)
    return DiffusionPosterior(problem.model, problem.diffusion, embeddings, sampling=sampling, **options)
