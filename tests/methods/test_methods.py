"""Methods by name: each setting reaches its place, and unknown ones are refused with the choices."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny
import torch

from dtta.core.sampling import Sampling
from dtta.core.tta import DiffusionTTA
from dtta.methods import registry
from dtta.methods.augmentation import AugmentationMean
from dtta.methods.batch_norm import BatchNormAdaptation
from dtta.methods.consistency import Consistency
from dtta.methods.cotta import Cotta
from dtta.methods.diffusion_classifier import DiffusionClassifier
from dtta.methods.diffusion_posterior import DiffusionPosterior
from dtta.methods.dusa import Dusa
from dtta.methods.eata import Eata
from dtta.methods.ensemble import Ensemble
from dtta.methods.marginal_entropy import MarginalEntropy
from dtta.methods.none import NoAdaptation
from dtta.methods.registry import METHODS, TASKS, build, methods_for, online, settings_of
from dtta.methods.sar import Sar
from dtta.methods.settings import OPTIMIZERS, Logits
from dtta.methods.tent import Tent
from dtta.methods.ttt_mae import TttMae
from dtta.problems.networks.mae import MaskedAutoencoder

KINDS = {
    "none": NoAdaptation,
    "diffusion-tta": DiffusionTTA,
    "diffusion-classifier": DiffusionClassifier,
    "ensemble": Ensemble,
    "logits": DiffusionTTA,
    "diffusion-posterior": DiffusionPosterior,
    "tent": Tent,
    "tpt": MarginalEntropy,
    "memo": MarginalEntropy,
    "batch-norm": BatchNormAdaptation,
    "cotta": Cotta,
    "eata": Eata,
    "sar": Sar,
    "ttt-mae": TttMae,
    "dusa": Dusa,
    "augmentation": AugmentationMean,
    "consistency": Consistency,
}
FITTING = {
    "classification": (
        "none", "diffusion-tta", "diffusion-classifier", "ensemble", "logits", "diffusion-posterior", "tent", "tpt",
        "memo", "batch-norm", "cotta", "eata", "sar", "ttt-mae", "dusa",
    ),
    "segmentation": ("none", "diffusion-tta", "tent", "batch-norm", "augmentation"),
    "depth": ("none", "diffusion-tta", "batch-norm", "augmentation", "consistency"),
}  # fmt: skip


def problem_for(task: str, settings: dict | None = None):
    return tiny.problem(settings=settings) if task == "classification" else tiny.dense_problem(task, settings)


def masked(problem):
    return replace(problem, model=MaskedAutoencoder(classes=tiny.CLASSES, width=8, depth=1, heads=2))


@pytest.mark.parametrize("task", FITTING)
def test_every_method_of_a_task_answers_an_image_and_checks_it(task):
    problem = problem_for(task)
    image, _ = problem.image(0)
    with torch.no_grad():
        shape = problem.model(image).shape
    assert methods_for(task) == FITTING[task]
    for name in FITTING[task]:
        settings = {"samples": 3} if "samples" in settings_of(name) else {}
        settings |= {"trainable": "norm"} if name == "tpt" else {}  # this network reads no names
        method = build(masked(problem) if name == "ttt-mae" else problem, name, **settings)
        assert isinstance(method, KINDS[name])
        with tiny.SinglePrecision():
            assert method(image, torch.Generator().manual_seed(0)).shape == shape
        for bad in (image[0], image * 2 - 1, image / 0, image.int()):
            with pytest.raises(ValueError, match="the image"):
                method(bad)


def test_every_method_goes_with_a_task():
    assert METHODS.keys() == KINDS.keys() == {name for names in FITTING.values() for name in names}
    assert TASKS.keys() <= METHODS.keys()


@pytest.mark.parametrize(("task", "name"), [(t, n) for t in FITTING for n in KINDS if n not in FITTING[t]])
def test_a_method_that_does_not_suit_the_task_is_refused(task, name):
    message = f"{name} does not suit {task}; choose from {', '.join(FITTING[task])}"
    with pytest.raises(ValueError, match=message):
        build(problem_for(task), name)


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_free_logits_are_of_a_class_and_no_map(task):
    with pytest.raises(ValueError, match=f"trainable='logits' is for classification only, not for {task}"):
        build(tiny.dense_problem(task), "diffusion-tta", trainable="logits")


@pytest.mark.parametrize(("built", "message"), [
    (lambda problem, *, episodic=True: lambda image: image, "must return a torch.nn.Module"),
    (lambda problem, *, episodic=False: problem.model, r"needs reset\(\)"),
])  # fmt: skip
def test_what_a_users_function_must_return(problem, monkeypatch, built, message):
    monkeypatch.setattr(registry, "builder", lambda method: built)
    with pytest.raises(ValueError, match=message):
        build(problem, "own")


def test_a_network_that_returns_a_model_output_suits_eata(problem):
    network = problem.model

    class Wrapped(type(network)):
        def forward(self, x):
            return SimpleNamespace(logits=super().forward(x))

    expected = build(problem, "eata")(problem.image(0)[0])
    network.__class__ = Wrapped
    assert torch.equal(build(problem, "eata")(problem.image(0)[0]), expected)


def test_tents_defaults_are_its_papers(problem):
    """Adam at 1e-3, one step, scales and shifts alone, the batch's statistics; here each image by itself."""
    tent = build(problem, "tent")
    (group,) = tent.optimizer.param_groups
    assert (type(tent.optimizer), group["lr"], tent.steps) == (torch.optim.Adam, 1e-3, 1)
    assert {id(p) for p in tent.adapted} == {id(p) for p in problem.model.norm.parameters()}
    assert tent.prior == 0 and tent.episodic
    tent = build(problem, "tent", lr=0.5, steps=3, episodic=False, batch_statistics=False)
    assert (tent.optimizer.param_groups[0]["lr"], tent.steps) == (0.5, 3)
    assert tent.prior is None and not tent.episodic


