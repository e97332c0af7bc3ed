"""Methods by name: each setting reaches its place, and unknown ones are refused with the choices."""

from __future__ import annotations

import pytest
import tiny
import torch

from dtta.adapt import DiffusionTTA
from dtta.baselines import DiffusionClassifier, Ensemble, NoAdaptation
from dtta.methods import METHODS, OPTIMIZERS, build
from dtta.parameters import Logits
from dtta.sampling import Sampling

KINDS = {
    "none": NoAdaptation,
    "diffusion-tta": DiffusionTTA,
    "diffusion-classifier": DiffusionClassifier,
    "ensemble": Ensemble,
    "logits": DiffusionTTA,
}


def test_every_method_answers_an_image(problem, image):
    assert METHODS.keys() == KINDS.keys()
    for name, kind in KINDS.items():
        settings = {} if name == "none" else {"samples": 3}
        method = build(problem, name, **settings)
        assert isinstance(method, kind)
        assert method(image, torch.Generator().manual_seed(0)).shape == (1, tiny.CLASSES)


def test_the_defaults_are_the_papers(problem):
    tta = build(problem, "diffusion-tta")
    assert (tta.steps, tta.samples, tta.episodic, tta.norm, tta.sampling) == (5, 180, True, "l2", Sampling())
    (group,) = tta.optimizer.param_groups
    assert type(tta.optimizer) is torch.optim.SGD
    assert (group["lr"], group["momentum"]) == (5e-3, 0.9)
    assert len(tta.adapted) == len(list(problem.model.parameters()))


def test_settings_reach_their_place(problem):
    tta = build(
        problem, "diffusion-tta", optimizer="adamw", lr=0.25, steps=2, samples=3, part="norm", adapt_diffusion=True,
        lr_diffusion=0.5, episodic=False, timesteps="stratified", noise="shared", low=0.1, high=0.6, fixed=True,
        norm="l1", micro_batch=2,
    )  # fmt: skip
    assert (tta.steps, tta.samples, tta.episodic, tta.norm, tta.micro_batch) == (2, 3, False, "l1", 2)
    assert tta.sampling == Sampling("stratified", "shared", 0.1, 0.6, True)
    theta, phi = tta.optimizer.param_groups
    assert type(tta.optimizer) is torch.optim.AdamW
    assert (theta["lr"], phi["lr"]) == (0.25, 0.5)
    assert {id(p) for p in theta["params"]} == {id(p) for p in problem.model.norm.parameters()}
    assert {id(p) for p in phi["params"]} == {id(p) for p in problem.diffusion.network.parameters()}


@pytest.mark.parametrize(("given", "used"), [(None, 0.1), (0.0, 0.0), (0.2, 0.2)])
def test_the_rate_of_phi(problem, given, used):
    tta = build(problem, "diffusion-tta", lr=0.1, adapt_diffusion=True, lr_diffusion=given)
    assert [group["lr"] for group in tta.optimizer.param_groups] == [0.1, used]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_the_weights(problem, image, name):
    tta = build(problem, "diffusion-tta", optimizer=name, lr=0.1, samples=2, steps=1)
    assert not torch.equal(tta(image), problem.model(image))


def test_logits_move_the_answer_alone(problem, image):
    tta = build(problem, "logits", lr=5.0, samples=2)
    assert isinstance(tta.model, Logits)
    assert len(tta.adapted) == 1
    assert tta.adapted[0] is tta.model.delta
    assert not torch.equal(tta(image), problem.model(image))


def test_the_problems_settings_hold_until_overruled():
    problem = tiny.problem(settings={"diffusion-tta": dict(steps=3, samples=4)})
    tta = build(problem, "diffusion-tta", samples=7)
    assert (tta.steps, tta.samples) == (3, 7)
    assert build(problem, "logits").steps == 5


@pytest.mark.parametrize(("method", "settings", "message"), [
    ("tent", {}, "unknown method 'tent'; choose from none, diffusion-tta, diffusion-classifier, ensemble, logits"),
    ("diffusion-tta", dict(rate=1), "diffusion-tta has no setting 'rate'; choose from optimizer, lr, momentum"),
    ("diffusion-classifier", dict(steps=1), "has no setting 'steps'; choose from samples, low, high, temperature"),
    ("ensemble", dict(steps=1), "ensemble has no setting 'steps'; choose from samples, low, high, temperature"),
    ("logits", dict(part="norm"), "logits has no setting 'part'; choose from optimizer, lr"),
    ("none", dict(steps=1), "none has no setting 'steps'; it takes none"),
    ("diffusion-tta", dict(optimizer="lion"), "unknown optimizer 'lion'; choose from sgd, adam, adamw"),
    ("diffusion-tta", dict(part="bias"), "unknown part 'bias'; choose from all, norm, head, lora"),
    ("diffusion-tta", dict(timesteps="sobol"), "timesteps must be one of uniform, stratified, antithetic"),
    ("diffusion-tta", dict(steps=0), "steps must be a whole number of at least 1"),
    ("diffusion-tta", dict(lr=-1.0), "[Ii]nvalid learning rate"),
    ("diffusion-tta", dict(lr="fast"), "diffusion-tta: "),
    ("diffusion-tta", dict(part="lora"), "no weights of the kind 'lora'"),
])  # fmt: skip
def test_unknown_names_and_values(problem, method, settings, message):
    with pytest.raises(ValueError, match=message):
        build(problem, method, **settings)
