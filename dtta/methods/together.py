"""Several images at once, each with its own copy of the adapted parameters: the answers of one image at a time, faster.

One image leaves most of a pass empty. Here the copies are stacked, (N, ...) for each parameter; the task network runs
under ``torch.func.vmap``, and the (t, ε) pairs of all N images go through the diffusion model in one pass. Online, N
streams of images go on at the same time, each with a copy that is carried along.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from dtta.core.adapter import Adapter, check_image, gradients_only_for, take_logits
from dtta.core.stopping import Stopping
from dtta.core.tta import DiffusionTTA
from dtta.methods.ensemble import Ensemble
from dtta.methods.none import NoAdaptation
from dtta.methods.self_training import SelfTraining

# They update each number of a parameter by itself, so one of them can serve a stack of copies.
ELEMENTWISE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
PASS = 192  # pairs; larger passes are no faster on a CPU, and take memory


class OneByOneError(ValueError):
    """Why images can only be adapted one by one."""


class Together:
    """Adapt to N images at the same time, then answer; called with N images and N generators.

    Episodic: each from the initial parameters. Online: each from those that the image at the same place of the last
    call left behind, since the last `reset`; so image n of each call belongs to stream n.

    Args:
        method: Diffusion-TTA, or a method whose objective is ``separable``, with fixed φ, and SGD, Adam or AdamW; or an
            ensemble of such a method and the network. It is not changed, and has no history of these images.

    Raises:
        OneByOneError, a ValueError: why images cannot be adapted together with this method.
    """

    def __init__(self, method: nn.Module):
        self.ensemble: Callable[[Tensor, Tensor], Tensor] | None = None
        if isinstance(method, Ensemble) and isinstance(method.first, NoAdaptation):
            self.ensemble, self.first, method = method.mean, method.first, method.second
        separable = isinstance(method, SelfTraining) and method.separable
        if not isinstance(method, DiffusionTTA) and not separable:
            raise OneByOneError(f"{type(method).__name__} takes one image at a time")
        if separable and method.prior is not None:
            raise OneByOneError("statistics of one image belong to that image; leave batch_statistics out")
        if not isinstance(method.optimizer, ELEMENTWISE):
            raise OneByOneError(f"{type(method.optimizer).__name__} may mix the images' parameters; use SGD or Adam")
        if not method.episodic and getattr(method, "stopping", Stopping()) != Stopping():
            raise OneByOneError("streams whose images stop at different steps do not go on together")
        names = {id(p): name for name, p in method.model.named_parameters()}
        if not all(id(p) in names for p in method.adapted):
            raise OneByOneError("an adapted diffusion model differs from image to image, so no pass can be shared")
        self.network = method.model
        self.names = [names[id(p)] for p in method.adapted]
        self.method: Adapter = copy.copy(method)
        self.method._modules = dict(method._modules)
        self.method.model = _Copies(self)
        if isinstance(method, DiffusionTTA) and not method.micro_batch and method.start[0].device.type == "cpu":
            self.method.micro_batch = max(method.samples, PASS)
        self.reset()

    def reset(self) -> None:
        """Begin new streams with the next call; nothing else remains of the images before it."""
        self.copies: list[Tensor] = []
        self.calls = 0

    def __call__(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Adapt to each image and answer.

        Args:
            images: (N, C, H, W) in [0, 1].
            generators: one for each image, of its (t, ε).

        Returns:
            The outputs (N, ...), equal to those of ``method(images[n : n + 1], generators[n])`` up to rounding.

        Raises:
            ValueError: wrong images. OneByOneError: the network cannot run under vmap. FloatingPointError: a loss or an
            output is not finite.
        """
        method, N = self.method, len(images)
        if len(generators) != N:
            raise ValueError(f"{N} images need {N} generators, not {len(generators)}")
        with self._ready(images) as images:
            if method.episodic or not self.copies:
                self._start(N)
            method.begin(images)
            steps = self._by_diffusion if isinstance(method, DiffusionTTA) else self._by_objective
            output = steps(images, generators)
            if output is None:
                with torch.no_grad():
                    output = method.model(images)
        self._check_finite(output, "output")
        self._carry_along()
        return output if self.ensemble is None else self.ensemble(self.first(images), output)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Answer with the present copies, without adapting."""
        with self._ready(images) as images, torch.no_grad():
            return self.method.model(images)

    def _by_diffusion(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor | None:
        """Take the steps of Diffusion-TTA; return the outputs unless the networks must run once more for them."""
        tta, N = self.method, len(images)
        answers: list[Tensor | None] = [None] * N
        outputs: list[Tensor] = []
        for step in range(tta.steps):
            y = tta.model(images)
            outputs.append(y.detach())
            for n in range(N):
                if answers[n] is None and tta.stopping.should_stop([output[n : n + 1] for output in outputs]):
                    answers[n] = outputs[-1][n]
            active = [n for n in range(N) if answers[n] is None]
            if not active:
                break
            c = tta.condition(y[active])
            if step == 0 or not tta.sampling.reuse_noise:
                T, z0 = tta.diffusion.timesteps, tta.z0
                pairs = {n: tta.sampling.draw(z0[n : n + 1], tta.samples, T, generators[n]) for n in active}
            t, noise = (torch.cat(part) for part in zip(*(pairs[n] for n in active), strict=True))
            loss, c_grad = tta.feedback(tta.z0[active], t, noise, c)
            self.optimizer.zero_grad(set_to_none=True)
            c.backward(len(active) * c_grad)  # L is a mean over images; each copy needs the gradient of its own loss
            self._check_finite(loss, "loss")  # waits for a GPU
            self.optimizer.step()
        if len(active) == N:
            return None
        with torch.no_grad():
            last = tta.model(images) if active else outputs[-1]
        return torch.stack([row if answer is None else answer for answer, row in zip(answers, last, strict=True)])

    def _by_objective(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor | None:
        """Take the steps of a method with a separable objective, which is a mean over the images."""
        method = self.method
        for _ in range(method.steps):
            loss = method.objective(images, list(generators))
            self._check_finite(loss, "loss")
            self.optimizer.zero_grad(set_to_none=True)
            (len(images) * loss).backward()
            self.optimizer.step()
        return method.output if method.answer_before_step else None

    def outputs(self, images: Tensor) -> Tensor:
        """Return f_θ(x) of each image with the copy of θ at its place."""

        def output(weights: dict[str, Tensor], image: Tensor) -> Tensor:
            return functional_call(self.network, weights, (image[None],))[0]

        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it has no gradient, and does not see that one is needed
        try:
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no batching rule
                return vmap(output)(dict(zip(self.names, self.copies, strict=True)), images)
        except RuntimeError as error:
            if "vmap" not in str(error) and "batching rule" not in str(error):
                raise
            raise OneByOneError(f"{type(self.network).__name__} cannot run under vmap ({error})") from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)

    @contextmanager
    def _ready(self, images: Tensor) -> Iterator[Tensor]:
        """Check the images and provide the state in which networks run: eval mode, gradients for the copies only."""
        networks = [network.eval() for network in self.method.networks]
        check_image(images, *networks)
        with gradients_only_for((), *networks), self.network.register_forward_hook(take_logits):
            yield images.clone() if images.is_inference() else images

    def _start(self, N: int) -> None:
        """Make N copies of the initial parameters, and their optimizer with the settings of the method's."""
        self.copies = [p.detach().expand(N, *p.shape).clone().requires_grad_() for p in self.method.start]
        remaining = iter(self.copies)
        optimizer = self.method.optimizer
        groups = [{**group, "params": [next(remaining) for _ in group["params"]]} for group in optimizer.param_groups]
        self.optimizer = type(optimizer)(groups, lr=optimizer.defaults["lr"])

    @torch.no_grad()
    def _carry_along(self) -> None:
        method = self.method
        self.calls += 1
        if method.episodic or (method.reset_every and self.calls % method.reset_every == 0):
            self.reset()
        elif method.restore_rate:
            start = [p.expand(len(c), *p.shape) for p, c in zip(method.start, self.copies, strict=True)]
            torch._foreach_lerp_(self.copies, start, method.restore_rate)

    def _check_finite(self, value: Tensor, what: str) -> None:
        if not value.isfinite().all():
            raise FloatingPointError(f"the {what} of one of several images is not finite; lower the learning rate")


class _Copies(nn.Module):
    """The task network with a copy of the adapted parameters for each image: images (N, C, H, W) -> (N, ...)."""

    def __init__(self, together: Together):
        super().__init__()
        self.together = together

    def forward(self, images: Tensor) -> Tensor:
        return self.together.outputs(images)


def largest_number(method: nn.Module) -> int:
    """Return how many copies of the adapted parameters, their gradients and optimizer states fit into half the memory.

    Memory that is available now: of the GPU, or of the machine.
    """
    start = method.second.start if isinstance(method, Ensemble) else method.start
    available = psutil.virtual_memory().available
    if start[0].is_cuda:
        available = torch.cuda.mem_get_info(start[0].device)[0]
    copies = 5  # parameters, gradients, two moments, temporary
    return max(1, available // 2 // (copies * sum(p.nbytes for p in start)))