def test_settings_of_the_other_methods_reach_their_place(problem):
    assert build(problem, "batch-norm", prior=3).prior == 3
    assert build(problem, "cotta", views=3).views == 3
    assert build(problem, "sar", rho=0.2).rho == 0.2
    depth, segmentation = tiny.dense_problem("depth"), tiny.dense_problem("segmentation")
    assert build(segmentation, "augmentation", scales=[1, 2]).scales == (1, 2)
    assert build(segmentation, "augmentation", scales=2).scales == (2,)  # as the command line can say it
    assert build(segmentation, "augmentation").probabilities
    assert not build(depth, "augmentation").probabilities
    method = build(depth, "consistency", lr=0.5, steps=2, momentum=0.9, jitter=0.1, episodic=False)
    assert (method.momentum, method.jitter, method.steps, method.episodic) == (0.9, 0.1, 2, False)
    assert method.optimizer.param_groups[0]["lr"] == 0.5
    assert len(method.adapted) == len(list(depth.model.parameters()))


def test_the_defaults_are_the_papers(problem):
    tta = build(problem, "diffusion-tta")
    assert (tta.steps, tta.samples, tta.episodic, tta.norm, tta.sampling) == (5, 180, True, "l2", Sampling())
    (group,) = tta.optimizer.param_groups
    assert type(tta.optimizer) is torch.optim.SGD
    assert (group["lr"], group["momentum"]) == (5e-3, 0.9)
    assert len(tta.adapted) == len(list(problem.model.parameters()))


