"""DUSA (Li et al., NeurIPS 2024, arXiv 2501.00873): mix the diffusion model's predictions, not its conditions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn

from dtta.core.adapter import check_counts
from dtta.core.diffusion import Diffusion
from dtta.core.embedders import SoftLabel
from dtta.core.feedback import run_in_passes_that_fit
from dtta.core.parameters import select
from dtta.core.problem import Problem
from dtta.core.sampling import Sampling
from dtta.methods.self_training import SelfTraining
from dtta.methods.settings import make_optimizer


class Dusa(SelfTraining):
    """Minimise ‖Σ_k p_k ε_φ(z_t, t, l_k) - ε‖², for K candidate classes and the belief p among them.

    It rests on an identity: the score of an image is the mean of the class scores, weighted by p(y | x). If φ is fixed,
    no backward pass through the diffusion network is needed. With G_kl = ⟨ε_k, ε_l⟩ and b_k = ⟨ε_k, ε⟩, the loss is
    pᵀ G p - 2 pᵀ b + ⟨ε, ε⟩, and the gradient 2 (G p - b). If the sampling reuses its noise, pairs and candidates are
    drawn once for all steps and, if φ is fixed, the predictions are computed only once. The paper adapts online, in
    batches of 64. The attribute `evaluations` counts those of the diffusion model in the last call.

    Args:
        model: logits (N, L). Kept in eval mode.
        optimizer: over parameters of the model and, to adapt φ as in the paper, of the diffusion network.
        diffusion, embeddings: ε_φ, and l (L, ...) or a function that returns them.
        samples: pairs (t, ε) for each image and step; the paper takes one.
        top, others: candidates: the likeliest classes, and some drawn from the rest by their probabilities (of the
            unchanged logits); 4 and 2 in the paper. If both cover L, all classes are candidates.
        mix: "noise" (the paper); "loss" minimises Σ_k p_k ‖ε_k - ε‖², towards the Diffusion Classifier's answer.
        tau: logits are divided by τ times their Euclidean norm before the softmax over the candidates (LogitNorm, Wei
            et al., arXiv 2205.09310), 1 in the authors' code; None: they are not changed.
        sampling: how (t, ε) are drawn; None: only t = 100 of 1000, as in the paper.
        micro_batch: pairs in one pass, each with all its candidates; None: all at once. If memory runs out it is halved
            until a pass fits. It changes memory and speed, not the gradient.
        The rest: see ``SelfTraining`` and ``Adapter``.
    """

    separable = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        diffusion: Diffusion,
        embeddings: Tensor | Callable[[], Tensor],
        steps: int = 1,
        episodic: bool = False,
        samples: int = 1,
        top: int = 4,
        others: int = 2,
        mix: str = "noise",
        tau: float | None = 1.0,
        sampling: Sampling | None = None,
        micro_batch: int | None = None,
        **options,
    ):
        super().__init__(model, optimizer, steps, episodic, (diffusion.eval(),), **options)
        if mix not in ("noise", "loss"):
            raise ValueError(f"mix must be 'noise' or 'loss', not {mix!r}")
        if samples < 1 or top < 1 or others < 0:
            raise ValueError(f"samples ({samples}) and top ({top}) must be at least 1, others ({others}) 0 or more")
        check_counts(micro_batch=1 if micro_batch is None else micro_batch)
        if tau is not None and (isinstance(tau, str) or not tau > 0):
            raise ValueError(f"tau must be above 0, not {tau!r}")
        self.diffusion = diffusion
        self.samples = samples
        self.top = top
        self.others = others
        self.mix = mix
        self.tau = tau
        self.micro_batch = micro_batch
        self.sampling = sampling or Sampling(t_min=0.1, t_max=0.1 + 1 / diffusion.timesteps)
        self.embeddings = embeddings if callable(embeddings) else lambda: embeddings
        phi = {id(p) for p in diffusion.network.parameters()}
        self.adapts_phi = any(id(p) in phi for p in self.adapted)
        self.evaluations = 0
        self.drawn: tuple | None = None  # z0, candidates, t, ε
        self.products: tuple | None = None  # G, b, ⟨ε, ε⟩

    def begin(self, image: Tensor) -> None:
        super().begin(image)
        self.evaluations = 0
        self.drawn = None
        self.products = None

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss, whose graph leads to θ only; leave ∂L/∂φ, if φ is adapted, in φ's ``.grad``."""
        logits = self.model(image)
        self.output = logits.detach()
        if self.drawn is None or not self.sampling.reuse_noise:
            self.drawn = self.draw(self.diffusion.encode(image), self.output, generator)
            self.products = None
        if self.tau is not None:
            logits = logits / (self.tau * logits.norm(dim=1, keepdim=True))
        p = logits.float().gather(1, self.drawn[1]).softmax(dim=1)  # (N, K)
        if self.products is None or self.adapts_phi:
            pairs = len(image) * self.samples
            self.products = run_in_passes_that_fit(self, pairs, lambda size: self.accumulate(p.detach(), size))
            self.evaluations += p.numel() * self.samples
        return self.loss(p, *self.products).mean()

    def draw(self, z0: Tensor, logits: Tensor, generator: torch.Generator | list[torch.Generator]) -> tuple:
        """Return z0, candidates, t and ε; a list has one generator for each image."""
        if isinstance(generator, list):
            images = zip(z0.split(1), logits.split(1), generator, strict=True)
            return tuple(torch.cat(part) for part in zip(*(self.draw(*image) for image in images), strict=True))
        chosen = candidates(logits, self.top, self.others, generator)
        return z0, chosen, *self.sampling.draw(z0, self.samples, self.diffusion.timesteps, generator)

    def loss(self, p: Tensor, G: Tensor, b: Tensor, size: Tensor) -> Tensor:
        """Return the loss (N,) of the beliefs p (N, K), which is linear in the inner products."""
        if self.mix == "loss":
            return (p * (G.diagonal(dim1=1, dim2=2) - 2 * b + size[:, None])).sum(dim=1)
        return torch.einsum("nk,nkl,nl->n", p, G, p) - 2 * (p * b).sum(dim=1) + size

    def accumulate(self, p: Tensor, micro_batch: int) -> list[Tensor]:
        """Return the inner products over all pairs; leave ∂L/∂φ, if φ is adapted, in φ's ``.grad``."""
        self.optimizer.zero_grad(set_to_none=True)
        (N, K), B = p.shape, self.samples
        total = [p.new_zeros(N, K, K), p.new_zeros(N, K), p.new_zeros(N)]
        images = torch.arange(N).split(max(1, micro_batch // B))
        for n, i in product(images, torch.arange(B).split(micro_batch)):
            with torch.set_grad_enabled(self.adapts_phi):
                products = self.inner_products(*(x[n] for x in self.drawn), i)
                if self.adapts_phi:
                    (self.loss(p[n], *products).sum() * (len(i) / (N * B))).backward()
            for mean, part in zip(total, products, strict=True):
                mean[n] += part.detach() * (len(i) / B)
        return total

    def inner_products(
        self, z0: Tensor, chosen: Tensor, t: Tensor, noise: Tensor, i: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return G (N, K, K), b (N, K) and ⟨ε, ε⟩ (N,), as means over elements and the pairs i."""
        t, noise, l = t[:, i], noise[:, i], self.embeddings()
        (N, K), B = chosen.shape, len(i)
        n, k, i = (index.flatten() for index in torch.meshgrid(*map(torch.arange, (N, K, B)), indexing="ij"))
        z_t = self.diffusion.add_noise(z0[n], t[n, i], noise[n, i])
        predicted = self.diffusion.predict(z_t, t[n, i], l[chosen[n, k]]).float()
        predicted = predicted.reshape(N, K, -1)  # all pairs and elements in a row
        target = self.diffusion.target(z0.repeat_interleave(B, 0), t.flatten(), noise.flatten(0, 1)).reshape(N, -1)
        G = predicted @ predicted.transpose(1, 2) / target.shape[1]
        b = torch.einsum("nkd,nd->nk", predicted, target) / target.shape[1]
        return G, b, target.square().mean(dim=1)


def released_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return those of φ that the authors' code adapts: all but the class table, and a DiT's fixed position embedding.

    The position embedding becomes a parameter of the network, with the same values.
    """
    embed = getattr(network, "pos_embed", None)
    if "pos_embed" in getattr(embed, "_buffers", ()):
        values = embed.pos_embed
        del embed.pos_embed
        embed.pos_embed = nn.Parameter(values)
    table = {p for m in network.modules() if isinstance(m, SoftLabel) for p in m.parameters()}
    return [p for p in select(network) if p not in table]


def candidates(logits: Tensor, top: int, others: int, generator: torch.Generator) -> Tensor:
    """Return indices (N, K): the `top` likeliest classes, and `others` drawn from the rest by their probabilities."""
    L = logits.shape[1]
    order = logits.argsort(dim=1, descending=True)
    if top + others >= L or others == 0:
        return order[:, : top + others]
    # If the belief is almost certain, the probabilities of the rest underflow to 0; they must stay drawable.
    p = logits.float().softmax(dim=1).clamp(min=1e-12).scatter(1, order[:, :top], 0.0)
    drawn = torch.multinomial(p.to(generator.device), others, generator=generator)
    return torch.cat([order[:, :top], drawn.to(order.device)], dim=1)


def build(
    problem: Problem,
    *,
    optimizer: str = "adam",
    lr: float = 1e-5,
    steps: int = 1,
    samples: int = 1,
    top: int = 4,
    others: int = 2,
    mix: str = "noise",
    tau: float | str | None = 1.0,
    adapt_diffusion: bool = True,
    lr_diffusion: float | None = None,
    timesteps: str = "uniform",
    t_min: float = 0.1,
    t_max: float = 0.101,
    reuse_noise: bool = False,
    episodic: bool = False,
    micro_batch: int | None = None,
    answer_before_step: bool = False,
    as_released: bool = False,
) -> Dusa:
    """Build DUSA; the defaults are its paper's: one noise at t = 100 of 1000, six candidates, φ adapted too.

    `as_released`: adapt those parameters of φ that its authors' code adapts (see ``released_parameters``); False: all.
    `tau`: of LogitNorm (see ``Dusa``); None, or "none" in a TOML file: the logits are not changed.
    """
    groups = [{"params": select(problem.model)}]
    if adapt_diffusion:
        rate = lr if lr_diffusion is None else lr_diffusion
        phi = problem.diffusion.network
        groups.append({"params": released_parameters(phi) if as_released else select(phi), "lr": rate})
    chosen = make_optimizer(optimizer, groups, lr)
    sampling = Sampling(timesteps, t_min=t_min, t_max=t_max, reuse_noise=reuse_noise)
    options = dict(samples=samples, top=top, others=others, mix=mix, tau=None if tau == "none" else tau)
    options |= dict(sampling=sampling, micro_batch=micro_batch, answer_before_step=answer_before_step)
    # the embeddings are read at each step, since φ may be adapted
    return Dusa(
        problem.model, chosen, problem.diffusion, lambda: problem.condition.embeddings, steps, episodic, **options
    )
