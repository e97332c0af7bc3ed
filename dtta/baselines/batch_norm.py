"""Batch-norm adaptation (Schneider et al., NeurIPS 2020, arXiv 2006.16971): normalise by what is seen now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dtta.adapt import check_image


class BatchNormAdaptation(nn.Module):
    """Answers with batch norm's statistics mixed: those of training count as `prior` images beside the n given.

    No weight moves, nothing is carried along; the smaller the batch, the more the prior is needed.

    Args:
        model: the task network. Kept in eval mode.
        prior: N; 0 forgets the statistics of training.

    Raises:
        ValueError: a network without batch norm.
    """

    def __init__(self, model: nn.Module, prior: float = 16):
        super().__init__()
        if not any(isinstance(m, _BatchNorm) for m in model.modules()):
            raise ValueError(f"{type(model).__name__} has no batch norm, so there are no statistics to adapt")
        if not prior >= 0:
            raise ValueError(f"the prior must be 0 or more images, not {prior!r}")
        self.model, self.prior = model.eval(), prior

    @torch.no_grad()
    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (n, C, H, W) in [0, 1] -> the network's output."""
        check_image(image)
        with own_statistics(self.model, self.prior):
            return self.model(image)


@contextmanager
def own_statistics(model: nn.Module, prior: float = 0, images: int | None = None) -> Iterator[None]:
    """Inside, batch norm uses the statistics of what it is given; the running ones come back as they were.

    A layer that is given a single number for each channel (a 1 x 1 map of one image) has no variance to go by,
    and uses its running statistics.

    Args:
        prior: N, how many images the running statistics count as: μ = (N μ_s + n μ_t) / (N + n) for n images, and
            the variance likewise. With 0 a gradient flows through the statistics, as in
            training; mixed ones are constants.
        images: n, where it is not the number of what the layer is given: many views of one image are one image.
    """
    kept = {m: (m.running_mean, m.running_var) for m in model.modules() if isinstance(m, _BatchNorm)}

    def choose(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        mean, var = kept[layer]
        if x.numel() == x.shape[1]:
            layer.running_mean, layer.running_var = mean, var
        elif prior == 0:
            layer.running_mean, layer.running_var = None, None
        else:
            n, others = len(x) if images is None else images, [d for d in range(x.ndim) if d != 1]
            seen = x.var(dim=others, correction=0), x.mean(dim=others)
            layer.running_var, layer.running_mean = (
                (prior * old + n * new) / (prior + n) for old, new in zip((var, mean), seen, strict=True)
            )

    hooks = [m.register_forward_pre_hook(choose) for m in kept]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for m, (mean, var) in kept.items():
            m.running_mean, m.running_var = mean, var
