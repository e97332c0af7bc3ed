"""What Diffusion-TTA is compared with: one file a method, each called like DiffusionTTA."""

from dtta.baselines.augmentation import AugmentationMean
from dtta.baselines.batch_norm import BatchNormAdaptation
from dtta.baselines.consistency import Consistency
from dtta.baselines.cotta import Cotta
from dtta.baselines.diffusion_classifier import DiffusionClassifier
from dtta.baselines.dusa import Dusa
from dtta.baselines.eata import Eata, fisher_information
from dtta.baselines.ensemble import Ensemble
from dtta.baselines.marginal_entropy import MarginalEntropy
from dtta.baselines.none import NoAdaptation
from dtta.baselines.sar import Sar
from dtta.baselines.tent import Tent
from dtta.baselines.ttt_mae import MaskedAutoencoder, TttMae

__all__ = [
    "AugmentationMean",
    "BatchNormAdaptation",
    "Consistency",
    "Cotta",
    "DiffusionClassifier",
    "Dusa",
    "Eata",
    "Ensemble",
    "MarginalEntropy",
    "MaskedAutoencoder",
    "NoAdaptation",
    "Sar",
    "Tent",
    "TttMae",
    "fisher_information",
]
