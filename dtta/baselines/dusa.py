"""DUSA (Li et al., NeurIPS 2024, arXiv 2501.00873): mix what the diffusion model predicts, not what it is told."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dtta.baselines.self_training import SelfTraining
from dtta.diffusion import Diffusion
from dtta.sampling import Sampling


class Dusa(SelfTraining):
    """Goes downhill on ‖Σ_k p_k ε_φ(z_t, t, l_k) - ε‖², for K candidate classes and the belief p among them.

    The identity behind it: the score of an image is the mean of the class scores, weighted by p(y | x).
    Where φ stands still the predictions ε_k hold no gradient, so nothing goes backward through the diffusion model:
    with G_kl = ⟨ε_k, ε_l⟩ and b_k = ⟨ε_k, ε⟩ the loss is pᵀ G p - 2 pᵀ b + ⟨ε, ε⟩, and its gradient 2 (G p - b). If
    the pairs (t, ε) are fixed they are drawn once for all steps, with the candidates, and the predictions are made once
    as well where φ stands still.

    Online by nature, in batches of 64.

    With ``mix="loss"`` it is Σ_k p_k ‖ε_k - ε‖² that goes downhill: towards the Diffusion Classifier's answer.

    Args:
        model: logits (N, L). Kept in eval mode.
        optimizer: over weights of the model, and of the diffusion network if φ moves, as in the paper. Its authors'
            code leaves DiT's table of class embeddings as it is; to do so here, keep it out of the optimizer.
        diffusion: ε_φ. embeddings: l (L, ...), or a function that returns them.
        samples: pairs (t, ε) for each image and step; the paper takes one.
        top, others: candidates: the likeliest classes, and some drawn from the rest by their probabilities;
            4 and 2 in the paper. If both cover L, all classes are candidates.
        mix: "noise" (the paper) or "loss".
        tau: logits are divided by τ times their Euclidean norm before the softmax over the candidates (LogitNorm, Wei
            et al., arXiv 2205.09310), 1 in the authors' code; None: they stay as they are. The candidates are drawn by
            the logits as they are either way.
        sampling: how (t, ε) are drawn; None: at t = 100 of 1000 alone, as in the paper.
        The rest: see ``SelfTraining``.

    Attributes:
        evaluations: of the diffusion model, in the last call.
    """

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
    ):
        super().__init__(model, optimizer, steps, episodic, diffusion.eval())
        if mix not in ("noise", "loss"):
            raise ValueError(f"mix must be 'noise' or 'loss', not {mix!r}")
        if samples < 1 or top < 1 or others < 0:
            raise ValueError(f"samples ({samples}) and top ({top}) must be at least 1, others ({others}) 0 or more")
        if tau is not None and not tau > 0:
            raise ValueError(f"tau must be above 0, not {tau!r}")
        self.diffusion, self.samples, self.top, self.others, self.mix, self.tau = (
            diffusion, samples, top, others, mix, tau
        )  # fmt: skip
        self.sampling = sampling or Sampling(low=0.1, high=0.1 + 1 / diffusion.timesteps)
        self.embeddings = embeddings if callable(embeddings) else lambda: embeddings
        phi = {id(p) for p in diffusion.network.parameters()}
        self.moves_phi = any(id(p) in phi for p in self.adapted)
        self.evaluations, self._drawn, self._known = 0, None, None

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Image (N, C, H, W) in [0, 1] -> logits (N, L) after adaptation."""
        self.diffusion.eval()
        self.evaluations, self._drawn, self._known = 0, None, None
        return super().forward(image, generator)

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor:
        logits = self.model(image)
        if self._drawn is None or not self.sampling.fixed:
            z0, chosen = self.diffusion.encode(image), candidates(logits.detach(), self.top, self.others, generator)
            t, noise = self.sampling.draw(z0, self.samples, self.diffusion.timesteps, generator)
            self._drawn, self._known = (z0, chosen, t, noise), None
        if self._known is None or self.moves_phi:
            self._known = self._products(*self._drawn)
        chosen, (G, b, size) = self._drawn[1], self._known
        if self.tau is not None:
            logits = logits / (self.tau * logits.norm(dim=1, keepdim=True))
        p = logits.float().gather(1, chosen).softmax(dim=1)  # (N, K)
        if self.mix == "loss":
            losses = G.diagonal(dim1=1, dim2=2) - 2 * b + size[:, None]
            return (p * losses).sum(dim=1).mean()
        return (torch.einsum("nk,nkl,nl->n", p, G, p) - 2 * (p * b).sum(dim=1) + size).mean()

    def _products(self, z0: Tensor, chosen: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """G (N, K, K), b (N, K) and ⟨ε, ε⟩ (N,), as means over elements and pairs."""
        (N, K), B, l = chosen.shape, self.samples, self.embeddings()
        n, k, i = (index.flatten() for index in torch.meshgrid(*map(torch.arange, (N, K, B)), indexing="ij"))
        with torch.set_grad_enabled(self.moves_phi):
            z_t = self.diffusion.add_noise(z0[n], t[n, i], noise[n, i])
            predicted = self.diffusion.predict(z_t, t[n, i], l[chosen[n, k]]).float()
            self.evaluations += N * K * B
            predicted = predicted.reshape(N, K, -1)  # all pairs and elements in a row
            target = self.diffusion.target(z0.repeat_interleave(B, 0), t.flatten(), noise.flatten(0, 1)).reshape(N, -1)
            G = predicted @ predicted.transpose(1, 2) / target.shape[1]
            b = torch.einsum("nkd,nd->nk", predicted, target) / target.shape[1]
        return G, b, target.square().mean(dim=1)


def candidates(logits: Tensor, top: int, others: int, generator: torch.Generator) -> Tensor:
    """Indices (N, K) of the `top` likeliest classes and of `others` drawn from the rest by their probabilities."""
    L = logits.shape[1]
    order = logits.argsort(dim=1, descending=True)
    if top >= L:
        return order
    if top + others >= L or others == 0:
        return order[:, : top + others]
    # Where the belief is next to certain the rest is zero to the last bit, and must still be drawn from.
    chance = logits.float().softmax(dim=1).clamp(min=1e-12).scatter(1, order[:, :top], 0.0)
    drawn = torch.multinomial(chance.to(generator.device), others, generator=generator)
    return torch.cat([order[:, :top], drawn.to(order.device)], dim=1)
