"""A problem: a task network, a diffusion model, a condition, a stream of test images and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dtta.core.diffusion import Diffusion

# Sums over images by name, arrays or numbers, with their number of images under "images" -> the value of the metric.
Metric = Callable[[Mapping[str, object]], object]


class TextReader(Protocol):
    """The text side of a text-to-image model: sentences -> conditions."""

    def __call__(self, sentences: Sequence[str], batch: int = 256) -> Tensor:
        """Return the embeddings (N, tokens, D) of N sentences; a sentence may be empty."""

    def words(self, sentence: str) -> list[str]:
        """Return the text of each token of a sentence, without padding."""


@dataclass(frozen=True)
class Problem:
    """Everything that a method is run on; made by ``dtta.load(name)``.

    Args:
        name: as given to ``dtta.load``.
        task: "classification", "segmentation" or "depth": the kind of output of the network.
        classes: names of the L classes.
        model: the task network f_θ, images in [0, 1] -> output.
        diffusion: the diffusion model ε_φ.
        condition: output -> c.
        draw: (split, index, shift, severity from 1 to 5, seed) -> image (C, H, W) in [0, 1] and its label: a class ();
            the class of each pixel (H, W), negative where unknown; or depths (1, H, W), 0 where unknown.
        sizes: number of images of each split: "test", and "validation" to choose settings, if there is one.
        shape: (C, H, W) of an image.
        shifts: names of the shift families.
        metric: name of the measure that `score` computes.
        score: output (1, ...) and label -> a number in [0, 1] for one image, higher is better.
        sums: output (1, ...) and label -> numbers that are added over images and from which `metrics` are computed.
        metrics: name -> a function of such sums; the metrics of a data set.
        settings: for a method, the settings from which ``build`` starts instead of the method's defaults.
        mirrored: whether the mirror image of an image is a valid image (not so for digits).
        reader: the text side of a text-to-image model.
        view: a picture, opened by PIL -> the image (C, H, W) that `draw` makes of it; None: its centre, cut to `shape`.
        labelled: whether the images have labels; without them methods cannot be evaluated.
        inferred, fingerprint: what ``dtta.problem`` inferred, in words; a hash of its list of pictures.
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
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    mirrored: bool = True
    reader: TextReader | None = None
    view: Callable[[Any], Tensor] | None = None
    labelled: bool = True
    inferred: str = ""
    fingerprint: str = ""

    def image(
        self, index: int, shift: str = "clean", severity: int = 3, split: str = "test", seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return image number `index` of a split under a shift, as a batch of one, and its label.

        Raises IndexError: no such image. ValueError: unknown split, shift or severity.
        """
        if not 0 <= index < self.size(split):
            raise IndexError(f"the {split} split has images 0 to {self.size(split) - 1}, not {index}")
        image, label = self.draw(split, index, shift, severity, seed)
        return image[None], label

    def images(
        self, count: int, shift: str = "clean", severity: int = 3, split: str = "test", seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the first `count` images of a split under a shift, (N, C, H, W), and their labels (N, ...)."""
        pairs = [self.image(i, shift, severity, split, seed) for i in range(count)]
        return torch.cat([x for x, _ in pairs]), torch.stack([y for _, y in pairs])

    def size(self, split: str) -> int:
        """Return the number of images of a split. Raises ValueError if there is no such split."""
        if split not in self.sizes:
            raise ValueError(f"unknown split {split!r}; choose from {', '.join(self.sizes)}")
        return self.sizes[split]
