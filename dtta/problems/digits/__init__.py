"""The digits problem: scikit-learn's 8 x 8 handwritten digits, three classifiers, two families of diffusion models.

May import ``dtta.core`` and its siblings.
"""

from __future__ import annotations

from dtta.core.conditions import ClassMixture
from dtta.core.problem import Problem
from dtta.problems.chosen import chosen
from dtta.problems.digits.data import CLASSES, SIZE, SPLITS, draw
from dtta.problems.digits.models import DIFFUSIONS, NETWORKS
from dtta.problems.digits.shifts import SHIFTS
from dtta.problems.digits.training import RECIPES
from dtta.problems.training import weights

__all__ = ["DIFFUSIONS", "NETWORKS", "RECIPES", "problem"]


def problem(network: str | None = None, diffusion: str | None = None, batch: int = 1) -> Problem:
    """Build the digits problem. Raises ValueError: unknown network or diffusion model.

    Args:
        network: "resnet" (batch norm), "vit" (layer norm), or "mae" (a masked autoencoder, for TTT-MAE).
        diffusion: "unet" or "dit", trained on soft and hard labels; "unet-hard" or "dit-hard", on hard labels only.
        batch: images at once for which the methods' settings were chosen.
    """
    f = weights.ready("digits", NETWORKS, network)
    phi = weights.ready("digits", DIFFUSIONS, diffusion)
    return Problem(
        name="digits",
        task="classification",
        classes=CLASSES,
        model=f,
        diffusion=phi,
        condition=ClassMixture(lambda: phi.class_embeddings),
        draw=draw,
        sizes={name: stop - start for name, (start, stop) in SPLITS.items()},
        shape=(1, SIZE, SIZE),
        shifts=tuple(SHIFTS),
        metric="accuracy",
        score=lambda output, label: float(output.argmax(dim=1).item() == label.item()),
        settings=chosen("digits", network, diffusion, batch),
        mirrored=False,
    )
