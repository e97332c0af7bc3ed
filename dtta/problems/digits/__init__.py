"""The digits problem: scikit-learn's 8 x 8 handwritten digits, three classifiers, two families of diffusion models.

May import ``dtta.core`` and its siblings.
"""

from __future__ import annotations

from dtta.core.conditions import ClassMixture
from dtta.core.problem import Problem
from dtta.problems.digits.data import CLASSES, SIZE, SPLITS, draw
from dtta.problems.digits.models import DIFFUSIONS, NETWORKS
from dtta.problems.digits.shifts import SHIFTS
from dtta.problems.digits.training import RECIPES
from dtta.problems.training import weights

__all__ = ["DIFFUSIONS", "NETWORKS", "RECIPES", "SETTINGS", "problem"]

# Chosen on validation images by dtta/experiments/digits-test.toml, which a test compares.
_COMMON = dict(steps=5, samples=24, timesteps="stratified", optimizer="sgd")
SETTINGS: dict[str, dict] = {
    "diffusion-tta": dict(_COMMON, lr=0.02, t_min=0.25, t_max=0.75),
    "logits": dict(_COMMON, lr=30.0, t_min=0.25, t_max=0.75),
    "diffusion-classifier": dict(samples=24, t_min=0.25, t_max=0.75),
    "ensemble": dict(samples=24, t_min=0.25, t_max=0.75, temperature=0.3),
}


def problem(network: str | None = None, diffusion: str | None = None) -> Problem:
    """Build the digits problem. Raises ValueError: unknown network or diffusion model.

    Args:
        network: "resnet" (batch norm), "vit" (layer norm), or "mae" (a masked autoencoder, for TTT-MAE).
        diffusion: "unet" or "dit", trained on soft and hard labels; "unet-hard" or "dit-hard", on hard labels only.
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
        settings=SETTINGS,
        mirrored=False,
    )
