"""Methods by name, built from plain settings: what the command line, evaluation and pages share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from dtta.adapt import DiffusionTTA
from dtta.baselines import AugmentationMean, Consistency, DiffusionClassifier, Ensemble, NoAdaptation, Tent
from dtta.parameters import Logits, select
from dtta.problems import Problem
from dtta.sampling import Sampling

OPTIMIZERS: dict[str, Callable] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def diffusion_tta(
    problem: Problem,
    *,
    optimizer: str = "sgd",
    lr: float = 5e-3,
    momentum: float = 0.9,
    steps: int = 5,
    samples: int = 180,
    part: str = "all",
    adapt_diffusion: bool = False,
    lr_diffusion: float | None = None,
    episodic: bool = True,
    timesteps: str = "uniform",
    noise: str = "fresh",
    low: float = 0.0,
    high: float = 1.0,
    fixed: bool = False,
    norm: str = "l2",
    micro_batch: int | None = None,
) -> DiffusionTTA:
    """Diffusion-TTA with plain settings; the defaults are the paper's.

    Args:
        part: which of θ moves: "all", "norm", "head", "lora", or "logits" (the answer itself).
        adapt_diffusion: whether φ moves too, at rate `lr_diffusion` (default: `lr`).
        timesteps, noise, low, high, fixed: see ``Sampling``. The rest: see ``DiffusionTTA``.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; choose from {', '.join(OPTIMIZERS)}")
    if part == "logits" and problem.task != "classification":
        raise ValueError(f"part 'logits' goes with classification alone, not with {problem.task}")
    model = Logits(len(problem.classes), problem.model) if part == "logits" else problem.model
    groups = [{"params": [model.delta] if part == "logits" else select(model, part)}]
    if adapt_diffusion:
        groups.append({"params": select(problem.diffusion.network), "lr": lr if lr_diffusion is None else lr_diffusion})
    options = {"momentum": momentum} if optimizer == "sgd" else {}
    return DiffusionTTA(
        model,
        problem.diffusion,
        problem.condition,
        OPTIMIZERS[optimizer](groups, lr=lr, **options),
        steps=steps,
        samples=samples,
        episodic=episodic,
        sampling=Sampling(timesteps, noise, low, high, fixed),
        micro_batch=micro_batch,
        norm=norm,
    )


def diffusion_classifier(
    problem: Problem, *, samples: int = 48, low: float = 0.0, high: float = 1.0, temperature: float = 1.0
) -> DiffusionClassifier:
    """Diffusion Classifier over the problem's classes."""
    return DiffusionClassifier(problem.diffusion, samples, Sampling("stratified", low=low, high=high), temperature)


def ensemble(
    problem: Problem, *, samples: int = 48, low: float = 0.0, high: float = 1.0, temperature: float = 1.0
) -> Ensemble:
    """The mean of the network's belief and the Diffusion Classifier's; settings are the latter's."""
    second = diffusion_classifier(problem, samples=samples, low=low, high=high, temperature=temperature)
    return Ensemble(no_adaptation(problem), second)


def tent(
    problem: Problem, *, lr: float = 1e-3, steps: int = 1, episodic: bool = True, batch_statistics: bool = True
) -> Tent:
    """TENT on the normalisation layers; the defaults are its paper's, but for `episodic`."""
    optimizer = torch.optim.Adam(select(problem.model, "norm"), lr=lr)
    return Tent(problem.model, optimizer, steps, episodic, batch_statistics)


def augmentation(problem: Problem, *, scales: Sequence[float] | float = (1.0,)) -> AugmentationMean:
    """Test-time augmentation by mirroring and, for segmentation, scales."""
    scales = (scales,) if isinstance(scales, (int, float)) else scales
    return AugmentationMean(problem.model, scales, probabilities=problem.task == "segmentation")


def consistency(
    problem: Problem,
    *,
    lr: float = 1e-4,
    steps: int = 5,
    momentum: float = 0.999,
    jitter: float = 0.2,
    episodic: bool = True,
) -> Consistency:
    """Consistency with an averaged teacher; all weights move, by Adam."""
    optimizer = torch.optim.Adam(select(problem.model), lr=lr)
    return Consistency(problem.model, optimizer, steps, episodic, momentum, jitter)


def no_adaptation(problem: Problem) -> NoAdaptation:
    """The task network as it is."""
    return NoAdaptation(problem.model)


METHODS: dict[str, Callable[..., nn.Module]] = {
    "none": no_adaptation,
    "diffusion-tta": diffusion_tta,
    "diffusion-classifier": diffusion_classifier,
    "ensemble": ensemble,
    "logits": partial(diffusion_tta, part="logits"),
    "tent": tent,
    "augmentation": augmentation,
    "consistency": consistency,
}
# A method that is not named here goes with every task.
TASKS = {
    "diffusion-classifier": ("classification",),
    "ensemble": ("classification",),
    "logits": ("classification",),
    "tent": ("classification", "segmentation"),
    "augmentation": ("segmentation", "depth"),
    "consistency": ("depth",),
}


def methods_for(task: str) -> tuple[str, ...]:
    """The names of the methods that go with a task."""
    return tuple(name for name in METHODS if task in TASKS.get(name, (task,)))


def settings_of(method: str) -> tuple[str, ...]:
    """The names of the settings that a method takes."""
    function = METHODS[method]
    fixed = getattr(function, "keywords", {})
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in fixed)


def build(problem: Problem, method: str, **settings) -> nn.Module:
    """A method on a problem: the problem's validated settings, overruled by those given.

    Raises:
        ValueError: unknown method or setting, or a setting out of range.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    if method not in (fitting := methods_for(problem.task)):
        raise ValueError(f"{method} does not go with {problem.task}; choose from {', '.join(fitting)}")
    known = settings_of(method)
    for name in settings:
        if name not in known:
            choice = f"choose from {', '.join(known)}" if known else "it takes none"
            raise ValueError(f"{method} has no setting {name!r}; {choice}")
    try:
        return METHODS[method](problem, **{**problem.settings.get(method, {}), **settings})
    except TypeError as error:
        raise ValueError(f"{method}: {error}") from error
