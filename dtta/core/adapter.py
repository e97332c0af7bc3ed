"""The life cycle shared by all methods that adapt a network at test time: `Adapter`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain

import torch
from torch import Tensor, nn


class Adapter(nn.Module):
    """Adapt a network to an image, then answer; called like the network.

    Each call runs the same cycle: check the image; let only the adapted parameters require gradients; take `steps`
    steps; predict; restore the parameters (episodic) or carry them along (online). A method is a subclass that says
    what one `step` does, and may override `begin`, `statistics` and `answer`.

    Args:
        model: the task network f_θ, image -> output, a tensor or an object with ``logits``. Kept in eval mode.
        optimizer: a new one, over the parameters to adapt (see ``dtta.core.parameters.select``).
        steps: gradient steps for each call.
        episodic: True: restore all parameters after each call (single-sample adaptation). False: keep parameters and
            optimizer state from image to image (online adaptation).
        others: further modules whose parameters the optimizer may hold.
        reset_every: online only: start again from the initial parameters after this many calls; None: never.
        restore_rate: online only: after each call, move the parameters by this fraction of the way back to their
            initial values; 0: not at all.
        seed: of the generator used by calls that pass none.

    Attributes: `adapted`, the adapted parameters; `start`, copies of their initial values. Raises ValueError: a setting
    out of range, a used optimizer, or parameters in it that are not float32 or belong to no network given.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: int = 1,
        episodic: bool = True,
        others: Iterable[nn.Module] = (),
        *,
        reset_every: int | None = None,
        restore_rate: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        check_counts(steps=steps, reset_every=1 if reset_every is None else reset_every)
        if not 0 <= restore_rate <= 1:
            raise ValueError(f"restore_rate must lie in [0, 1], not {restore_rate!r}")
        if episodic and (reset_every or restore_rate):
            raise ValueError("reset_every and restore_rate are for online adaptation: set episodic=False")
        self.model = model.eval()
        self.networks = (model, *others)  # a tuple, so that nn.Module does not register them
        self.optimizer = optimizer
        self.steps = steps
        self.episodic = episodic
        self.reset_every = reset_every
        self.restore_rate = restore_rate
        self.generator = torch.Generator().manual_seed(seed)
        self.calls = 0
        self.adapted = [p for group in optimizer.param_groups for p in group["params"]]
        known = {id(p) for network in self.networks for p in network.parameters()}
        if not all(id(p) in known for p in self.adapted):
            raise ValueError("the optimizer holds parameters that belong to none of the networks given")
        if torch.is_inference_mode_enabled() or any(p.is_inference() for p in self.adapted):
            raise ValueError("make networks and method outside torch.inference_mode(); calling it inside is allowed")
        for p in self.adapted:
            if p.dtype != torch.float32:
                raise ValueError(f"adapted parameters must be float32, not {p.dtype}; use .float() on their network")
        if optimizer.state:
            raise ValueError("the optimizer has been used before; give a new one")
        self.start = [p.detach().clone() for p in self.adapted]  # no copy of parameters that stay fixed

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Adapt to the image and answer.

        Args:
            image: (N, C, H, W) in [0, 1], usually N = 1; a larger batch shares one set of parameters.
            generator: of all random numbers. One seeded by the image makes results independent of the order of
                images. None: the adapter's own.

        Returns:
            The output after the last step, for example f_θ(x).

        Raises:
            ValueError: the image has the wrong shape, dtype, range or device, or the network returns no tensor.
            FloatingPointError: the loss or the output is not finite. Episodic parameters are restored.
        """
        self._check(image)
        try:
            with gradients_only_for(self.adapted, *self.networks), self.statistics(image):
                output = self.take_steps(image, generator or self.generator)
            if output is None:
                output = self.predict(image)
            self.check_finite(output, "the output of the adapted network")
            self._carry_along()
            return output
        finally:
            if self.episodic:
                self.reset()

    def take_steps(self, image: Tensor, generator: torch.Generator) -> Tensor | None:
        """Take all steps. Return None, or the output if the networks need not run once more for it."""
        image = image.clone() if image.is_inference() else image
        with self.model.register_forward_hook(take_logits):
            self.begin(image)
            for taken in range(self.steps):
                self.taken = taken
                self.optimizer.zero_grad(set_to_none=True)
                output = self.step(image, generator)
                if output is not None:
                    return output
        self.taken = self.steps
        return None

    def check_finite(self, value: Tensor, what: str) -> None:
        """Raise FloatingPointError, saying what to do, unless all elements are finite."""
        if not value.isfinite().all():
            unchanged = not (self.taken or self.calls)
            remedy = "use float32 or bfloat16, or check the weights" if unchanged else "lower the learning rate"
            raise FloatingPointError(f"{what} is not finite; {remedy}")

    def begin(self, image: Tensor) -> None:
        """Prepare for a new image; called once before its steps."""

    def step(self, image: Tensor, generator: torch.Generator) -> Tensor | None:
        """Take one step. Return None to go on; a tensor ends the steps and is the answer."""
        raise NotImplementedError

    def statistics(self, image: Tensor) -> AbstractContextManager[None]:
        """Return a context for all passes of the networks, such as one that sets statistics of batch norm; or none."""
        return nullcontext()

    def answer(self, image: Tensor) -> Tensor:
        """Return the output for the image with the current parameters; a subclass may combine several passes."""
        return self.model(image)

    @torch.no_grad()
    def predict(self, image: Tensor) -> Tensor:
        """Check the image, then answer with the current parameters, without adapting and without gradients."""
        self._check(image)
        with self.statistics(image), self.model.register_forward_hook(take_logits):
            return self.answer(image)

    def _check(self, image: Tensor) -> None:
        check_image(image, *self.networks)
        for network in self.networks:
            network.eval()  # a caller may have changed the mode since the last call

    @torch.no_grad()
    def _carry_along(self) -> None:
        self.calls += 1
        if self.reset_every and self.calls % self.reset_every == 0:
            self.reset()
        elif self.restore_rate:
            start = [s.to(p.device) for p, s in zip(self.adapted, self.start, strict=True)]
            torch._foreach_lerp_(self.adapted, start, self.restore_rate)

    @torch.no_grad()
    def reset(self) -> None:
        """Restore the initial parameters and clear the optimizer's state. The generator is not reset."""
        torch._foreach_copy_(self.adapted, self.start)
        self.calls = 0
        self.optimizer.state.clear()
        self.optimizer.zero_grad(set_to_none=True)

    def train(self, mode: bool = True) -> Adapter:
        """Do nothing: adaptation runs in eval mode (running statistics, no dropout)."""
        return self


