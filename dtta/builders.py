"""A function for each method that builds it from plain settings, all of them keywords with the paper's defaults."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from dtta.adapt import DiffusionTTA
from dtta.baselines import (
    AugmentationMean,
    BatchNormAdaptation,
    Consistency,
    Cotta,
    DiffusionClassifier,
    Dusa,
    Eata,
    Ensemble,
    MarginalEntropy,
    NoAdaptation,
    Sar,
    Tent,
    TttMae,
    fisher_information,
)
from dtta.conditions import Milder
from dtta.economy import Economy
from dtta.parameters import Logits, add_lora, redraw, select
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
    rank: int = 4,
    layers: Sequence[int] | int | None = None,
    words: int = 4,
    start: str = "trained",
    ensemble: bool = False,
    adapt_diffusion: bool | str = False,
    lr_diffusion: float | None = None,
    episodic: bool = True,
    period: int | None = None,
    pull: float = 0.0,
    skip: float | None = None,
    patience: int | None = None,
    timesteps: str = "uniform",
    noise: str = "fresh",
    low: float = 0.0,
    high: float = 1.0,
    fixed: bool = False,
    density: Sequence[float] = (),
    norm: str = "l2",
    weighting: str = "none",
    temperature: float = 1.0,
    micro_batch: int | None = None,
) -> DiffusionTTA | Ensemble:
    """Diffusion-TTA with plain settings; the defaults are the paper's.

    Args:
        part: which of θ moves: "all", "norm", "head", "lora", "leaves" (see ``select``), "prompt" (the words before
            a CLIP's names), or "logits" (the answer itself).
        rank, layers: of LoRA, where part is "lora"; layers: blocks that get it, None: all.
        words: how many words move, where part is "prompt".
        start: of θ: "trained", or "random": weights drawn anew, and where part is "logits" zeros (paper, Table 6).
        ensemble: answer with the mean of the adapted belief and the network's own (paper, Table 6).
        adapt_diffusion: whether φ moves too, at rate `lr_diffusion` (default: `lr`); "lora": LoRA on its attention,
            of the same rank.
        temperature: divides the logits that the condition is made of (see ``Milder``), not those of the answer.
        skip, patience: see ``Economy``.
        timesteps, noise, low, high, fixed, density: see ``Sampling``. The rest: see ``DiffusionTTA``.
    """
    if adapt_diffusion not in (True, False, "lora"):
        raise ValueError(f"adapt_diffusion must be true, false or 'lora', not {adapt_diffusion!r}")
    if start not in ("trained", "random"):
        raise ValueError(f"start must be 'trained' or 'random', not {start!r}")
    if ensemble and not (episodic and problem.task == "classification"):
        raise ValueError("the ensemble goes with classification, one image at a time")
    begun = problem if start == "trained" else replace(problem, model=redraw(copy.deepcopy(problem.model)))
    model, moving = _part_of(begun, part, rank, layers, words)
    if start == "random" and part == "logits":
        model.network = None
    groups = [{"params": moving}]
    if adapt_diffusion:
        if adapt_diffusion == "lora":
            add_lora(problem.diffusion, rank=rank)
        phi = select(problem.diffusion.network, "lora" if adapt_diffusion == "lora" else "all")
        groups.append({"params": phi, "lr": lr if lr_diffusion is None else lr_diffusion})
    if problem.task == "depth" and (temperature != 1 or skip or patience):
        raise ValueError("a temperature, skip and patience go with beliefs, not with depths")
    condition = problem.condition if temperature == 1 else Milder(problem.condition, temperature)
    tta = DiffusionTTA(
        model,
        problem.diffusion,
        condition,
        _optimizer(optimizer, groups, lr, momentum),
        steps=steps,
        samples=samples,
        episodic=episodic,
        period=period,
        pull=pull,
        sampling=Sampling(timesteps, noise, low, high, fixed, tuple(density)),
        economy=Economy(skip, patience),
        micro_batch=micro_batch,
        norm=norm,
        weighting=weighting,
    )
    return Ensemble(no_adaptation(problem), tta) if ensemble else tta


def _optimizer(name: str, weights: list, lr: float, momentum: float = 0.9) -> torch.optim.Optimizer:
    """An optimizer by name; momentum goes with SGD alone."""
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; choose from {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](weights, lr=lr, **({"momentum": momentum} if name == "sgd" else {}))


def _part_of(
    problem: Problem, part: str, rank: int = 4, layers: Sequence[int] | int | None = None, words: int = 4
) -> tuple[nn.Module, list[nn.Parameter]]:
    """The network to adapt, wrapped or changed where a part asks for it, and which of its weights move."""
    if part == "logits":
        if problem.task != "classification":
            raise ValueError(f"part 'logits' goes with classification alone, not with {problem.task}")
        model = Logits(len(problem.classes), problem.model)
        return model, [model.delta]
    if part == "prompt":
        if not hasattr(problem.model, "prompted"):
            raise ValueError(f"part 'prompt' needs a network that reads its classes' names; {problem.name} has none")
        model = problem.model.prompted(words)
        return model, [model.context]
    if part == "lora":
        add_lora(problem.model, rank=rank, layers=[layers] if isinstance(layers, int) else layers)
    return problem.model, select(problem.model, part)


def diffusion_classifier(
    problem: Problem,
    *,
    samples: Sequence[int] | int = 48,
    keep: Sequence[int] | int = (),
    low: float = 0.0,
    high: float = 1.0,
    temperature: float = 1.0,
) -> DiffusionClassifier:
    """Diffusion Classifier over the problem's classes; with several numbers of samples it goes by stages."""
    sampling, keep = Sampling("stratified", low=low, high=high), [keep] if isinstance(keep, int) else keep
    embeddings = problem.condition.embeddings
    return DiffusionClassifier(problem.diffusion, samples, sampling, temperature, embeddings, keep=keep)


def ensemble(
    problem: Problem, *, samples: int = 48, low: float = 0.0, high: float = 1.0, temperature: float = 1.0
) -> Ensemble:
    """The mean of the network's belief and the Diffusion Classifier's; settings are the latter's."""
    second = diffusion_classifier(problem, samples=samples, low=low, high=high, temperature=temperature)
    return Ensemble(no_adaptation(problem), second)


def tent(
    problem: Problem,
    *,
    optimizer: str = "adam",
    lr: float = 1e-3,
    steps: int = 1,
    part: str = "norm",
    rank: int = 4,
    episodic: bool = True,
    batch_statistics: bool = True,
) -> Tent:
    """TENT; the defaults are its paper's for CIFAR (the normalisation layers), but for `episodic`.

    Args:
        optimizer: with "sgd" the momentum is 0.9; for ImageNet the paper takes it at 2.5e-4 (and the authors' code
            Nesterov's momentum).
    """
    model, moving = _part_of(problem, part, rank)
    return Tent(model, _optimizer(optimizer, moving, lr), steps, episodic, batch_statistics)


def marginal_entropy(
    problem: Problem,
    *,
    lr: float = 5e-3,
    steps: int = 1,
    part: str = "prompt",
    rank: int = 4,
    words: int = 4,
    views: int = 64,
    keep: float = 0.1,
    area: float = 0.5,
    episodic: bool = True,
) -> MarginalEntropy:
    """The entropy of the mean belief over views; the defaults are TPT's, but for `area`: its crops go down to 0.08."""
    model, moving = _part_of(problem, part, rank, None, words)
    optimizer = torch.optim.AdamW(moving, lr=lr)
    return MarginalEntropy(model, optimizer, steps, episodic, views, keep, area, mirror=problem.mirrored)


def memo(
    problem: Problem,
    *,
    optimizer: str = "sgd",
    lr: float = 2.5e-4,
    steps: int = 1,
    views: int = 64,
    prior: float | None = 16,
    episodic: bool = True,
) -> MarginalEntropy:
    """MEMO; the defaults are its paper's for a ResNet on ImageNet: SGD without momentum, 64 views (see ``augmix``)."""
    moving = select(problem.model)
    optimizer = _optimizer(optimizer, moving, lr, momentum=0.0)
    return MarginalEntropy(problem.model, optimizer, steps, episodic, views, keep=1.0, kind="augmix", prior=prior)


def batch_norm(problem: Problem, *, prior: float = 16) -> BatchNormAdaptation:
    """Batch norm's statistics mixed with those of the images given."""
    return BatchNormAdaptation(problem.model, prior)


def cotta(
    problem: Problem,
    *,
    optimizer: str = "adam",
    lr: float = 1e-3,
    steps: int = 1,
    momentum: float = 0.999,
    restore: float = 0.01,
    threshold: float = 0.92,
    views: int = 32,
    batch_statistics: bool = True,
    episodic: bool = False,
) -> Cotta:
    """CoTTA; the defaults are its paper's for CIFAR-10.

    Args:
        optimizer: with "sgd" its momentum is 0.9; for ImageNet the authors take it (with Nesterov's momentum) at
            0.01, a threshold of 0.1 and `restore` 0.001.
        momentum: of the teacher.
    """
    further = momentum, restore, threshold, views, problem.mirrored, batch_statistics
    return Cotta(problem.model, _optimizer(optimizer, select(problem.model), lr), steps, episodic, *further)


def eata(
    problem: Problem,
    *,
    lr: float = 2.5e-4,
    steps: int = 1,
    beta: float = 2000.0,
    margin: float = 0.4,
    similarity: float = 0.05,
    anchors: int = 100,
    batch_statistics: bool = True,
    episodic: bool = False,
) -> Eata:
    """EATA on the normalisation layers; the defaults are its paper's for ImageNet, but for `anchors`.

    Args:
        anchors: how many clean validation images the Fisher information is taken from (2000 in the paper).
    """
    moving = select(problem.model, "norm")
    clean = problem.images(min(anchors, problem.size("validation")), split="validation")[0] if anchors else None
    fisher = None if clean is None else fisher_information(problem.model, moving, clean, batch_statistics)
    optimizer = _optimizer("sgd", moving, lr)
    return Eata(problem.model, optimizer, steps, episodic, fisher, beta, margin, similarity, batch_statistics)


def sar(
    problem: Problem,
    *,
    lr: float = 2.5e-4,
    steps: int = 1,
    rho: float = 0.05,
    margin: float = 0.4,
    floor: float = 0.2,
    batch_statistics: bool = True,
    episodic: bool = False,
) -> Sar:
    """SAR on all normalisation layers (its paper spares the last block's); else the defaults are its for ImageNet."""
    optimizer = _optimizer("sgd", select(problem.model, "norm"), lr)
    return Sar(problem.model, optimizer, steps, episodic, rho, margin, floor, batch_statistics)


def ttt_mae(
    problem: Problem,
    *,
    lr: float = 5e-3,
    weight_decay: float = 0.2,
    steps: int = 20,
    masks: int = 128,
    hidden: float = 0.75,
    episodic: bool = True,
) -> TttMae:
    """TTT-MAE; the defaults are its paper's, but for `weight_decay` (see ``TttMae``). It needs a masked autoencoder."""
    head = {id(p) for p in getattr(problem.model, "head", torch.nn.Identity()).parameters()}
    moving = [p for p in problem.model.parameters() if id(p) not in head]
    optimizer = torch.optim.SGD(moving, lr=lr, momentum=0.9, weight_decay=weight_decay)
    return TttMae(problem.model, optimizer, steps, episodic, masks, hidden)


def dusa(
    problem: Problem,
    *,
    optimizer: str = "adam",
    lr: float = 1e-5,
    steps: int = 1,
    samples: int = 1,
    top: int = 4,
    others: int = 2,
    mix: str = "noise",
    tau: float | str | None = 1.0,
    adapt_diffusion: bool = True,
    lr_diffusion: float | None = None,
    timesteps: str = "uniform",
    low: float = 0.1,
    high: float = 0.101,
    fixed: bool = False,
    episodic: bool = False,
) -> Dusa:
    """DUSA; the defaults are its paper's: one noise at t = 100 of 1000, six candidates, φ adapted too.

    Of φ all weights move, also the table of class embeddings, which its authors' code leaves as it is.

    Args:
        tau: of LogitNorm (see ``Dusa``); None, or "none" in a table's file: the logits stay as they are.
    """
    groups = [{"params": select(problem.model)}]
    if adapt_diffusion:
        rate = lr if lr_diffusion is None else lr_diffusion
        groups.append({"params": select(problem.diffusion.network), "lr": rate})
    return Dusa(
        problem.model,
        _optimizer(optimizer, groups, lr),
        problem.diffusion,
        lambda: problem.condition.embeddings,  # asked at each step: φ may move
        steps,
        episodic,
        samples,
        top,
        others,
        mix,
        None if tau == "none" else tau,
        Sampling(timesteps, low=low, high=high, fixed=fixed),
    )


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
