"""What Diffusion-TTA is compared with: one file a method, each called like DiffusionTTA."""

from dtta.baselines.augmentation import AugmentationMean
from dtta.baselines.consistency import Consistency
from dtta.baselines.diffusion_classifier import DiffusionClassifier
from dtta.baselines.ensemble import Ensemble
from dtta.baselines.marginal_entropy import MarginalEntropy
from dtta.baselines.none import NoAdaptation
from dtta.baselines.tent import Tent

__all__ = [
    "AugmentationMean",
    "Consistency",
    "DiffusionClassifier",
    "Ensemble",
    "MarginalEntropy",
    "NoAdaptation",
    "Tent",
]
