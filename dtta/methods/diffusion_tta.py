"""Diffusion-TTA from plain settings; the method itself is ``dtta.core.tta``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from dtta.core.conditions import Tempered
from dtta.core.lora import add_lora
from dtta.core.parameters import select
from dtta.core.problem import Problem
from dtta.core.sampling import Sampling
from dtta.core.stopping import Stopping
from dtta.core.tta import DiffusionTTA
from dtta.methods.ensemble import Ensemble
from dtta.methods.none import NoAdaptation
from dtta.methods.settings import make_optimizer, model_and_parameters, reinitialize


def build(
    problem: Problem,
    *,
    optimizer: str = "sgd",
    lr: float = 5e-3,
    momentum: float = 0.9,
    steps: int = 5,
    samples: int = 180,
    trainable: str = "all",
    rank: int = 4,
    layers: Sequence[int] | int | None = None,
    words: int = 4,
    start: str = "trained",
    ensemble: bool = False,
    adapt_diffusion: bool | str = False,
    lr_diffusion: float | None = None,
    episodic: bool = True,
    reset_every: int | None = None,
    restore_rate: float = 0.0,
    confidence: float | None = None,
    patience: int | None = None,
    timesteps: str = "uniform",
    noise: str = "fresh",
    t_min: float = 0.0,
    t_max: float = 1.0,
    reuse_noise: bool = False,
    t_density: Sequence[float] = (),
    norm: str = "l2",
    weighting: str = "none",
    temperature: float = 1.0,
    micro_batch: int | None = None,
) -> DiffusionTTA | Ensemble:
    """Build Diffusion-TTA; the defaults are the paper's with SGD, except that φ is fixed (see `adapt_diffusion`).

    Args:
        trainable, rank, layers, words: the adapted part of θ, see ``model_and_parameters``.
        start: of θ: "trained", or "random": initialised again; with trainable="logits": zeros (paper, Table 6).
        ensemble: answer with the mean of the adapted and the original belief (paper, Table 6).
        adapt_diffusion, lr_diffusion: whether φ is adapted too, and its learning rate (default: `lr`); "lora": LoRA of
            the same rank on its attention.
        temperature: divides the logits that the condition is made of (see ``Tempered``), not those of the output.
        The rest: see ``DiffusionTTA``, ``Stopping`` (confidence, patience) and ``Sampling`` (timesteps to t_density).
    """
    if adapt_diffusion not in (True, False, "lora"):
        raise ValueError(f"adapt_diffusion must be true, false or 'lora', not {adapt_diffusion!r}")
    if start not in ("trained", "random"):
        raise ValueError(f"start must be 'trained' or 'random', not {start!r}")
    if ensemble and not (episodic and problem.task == "classification"):
        raise ValueError("ensemble is for classification and one image at a time (episodic)")
    if problem.task == "depth" and (temperature != 1 or confidence or patience):
        raise ValueError("temperature, confidence and patience are for class probabilities, not for depths")
    original = problem
    if start == "random":
        problem = replace(problem, model=reinitialize(copy.deepcopy(problem.model)))
    model, parameters = model_and_parameters(problem, trainable, rank, layers, words)
    if start == "random" and trainable == "logits":
        model.network = None
    groups = [{"params": parameters}]
    if adapt_diffusion:
        if adapt_diffusion == "lora":
            add_lora(problem.diffusion, rank=rank)
        phi = select(problem.diffusion.network, "lora" if adapt_diffusion == "lora" else "all")
        groups.append({"params": phi, "lr": lr if lr_diffusion is None else lr_diffusion})
    condition = problem.condition if temperature == 1 else Tempered(problem.condition, temperature)
    tta = DiffusionTTA(
        model,
        problem.diffusion,
        condition,
        make_optimizer(optimizer, groups, lr, momentum),
        steps=steps,
        samples=samples,
        episodic=episodic,
        reset_every=reset_every,
        restore_rate=restore_rate,
        sampling=Sampling(timesteps, noise, t_min, t_max, reuse_noise, tuple(t_density)),
        stopping=Stopping(confidence, patience),
        micro_batch=micro_batch,
        norm=norm,
        weighting=weighting,
    )
    return Ensemble(NoAdaptation(original.model), tta) if ensemble else tta


build_logits = partial(build, trainable="logits")
