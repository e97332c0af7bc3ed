"""Batch-norm adaptation (Schneider et al., NeurIPS 2020, arXiv 2006.16971): use statistics of the test images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dtta.core.adapter import check_image, take_logits
from dtta.core.problem import Problem


class BatchNormAdaptation(nn.Module):
    """Answer with mixed batch-norm statistics: those of training count as `prior` images next to the n given.

    No parameter changes, nothing is carried along. `prior`: N, 0 or more; 0 ignores the statistics of training. The
    smaller the batch, the larger it should be. Raises ValueError: `model` has no batch norm.
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
        check_image(image, self.model)
        with mixed_statistics(self.model, self.prior):
            return take_logits(self.model, image, self.model(image))


@contextmanager
def mixed_statistics(model: nn.Module, prior: float | None = None, images: int | None = None) -> Iterator[None]:
    """Let batch norm use the statistics of its input; restore the running statistics at the end.

    A layer whose input has a single number for each channel (a 1 x 1 map of one image) keeps its running statistics.

    Args:
        prior: N, the number of images that the running statistics count as: μ = (N μ_s + n μ_t) / (N + n) for n images,
            and the variance likewise, with the unbiased variance of the input, as in the authors' code; no gradient
            flows through them. None: the statistics of the input, as in training: biased variance, with a gradient.
        images: n, if it is not the length of the input: many views of one image count as one image.
    """
    kept = {m: (m.running_mean, m.running_var) for m in model.modules() if isinstance(m, _BatchNorm)}

    def choose(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        mean, var = kept[layer]
        if x.numel() == x.shape[1]:
            layer.running_mean, layer.running_var = mean, var
        elif prior is None:
            layer.running_mean, layer.running_var = None, None
        else:
            n = len(x) if images is None else images
            others = [d for d in range(x.ndim) if d != 1]
            layer.running_var = (prior * var + n * x.var(dim=others, correction=1)) / (prior + n)
            layer.running_mean = (prior * mean + n * x.mean(dim=others)) / (prior + n)

    hooks = [m.register_forward_pre_hook(choose) for m in kept]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for m, (mean, var) in kept.items():
            m.running_mean, m.running_var = mean, var


def build(problem: Problem, *, prior: float = 16) -> BatchNormAdaptation:
    """Build batch-norm adaptation."""
    return BatchNormAdaptation(problem.model, prior)
