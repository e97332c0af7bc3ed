"""When an image has had enough: sure answers are left alone, settled ones end the steps."""

from __future__ import annotations

import pytest
import tiny
import torch

from dtta.core.stopping import Stopping
from dtta.methods.registry import build


def answers(*classes: int, of: int = 3) -> list[torch.Tensor]:
    return [4 * torch.nn.functional.one_hot(torch.tensor([k]), of).float() for k in classes]


def test_without_settings_nothing_is_ever_enough():
    assert not Stopping().should_stop(answers(0)) and not Stopping().should_stop(answers(*[1] * 20))


@pytest.mark.parametrize("task_shape", [(1, 3), (1, 3, 4, 4)])
def test_sure_answers_are_left_alone_and_only_at_first(task_shape):
    logits = torch.zeros(task_shape)
    logits[:, 1] = 2.0
    belief = logits.softmax(1).amax().item()
    assert Stopping(confidence=belief - 1e-3).should_stop([logits])
    assert not Stopping(confidence=belief + 1e-3).should_stop([logits])
    assert not Stopping(confidence=belief - 1e-3).should_stop([logits, logits])


def test_the_least_sure_image_of_a_batch_counts():
    batch = torch.tensor([[9.0, 0.0], [0.1, 0.0]])
    assert Stopping(confidence=0.9).should_stop([batch[:1]]) and not Stopping(confidence=0.9).should_stop([batch])


@pytest.mark.parametrize(("classes", "patience", "expected"), [
    ([0, 0], 1, True), ([0], 1, False), ([0, 1], 1, False), ([0, 1, 1], 1, True),
    ([0, 0], 2, False), ([0, 0, 0], 2, True), ([1, 0, 0], 2, False), ([1, 0, 0, 0], 2, True), ([0, 1, 0], 2, False),
])  # fmt: skip
def test_patience_counts_steps_that_leave_the_class(classes, patience, expected):
    assert Stopping(patience=patience).should_stop(answers(*classes)) is expected


@pytest.mark.parametrize(("options", "message"), [
    (dict(confidence=0.0), r"confidence must lie in \(0, 1\]"),
    (dict(confidence=1.2), "confidence must lie"),
    (dict(patience=0), "patience must be a whole number of at least 1"),
    (dict(patience=1.5), "patience"),
])  # fmt: skip
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Stopping(**options)


def test_a_skipped_image_is_answered_as_it_is_and_costs_nothing():
    problem = tiny.problem()
    x, _ = problem.image(0)
    tta = build(problem, "diffusion-tta", samples=4, lr=0.5, confidence=1e-3)
    tta.diffusion.loss = None  # whoever asked the diffusion model would fail
    with torch.no_grad():
        assert torch.equal(tta(x), problem.model(x))
    assert tta.history == []


def test_a_settled_image_gives_the_answer_of_the_steps_it_made():
    problem = tiny.problem()
    x, _ = problem.image(0)
    patient = build(problem, "diffusion-tta", samples=4, lr=1e-4, steps=6, patience=2)
    answer = patient(x, torch.Generator().manual_seed(0))
    assert len(patient.history) == 2  # at such a rate no class changes
    short = build(problem, "diffusion-tta", samples=4, lr=1e-4, steps=2)
    torch.testing.assert_close(answer, short(x, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("options", [dict(confidence=0.9), dict(patience=2)])
def test_depths_are_never_sure(options):
    message = "for class probabilities, not for depths"
    with pytest.raises(ValueError, match=message):
        build(tiny.dense_problem("depth"), "diffusion-tta", **options)
    for depth in (torch.ones(1, 1, 4, 4), torch.ones(1, 4, 4)):
        assert not Stopping().should_stop([depth])
        with pytest.raises(ValueError, match=message):
            Stopping(**options).should_stop([depth])
