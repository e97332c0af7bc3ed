"""When to stop: images that need no adaptation, and steps that no longer change the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Stopping:
    """Conditions under which an image is not adapted any further. Raises ValueError: a setting out of range.

    Args:
        confidence: do not adapt an image whose predicted class has at least this probability (for maps: the mean over
            pixels); None: adapt all.
        patience: stop after this many steps in a row without a change of the predicted class (for maps: of any
            pixel's class); None: never.
    """

    confidence: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0 < self.confidence <= 1:
            raise ValueError(f"confidence must lie in (0, 1], not {self.confidence!r}")
        if self.patience is not None and (not isinstance(self.patience, int) or self.patience < 1):
            raise ValueError(f"patience must be a whole number of at least 1, not {self.patience!r}")

    def should_stop(self, outputs: Sequence[Tensor]) -> bool:
        """Return whether to stop after these outputs (N, L, ...); the first is the network's before adaptation.

        A batch stops when each of its images would. Raises ValueError: a setting is given, and outputs are depths.
        """
        depths = outputs[0].ndim == 3 or outputs[0].shape[1] == 1
        if depths and (self.confidence is not None or self.patience is not None):
            raise ValueError("confidence and patience are for class probabilities, not for depths")
        if self.confidence is not None and len(outputs) == 1:
            highest = outputs[0].softmax(dim=1).amax(dim=1).reshape(len(outputs[0]), -1)  # (N, pixels), or (N, 1)
            if highest.mean(dim=1).min() >= self.confidence:
                return True
        if self.patience is None or len(outputs) <= self.patience:
            return False
        *before, now = (output.argmax(dim=1) for output in outputs[-self.patience - 1 :])
        return all(bool((answer == now).all()) for answer in before)