def test_settings_reach_their_place(problem):
    tta = build(
        problem, "diffusion-tta", optimizer="adamw", lr=0.25, steps=2, samples=3, trainable="norm", norm="l1",
        adapt_diffusion=True, lr_diffusion=0.5, episodic=False, timesteps="stratified", noise="shared", t_min=0.1,
        t_max=0.6, reuse_noise=True, micro_batch=2,
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
    """None of them decays them."""
    tta = build(problem, "diffusion-tta", optimizer=name, lr=0.1, samples=2, steps=1)
    assert all(group["weight_decay"] == 0 for group in tta.optimizer.param_groups)
    assert not torch.equal(tta(image), problem.model(image))


def test_a_temperature_softens_the_condition_and_not_the_answer(problem, image):
    tta = build(problem, "diffusion-tta", temperature=4.0, steps=1, samples=2)
    tta(image)
    (step,) = tta.history
    torch.testing.assert_close(step.condition, problem.condition(step.output / 4))
    torch.testing.assert_close(step.output, problem.model(image))
    assert build(problem, "diffusion-tta").condition is problem.condition


def test_depths_have_no_temperature():
    with pytest.raises(ValueError, match="for class probabilities, not for depths"):
        build(tiny.dense_problem("depth"), "diffusion-tta", temperature=2.0)


def test_the_staged_classifier_by_settings(problem, image):
    staged = build(problem, "diffusion-classifier", samples=[2, 4], keep=2)
    assert torch.isneginf(staged(image)).sum() == tiny.CLASSES - 2
    assert (staged.stages, staged.keep) == ([2, 4], [2])


def test_logits_move_the_answer_alone(problem, image):
    tta = build(problem, "logits", lr=5.0, samples=2)
    assert isinstance(tta.model, Logits)
    assert len(tta.adapted) == 1
    assert tta.adapted[0] is tta.model.delta
    assert not torch.equal(tta(image), problem.model(image))


def test_a_random_start_is_another_network_and_leaves_the_problems_alone(problem, image):
    before = [p.clone() for p in problem.model.parameters()]
    tta = build(problem, "diffusion-tta", start="random", samples=2)
    assert tta.model is not problem.model
    assert not torch.allclose(tta.model(image), problem.model(image), atol=1e-3)
    tta(image)
    assert all(torch.equal(a, b) for a, b in zip(before, problem.model.parameters(), strict=True))
    zeros = build(problem, "logits", start="random")
    assert torch.equal(zeros.model(image), torch.zeros(1, tiny.CLASSES))
    assert not build(problem, "logits").model(image).eq(0).any()


def test_the_ensemble_with_adapted_logits_is_the_mean_of_two_beliefs(problem, image):
    settings = dict(start="random", samples=4, lr=10.0)
    both = build(problem, "logits", ensemble=True, **settings)
    alone = build(problem, "logits", **settings)
    answer = both(image, torch.Generator().manual_seed(0))
    second = alone(image, torch.Generator().manual_seed(0)).softmax(1)
    torch.testing.assert_close(answer.exp(), (problem.model(image).softmax(1) + second) / 2)


@pytest.mark.parametrize("options", [dict(start="anew"), dict(ensemble=True, episodic=False)])
def test_starts_and_ensembles_that_cannot_be(problem, options):
    with pytest.raises(ValueError, match=r"start must be|one image at a time"):
        build(problem, "diffusion-tta", **options)


def test_the_problems_settings_hold_until_overruled():
    problem = tiny.problem(settings={"diffusion-tta": dict(steps=3, samples=4)})
    tta = build(problem, "diffusion-tta", samples=7)
    assert (tta.steps, tta.samples) == (3, 7)
    assert build(problem, "logits").steps == 5


@pytest.mark.parametrize(("task", "method", "settings", "message"), [
    ("classification", "tent", dict(steps=0), "steps must be a whole number of at least 1"),
    ("classification", "tent", dict(lr=-1.0), "lr and momentum must be 0 or more, not -1.0"),
    ("classification", "tent", dict(samples=3), "tent has no setting 'samples'; choose from optimizer, lr, steps"),
    ("segmentation", "augmentation", dict(scales=0), "scales must be positive"),
    ("segmentation", "augmentation", dict(scales="big"), "setting scales of augmentation must be"),
    *(("depth", "consistency", dict(jitter=value), "jitter") for value in (1.0, -0.1)),
    *(("depth", "consistency", dict(momentum=value), "momentum") for value in (1.1, -0.1, float("nan"))),
    *(("classification", "cotta", {name: 1.5}, rf"{name} must lie in \[0, 1\]")
      for name in ("momentum", "restore", "threshold")),
    ("classification", "cotta", dict(views=0), "views must be a whole number"),
    ("classification", "batch-norm", dict(prior=-1), "the prior must be 0 or more images, not -1"),
    *(("classification", "eata", {name: value}, name)
      for name, value in (("margin", 0), ("similarity", -1), ("beta", -1))),
    *(("classification", "sar", {name: value}, "must be above 0, floor")
      for name, value in (("rho", 0), ("margin", 0), ("floor", -1))),
    *(("classification", "tpt", dict(trainable="norm") | other, "views")
      for other in (dict(views=1), dict(keep=0), dict(keep=1.1), dict(area=0))),
    ("classification", "dusa", dict(mix="x"), "mix must be"),
    *(("classification", "dusa", {name: value}, name) for name, value in (("top", 0), ("others", -1), ("samples", 0))),
    ("classification", "dusa", dict(tau=0.0), "tau must be above 0"),
    *(("classification", "ttt-mae", other, "masks .* hidden") for other in (dict(masks=0), dict(hidden=1.0))),
])  # fmt: skip
def test_values_out_of_range_of_the_other_methods(task, method, settings, message):
    problem = masked(problem_for(task)) if method == "ttt-mae" else problem_for(task)
    with pytest.raises(ValueError, match=message):
        build(problem, method, **settings)


@pytest.mark.parametrize(("method", "settings", "message"), [
    ("magic", {}, "unknown method 'magic'; choose from none, diffusion-tta, diffusion-classifier, ensemble, logits"),
    ("diffusion-tta", dict(rate=1), "diffusion-tta has no setting 'rate'; choose from optimizer, lr, momentum"),
    ("diffusion-classifier", dict(steps=1), "has no setting 'steps'; choose from samples, keep, t_min, t_max"),
    ("ensemble", dict(steps=1), "ensemble has no setting 'steps'; choose from samples, t_min, t_max, temperature"),
    ("logits", dict(trainable="norm"), "logits has no setting 'trainable'; choose from optimizer, lr"),
    ("none", dict(steps=1), "none has no setting 'steps'; it takes none"),
    ("diffusion-tta", dict(optimizer="lion"), "unknown optimizer 'lion'; choose from sgd, nesterov, adam, adamw"),
    ("diffusion-tta", dict(trainable="bias"), "unknown choice 'bias' of parameters; choose from all, norm, head, lora"),
    ("diffusion-tta", dict(timesteps="sobol"), "timesteps must be one of uniform, stratified, antithetic"),
    ("diffusion-tta", dict(steps=0), "steps must be a whole number of at least 1"),
    ("diffusion-tta", dict(lr=-1.0), "lr and momentum must be 0 or more, not -1.0"),
    ("diffusion-tta", dict(lr="fast"), "the setting lr of diffusion-tta must be a number, not 'fast'"),
    ("diffusion-tta", dict(trainable="lora"), "Classifier has no lora_targets"),
    ("diffusion-tta", dict(temperature=0), "temperature must be above 0"),
    ("tpt", {}, "trainable='prompt' needs a network that reads class names; tiny has none"),
])  # fmt: skip
def test_unknown_names_and_values(problem, method, settings, message):
    with pytest.raises(ValueError, match=message):
        build(problem, method, **settings)


def test_the_other_papers_defaults(problem):
    """Rates, steps and what moves, as stated for ImageNet, or for CIFAR-10 in CoTTA's case."""
    memo, cotta, eata, sar, dusa = (build(problem, name) for name in ("memo", "cotta", "eata", "sar", "dusa"))
    mae = build(masked(problem), "ttt-mae")
    for method, kind, lr, steps, episodic in (
        (memo, torch.optim.SGD, 2.5e-4, 1, True),
        (cotta, torch.optim.Adam, 1e-3, 1, False),
        (eata, torch.optim.SGD, 2.5e-4, 1, False),
        (sar, torch.optim.SGD, 2.5e-4, 1, False),
        (mae, torch.optim.SGD, 5e-3, 20, True),
        (dusa, torch.optim.Adam, 1e-5, 1, False),
    ):
        assert type(method.optimizer) is kind
        assert (method.optimizer.param_groups[0]["lr"], method.steps, method.episodic) == (lr, steps, episodic)
    norm, everything = ({id(p) for p in part.parameters()} for part in (problem.model.norm, problem.model))
    phi = {id(p) for p in problem.diffusion.network.parameters()}
    moved = {"memo": everything, "cotta": everything, "eata": norm, "sar": norm, "dusa": everything | phi}
    for method, expected in zip((memo, cotta, eata, sar, dusa), moved.values(), strict=True):
        assert {id(p) for p in method.adapted} == expected
    assert (memo.views, memo.keep, memo.kind, memo.prior) == (64, 1.0, "augmix", 16)
    assert (cotta.momentum, cotta.restore, cotta.threshold, cotta.views) == (0.999, 0.01, 0.92, 32)
    assert (eata.margin, eata.similarity, eata.beta) == (0.4, 0.05, 2000)
    assert (sar.margin, sar.rho, sar.floor) == (0.4, 0.05, 0.2)
    assert (mae.masks, mae.hidden, mae.optimizer.param_groups[0]["weight_decay"]) == (128, 0.75, 0.2)
    assert (dusa.top, dusa.others, dusa.samples, dusa.mix, dusa.tau) == (4, 2, 1, "noise", 1.0)


PLUGIN = '''
from dtta.core.problem import Problem
from dtta.methods.tent import Tent
from dtta.methods.settings import make_optimizer


def build(problem: Problem, *, lr: float = 1e-3, episodic: bool = False) -> Tent:
    """TENT on all parameters."""
    return Tent(problem.model, make_optimizer("sgd", list(problem.model.parameters()), lr), 1, episodic)
'''


def test_a_method_of_ones_own_by_import_string(tmp_path, monkeypatch, problem, image):
    (tmp_path / "mine.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert settings_of("mine:build") == {"lr": 1e-3, "episodic": False}
    assert online("mine:build", {}) and not online("mine:build", {"episodic": True})
    method = build(problem, "mine:build", lr=0.5)
    assert method.optimizer.param_groups[0]["lr"] == 0.5
    assert method(image).shape == (1, tiny.CLASSES)
    with pytest.raises(ValueError, match="mine:build has no setting 'rate'; choose from lr, episodic"):
        build(problem, "mine:build", rate=1)
