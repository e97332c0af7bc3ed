"""The shipped CLIP and text-to-image model: their quality, the whole problem."""

from __future__ import annotations

import pytest
import torch

import dtta
from dtta.cli import main
from dtta.core.probe import losses_under
from dtta.core.sampling import Sampling
from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import Run
from dtta.methods.diffusion_classifier import DiffusionClassifier
from dtta.methods.registry import build
from dtta.problems.networks.clip import ClipClassifier, prompt_embeddings
from dtta.problems.scenes import clip, portraits
from dtta.problems.scenes.words import VOCABULARY
from dtta.problems.training import weights


@pytest.fixture(scope="module")
def reader():
    return weights.ready("scenes-clip", clip.NETWORKS)


def clean(classes: int, count: int):
    pairs = [portraits.shifted(classes, "test", i, "clean", 0, 0) for i in range(count)]
    return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])


def by_seen(right, labels):
    seen = torch.tensor([VOCABULARY[j].seen for j in labels.tolist()])
    return right[seen].float().mean(), right[~seen].float().mean()


@torch.no_grad()
@pytest.mark.parametrize("classes", [20, pytest.param(50, marks=pytest.mark.reproduction)])
def test_zero_shot_accuracy(reader, classes):
    x, labels = clean(classes, 200)
    names = [label.name for label in VOCABULARY[:classes]]
    model = ClipClassifier(reader, clip.tokenizer(), names, clip.PROMPTS, clip.MEAN, clip.STD)
    seen, unseen = by_seen(model(x).argmax(1) == labels, labels)
    assert seen >= 0.9 and unseen >= 0.7


@pytest.mark.reproduction
def test_diffusion_classifier_accuracy_with_few_names(reader):
    x, labels = clean(10, 60)
    phi = weights.ready("scenes-clip", clip.DIFFUSIONS)
    names = [label.name for label in VOCABULARY[:10]]
    embeddings = prompt_embeddings(reader.text_model, clip.tokenizer(), names, clip.PROMPTS[0])
    method = DiffusionClassifier(phi, 12, Sampling("stratified"), embeddings=embeddings)
    answers = torch.cat([method(part).argmax(1) for part in x.split(10)])
    assert (answers == labels).float().mean() >= 0.85


def test_the_text_to_image_model_uses_its_condition():
    """The loss of a clean portrait is lowest under its name, and higher under another name than under their mean."""
    problem = dtta.load("scenes-clip")
    x, labels = clean(20, 60)
    l = problem.condition.embeddings
    conditions = [l[labels], l.mean(0).expand(60, -1, -1), l[labels.roll(1)]]
    sampling = Sampling("stratified", t_min=0.1, t_max=0.8)
    right, none, wrong = losses_under(problem.diffusion, x, conditions, 4, sampling).mean(0)
    assert 1.005 * right < none < wrong


def test_the_problem_is_adapted_and_reset():
    problem = dtta.load("scenes-clip", classes=5)
    x, label = problem.image(3, "contrast", 3)
    assert problem.classes[label] == VOCABULARY[3].name and len(problem.classes) == 5
    before = problem.model(x)
    method = build(problem, "diffusion-tta", samples=6)
    after = method(x, torch.Generator().manual_seed(0))
    assert not torch.allclose(before, after, atol=1e-3)
    assert torch.equal(problem.model(x), before)


def test_the_number_of_names_is_part_of_a_run():
    rows = {
        classes: evaluate(Run("none", "scenes-clip", classes=classes), [("clean", 3)], [7], progress=False)
        for classes in (5, None)
    }
    assert all(len(each) == 1 for each in rows.values())
    with pytest.raises(ValueError, match="the classes of digits are fixed"):
        dtta.load("digits", classes=5)


def test_a_synonym_is_a_right_answer():
    problem = dtta.load("scenes-clip", classes=480)
    _, label = problem.image(130)
    one_hot = torch.eye(480)
    right = [j for j in range(480) if problem.score(one_hot[j : j + 1], label)]
    assert right == [10, 130, 250, 370] and len({problem.classes[j] for j in right}) == 4
    assert dtta.load("scenes-clip", classes=20).score(one_hot[10:11, :20], label) == 1


def test_other_names():
    problem = dtta.load("scenes-clip", classes=["red thing", "blue thing"])
    x, _ = dtta.load("scenes-clip").image(2)  # a glossy red ball
    assert problem.classes == ("red thing", "blue thing")
    assert problem.model(x).argmax() == 0
    assert build(problem, "diffusion-tta", samples=2, steps=1)(x).shape == (1, 2)
    with pytest.raises(ValueError, match="no labelled images"):
        problem.image(0)
    with pytest.raises(ValueError, match="repeated"):
        dtta.load("scenes-clip", classes=["red thing", "red thing"])


def test_adapting_to_a_file_with_other_names(tmp_path, capsys):
    from torchvision.utils import save_image

    x, _ = dtta.load("scenes-clip").image(2)
    save_image(x, tmp_path / "ball.png")
    options = ["--classes", "red ball, blue box", "--set", "samples=2", "--set", "steps=1", "--out", str(tmp_path)]
    assert main(["adapt", str(tmp_path / "ball.png"), "--problem", "scenes-clip", *options]) == 0
    assert "red ball" in capsys.readouterr().out and (tmp_path / "ball-adapted.png").exists()
    assert main(["adapt", "--index", "0", "--problem", "scenes-clip", *options]) == 2
    assert "no labelled images" in capsys.readouterr().err
    assert main(["evaluate", "--problem", "digits", "--classes", "5"]) == 2
    assert "the classes of digits are fixed" in capsys.readouterr().err
