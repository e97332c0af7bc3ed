"""A problem: a task network, a diffusion model, a condition, a stream of test images and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dtta.diffusion import Diffusion

if TYPE_CHECKING:
    from dtta.clip import TextReader

# Sums over images, by name, each an array (or a number); under "images" how many they are -> a number.
Metric = Callable[[Mapping[str, object]], object]


@dataclass(frozen=True)
class Problem:
    """What a page or a command runs on; made by ``dtta.load(name)``.

    Args:
        name: as given to ``dtta.load``.
        task: "classification", "segmentation" or "depth": what kind of answer the network gives.
        classes: names of the L classes.
        model: the task network f_θ, images in [0, 1] -> output.
        diffusion: the diffusion model ε_φ.
        condition: output -> c.
        draw: (split, index, shift, severity, seed) -> image (C, H, W) in [0, 1] and its label.
        sizes: how many images each split has.
        shape: (C, H, W) of an image.
        shifts: names of the shift families.
        metric: name of what `score` measures.
        score: output (1, ...) and label -> a number in [0, 1] for one image, higher is better.
        sums: output (1, ...) and label -> numbers that add up over images, from which `metrics` are computed.
        metrics: name -> a function of such sums; the metrics of a data set.
        settings: for each method, the settings chosen on validation images.
        mirrored: whether the mirror image of an image is as good an image (not so for digits).
        reader: of a text-to-image model: sentences -> what it takes as their condition (N, tokens, D).
    """

    name: str
    task: str
    classes: tuple[str, ...]
    model: nn.Module
    diffusion: Diffusion
    condition: nn.Module
    draw: Callable[[str, int, str, int, int], tuple[Tensor, Tensor]]
    sizes: dict[str, int]
    shape: tuple[int, int, int]
    shifts: tuple[str, ...]
    metric: str
    score: Callable[[Tensor, Tensor], float]
    sums: Callable[[Tensor, Tensor], dict[str, float]] = lambda output, label: {}
    metrics: dict[str, Metric] = field(default_factory=dict)
    settings: dict[str, dict] = field(default_factory=dict)
    mirrored: bool = True
    reader: TextReader | None = None

    def image(
        self, index: int, shift: str = "clean", severity: int = 3, split: str = "test", seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Image number `index` of a split under a shift, as a batch of one, and its label.

        Raises:
            IndexError: no such image. ValueError: unknown split, shift or severity.
        """
        if not 0 <= index < self.size(split):
            raise IndexError(f"the {split} split has images 0 to {self.size(split) - 1}, not {index}")
        image, label = self.draw(split, index, shift, severity, seed)
        return image[None], label

    def images(
        self, count: int, shift: str = "clean", severity: int = 3, split: str = "test", seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The first `count` images of a split under a shift, (N, C, H, W), and their labels (N, ...)."""
        pairs = [self.image(i, shift, severity, split, seed) for i in range(count)]
        return torch.cat([x for x, _ in pairs]), torch.stack([y for _, y in pairs])

    def size(self, split: str) -> int:
        """How many images a split has. Raises ValueError if there is no such split."""
        if split not in self.sizes:
            raise ValueError(f"unknown split {split!r}; choose from {', '.join(self.sizes)}")
        return self.sizes[split]


def no_labels(split: str, index: int, shift: str, severity: int, seed: int) -> tuple[Tensor, Tensor]:
    """The `draw` of a problem whose names are the user's own: there are no images that are known to show them."""
    raise ValueError("names of your own have no labelled images; give an image of your own too")
