"""When to spend nothing: images that need no adaptation, and steps that change nothing any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Economy:
    """When an image has had enough.

    Args:
        skip: an image of whose class the network is at least this sure is answered as it is; None: none is. (For
            maps: the mean over pixels.) At a sure softmax the gradient is next to nothing anyway.
        patience: so many steps in a row that leave the answer the same class end the adaptation; None: they do not.

    Raises:
        ValueError: a setting out of range.
    """

    skip: float | None = None
    patience: int | None = None

    def __post_init__(self):
        if self.skip is not None and not 0 < self.skip <= 1:
            raise ValueError(f"skip must lie in (0, 1], not {self.skip!r}")
        if self.patience is not None and (not isinstance(self.patience, int) or self.patience < 1):
            raise ValueError(f"patience must be a whole number of at least 1, not {self.patience!r}")

    def enough(self, outputs: Sequence[Tensor]) -> bool:
        """Whether to stop after these answers (N, L, ...): the first one is the network's own.

        A batch stops when each of its images would.
        """
        if self.skip is not None and len(outputs) == 1:
            sure = outputs[0].softmax(dim=1).amax(dim=1).flatten(1 if outputs[0].ndim > 2 else 0)
            sure = sure.mean(dim=1) if sure.ndim > 1 else sure  # one number for each image
            if sure.min() >= self.skip:
                return True
        if self.patience is None or len(outputs) <= self.patience:
            return False
        *before, now = (output.argmax(dim=1) for output in outputs[-self.patience - 1 :])
        return all(bool((answer == now).all()) for answer in before)
