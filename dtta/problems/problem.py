"""A problem: a task network, a diffusion model, a condition, a stream of test images and a metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from dtta.diffusion import Diffusion
from dtta.problems.shifts import apply_shift


@dataclass(frozen=True)
class Problem:
    """What a page or a command runs on; made by ``dtta.load(name)``.

    Args:
        name: as given to ``dtta.load``.
        classes: names of the L classes.
        model: the task network f_θ, images in [0, 1] -> output.
        diffusion: the diffusion model ε_φ.
        condition: output -> c.
        split: "train", "validation" or "test" -> images (N, C, H, W) in [0, 1] and labels (N, ...).
        shifts: names of the shift families.
        metric: name of what `score` measures.
        score: output (1, ...) and label -> a number for one image, higher is better.
        settings: for each method, the settings chosen on validation images.
    """

    name: str
    classes: tuple[str, ...]
    model: nn.Module
    diffusion: Diffusion
    condition: nn.Module
    split: Callable[[str], tuple[Tensor, Tensor]]
    shifts: tuple[str, ...]
    metric: str
    score: Callable[[Tensor, Tensor], float]
    settings: dict[str, dict] = field(default_factory=dict)

    def image(
        self, index: int, shift: str = "clean", severity: int = 3, split: str = "test", seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Image number `index` of a split under a shift, as a batch of one, and its label.

        Raises:
            IndexError: no such image. ValueError: unknown split, shift or severity.
        """
        images, labels = self.split(split)
        if not 0 <= index < len(images):
            raise IndexError(f"the {split} split has images 0 to {len(images) - 1}, not {index}")
        return apply_shift(images[index], shift, severity, seed, index)[None], labels[index]