@contextmanager
def gradients_only_for(parameters: Iterable[nn.Parameter], *modules: nn.Module) -> Iterator[None]:
    """Let only these of the modules' parameters require gradients; restore all flags at the end."""
    flags = {p: p.requires_grad for module in modules for p in module.parameters()}
    adapted = set(parameters)
    try:
        for p in flags:
            p.requires_grad_(p in adapted)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for p, flag in flags.items():
            p.requires_grad_(flag)


def take_logits(network: nn.Module, inputs: object, output: object) -> Tensor:
    """Return the tensor in a network's output, as a forward hook. Raises ValueError if there is none."""
    output = getattr(output, "logits", getattr(output, "predicted_depth", output))  # transformers' ModelOutput
    if not isinstance(output, Tensor):
        kind, name = type(output).__name__, type(network).__name__
        raise ValueError(f"{name} returns a {kind}; wrap it in a module that returns one tensor, its logits or depths")
    return output


def check_counts(**counts: int) -> None:
    """Raise ValueError unless each argument is a whole number of at least 1."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


def check_image(image: Tensor, *networks: nn.Module) -> None:
    """Raise ValueError, saying what to do, unless the image is (N, C, H, W), float32, in [0, 1], on their device."""
    if not isinstance(image, Tensor) or image.ndim != 4 or 0 in image.shape:
        got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"the image must be a tensor of shape (N, C, H, W), not {got}; add image[None]?")
    if image.dtype != torch.float32:
        hint = "use image.float()" if image.is_floating_point() else "divide by 255?"
        raise ValueError(f"the image must be float32, in [0, 1], not {image.dtype}; {hint}")
    if not image.isfinite().all():
        raise ValueError("the image holds NaN or infinite values")
    if image.min() < 0 or image.max() > 1:
        low, high = image.min().item(), image.max().item()
        raise ValueError(f"the image must lie in [0, 1], not [{low:.3g}, {high:.3g}]; scale or clamp it first")
    for network in networks:
        device = next(chain(network.parameters(), network.buffers()), image).device
        if device != image.device:
            raise ValueError(f"the image is on {image.device}, {type(network).__name__} on {device}; use .to() on one")
