"""Several images at once, each with its own copy of the adapted parameters: the answers of one image at a time, faster.

One image leaves most of a pass empty. Here the copies are stacked, (N, ...) for each parameter; the task network runs
under ``torch.func.vmap``, and the (t, ε) pairs of all N images go through the diffusion model in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from dtta.core.adapter import check_image, gradients_only_for, take_logits
from dtta.core.tta import DiffusionTTA

# They update each number of a parameter by itself, so one of them can serve a stack of copies.
ELEMENTWISE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


class Together:
    """Adapt N images at the same time, each from the initial parameters, and answer; called with N images.

    Args:
        tta: episodic, with fixed φ, and SGD, Adam or AdamW. It is not changed, and has no history of these images.

    Raises:
        ValueError: why images cannot be adapted together with this method.
    """

    def __init__(self, tta: nn.Module):
        if not isinstance(tta, DiffusionTTA):
            raise ValueError(f"{type(tta).__name__} takes one image at a time; only Diffusion-TTA takes several")
        if not tta.episodic:
            raise ValueError("online adaptation goes from image to image; only episodic adaptation takes several")
        if not isinstance(tta.optimizer, ELEMENTWISE):
            raise ValueError(f"{type(tta.optimizer).__name__} may mix the images' parameters; use SGD, Adam or AdamW")
        names = {id(p): name for name, p in tta.model.named_parameters()}
        if not all(id(p) in names for p in tta.adapted):
            raise ValueError("an adapted diffusion model differs from image to image, so no pass can be shared")
        self.tta = tta
        self.names = [names[id(p)] for p in tta.adapted]

    def __call__(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Adapt to each image and answer.

        Args:
            images: (N, C, H, W) in [0, 1].
            generators: one for each image, of its (t, ε).

        Returns:
            The outputs (N, ...), equal to those of ``tta(images[n : n + 1], generators[n])`` up to rounding.

        Raises:
            ValueError: wrong images, or the network cannot run under vmap. FloatingPointError: a loss is not finite.
        """
        check_image(images, *self.tta.networks)
        tta, N = self.tta, len(images)
        if len(generators) != N:
            raise ValueError(f"{N} images need {N} generators, not {len(generators)}")
        answers: list[Tensor | None] = [None] * N
        outputs: list[Tensor] = []
        networks = [network.eval() for network in tta.networks]
        with gradients_only_for((), *networks), tta.model.register_forward_hook(take_logits):
            images = images.clone() if images.is_inference() else images
            copies = [p.detach().expand(N, *p.shape).clone().requires_grad_() for p in tta.adapted]
            optimizer = self._optimizer(copies)
            z0 = tta.diffusion.encode(images)
            for step in range(tta.steps):
                y = self._outputs(copies, images)
                outputs.append(y.detach())
                self._stop(answers, outputs)
                if all(answer is not None for answer in answers):
                    break
                c = tta.condition(y)
                if step == 0 or not tta.sampling.reuse_noise:
                    T = tta.diffusion.timesteps
                    pairs = [tta.sampling.draw(z0[n : n + 1], tta.samples, T, generators[n]) for n in range(N)]
                    t, noise = (torch.cat(part) for part in zip(*pairs, strict=True))
                loss, c_grad = tta.feedback(z0, t, noise, c)
                optimizer.zero_grad(set_to_none=True)
                c.backward(N * c_grad)  # L is a mean over the images; each copy needs the gradient of its own loss
                if not loss.isfinite():
                    raise FloatingPointError(f"the loss of one of {N} images is not finite; lower the learning rate")
                optimizer.step()
            with torch.no_grad():
                last = self._outputs(copies, images)
        return torch.stack([row if answer is None else answer for answer, row in zip(answers, last, strict=True)])

    def _outputs(self, copies: list[Tensor], images: Tensor) -> Tensor:
        """Return f_θ(x) of each image with its own copy of θ."""

        def output(weights: dict[str, Tensor], image: Tensor) -> Tensor:
            return functional_call(self.tta.model, weights, (image[None],))[0]

        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it has no gradient, and does not see that one is needed
        try:
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no batching rule
                return vmap(output)(dict(zip(self.names, copies, strict=True)), images)
        except RuntimeError as error:
            if "vmap" not in str(error) and "batching rule" not in str(error):
                raise
            name = type(self.tta.model).__name__
            raise ValueError(f"{name} cannot run under vmap ({error}); adapt one image at a time") from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)

    def _optimizer(self, copies: list[Tensor]) -> torch.optim.Optimizer:
        """Return an optimizer of the copies with the settings of the method's."""
        remaining = iter(copies)
        groups = [
            {**group, "params": [next(remaining) for _ in group["params"]]} for group in self.tta.optimizer.param_groups
        ]
        return type(self.tta.optimizer)(groups, lr=self.tta.optimizer.defaults["lr"])

    def _stop(self, answers: list[Tensor | None], outputs: list[Tensor]) -> None:
        """Set the answers of images that stop now."""
        for n, answer in enumerate(answers):
            if answer is None and self.tta.stopping.should_stop([y[n : n + 1] for y in outputs]):
                answers[n] = outputs[-1][n]


def can_adapt_together(method: nn.Module) -> bool:
    """Return whether ``Together`` takes this method."""
    try:
        Together(method)
    except ValueError:
        return False
    return True
