"""What Diffusion-TTA is compared with: one file a method, each called like DiffusionTTA."""

from dtta.baselines.diffusion_classifier import DiffusionClassifier
from dtta.baselines.ensemble import Ensemble
from dtta.baselines.none import NoAdaptation

__all__ = ["DiffusionClassifier", "Ensemble", "NoAdaptation"]
