"""CoTTA against its equations, written out."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch

from dtta.core.parameters import select
from dtta.methods.cotta import Cotta
from dtta.methods.registry import build
from dtta.methods.views import jittered


def method(lr=0.1, **options) -> Cotta:
    model = tiny.classifier()
    usual = dict(views=4, restore=0.0, mirror=False, batch_statistics=False)
    return Cotta(model, torch.optim.SGD(select(model), lr=lr), **usual | options)


def perturbed(model, size, seed):
    """All weights of the network moved at random, in place."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for w in model.parameters():
            w += size * torch.randn(w.shape, generator=g)


def written_out(student, teacher, source, x, threshold, views, own, seed):
    """-1/N Σ_n Σ_j y'_j log y_j, one image at a time; every network normalised by the whole batch if `own`."""

    def belief(network, images):
        return tiny.written_out(network, images, own=own).softmax(1)

    g = torch.Generator().manual_seed(seed)
    seen = [jittered(x, 1, g, mirror=False) for _ in range(views)]
    with torch.no_grad():
        sure = belief(source, x).amax(1) >= threshold
        plain, in_views = belief(teacher, x), [belief(teacher, view) for view in seen]
    y, total = belief(student, x), 0
    for n in range(len(x)):
        target = plain[n] if sure[n] else sum(q[n] for q in in_views) / views
        total = total - (target * y[n].log()).sum() / len(x)
    return total, sure


@pytest.mark.parametrize("own", [True, False], ids=["own statistics", "running statistics"])
def test_the_student_follows_the_teachers_belief(own):
    """Whether to look at views is asked of the network as it was; the teacher is sure of other images."""
    wrapped, x = method(batch_statistics=own), tiny.images(4)
    perturbed(wrapped.teacher[0], 0.3, seed=1), perturbed(wrapped.model, 0.3, seed=2)
    networks = wrapped.model, wrapped.teacher[0], wrapped.source[0]
    with wrapped.statistics(x), torch.no_grad():
        certainty, teachers = (network(x).softmax(1).amax(1) for network in (networks[2], networks[1]))
    wrapped.threshold = certainty.sort().values[1:3].mean().item()  # half of the images are unsure
    assert not torch.equal(certainty.argsort(), teachers.argsort())
    assert not torch.equal(certainty < wrapped.threshold, teachers < teachers.median())
    with wrapped.statistics(x):
        found = wrapped.objective(x, torch.Generator().manual_seed(3))
    expected, sure = written_out(*networks, x, wrapped.threshold, 4, own, seed=3)
    assert sure.sum() == 2
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("own", [True, False], ids=["own statistics", "running statistics"])
def test_the_teacher_is_the_students_average_and_gives_the_answer(own):
    wrapped, x = method(momentum=0.9, batch_statistics=own), tiny.images(3)
    perturbed(wrapped.source[0], 0.3, seed=1)
    student, teacher = copy.deepcopy(wrapped.model), copy.deepcopy(wrapped.teacher[0])
    with wrapped.statistics(x), torch.no_grad():
        wrapped.threshold = wrapped.source[0](x).softmax(1).amax(1).sort().values[:2].mean().item()
    loss, sure = written_out(student, teacher, wrapped.source[0], x, wrapped.threshold, 4, own, seed=0)
    assert sure.sum() == 2
    gradients = torch.autograd.grad(loss, list(student.parameters()))
    answer = wrapped(x, torch.Generator().manual_seed(0))
    for w, start, g in zip(wrapped.model.parameters(), student.parameters(), gradients, strict=True):
        assert torch.allclose(w, start - 0.1 * g, atol=1e-6)
    for w, start, g in zip(wrapped.teacher[0].parameters(), teacher.parameters(), gradients, strict=True):
        assert torch.allclose(w, start - 0.1 * 0.1 * g, atol=1e-6)
    by_teacher, by_student = (tiny.written_out(f, x, own=own) for f in (wrapped.teacher[0], wrapped.model))
    assert torch.allclose(answer, by_teacher, atol=1e-5)
    assert not torch.allclose(answer, by_student, atol=1e-5)


def test_some_weights_return_to_their_start():
    wrapped, x = method(restore=0.3), tiny.images(2)
    wrapped(x, torch.Generator().manual_seed(0))
    other = method()  # the same step without restoring
    other(x, torch.Generator().manual_seed(0))
    still, back = (
        torch.cat([(w == s).flatten() for w, s in zip(m.adapted, m.start, strict=True)]) for m in (other, wrapped)
    )
    assert 0.2 < back[~still].float().mean() < 0.4
    assert back[still].all()
    wrapped = method(restore=1.0)
    wrapped(x)
    assert all(torch.equal(w, s) for w, s in zip(wrapped.adapted, wrapped.start, strict=True))


def test_views_are_drawn_from_the_generator_alone():
    x = tiny.images(2, channels=3)
    state = torch.get_rng_state()
    a, b = (jittered(x, 5, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b) and a.shape == (10, 3, 8, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert a.min() >= 0 and a.max() <= 1
    assert not torch.equal(a, jittered(x, 5, torch.Generator().manual_seed(2)))
    assert (a[:5] - x[0]).abs().mean() < (a[:5] - x[1]).abs().mean()  # image by image


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_black_moves_in_from_beyond_the_edge(channels):
    seen = jittered(torch.ones(1, channels, 8, 10), 50, torch.Generator().manual_seed(0))
    assert seen.shape == (50, channels, 8, 10)
    assert seen.min() > 0.6**1.3 - 0.05  # the darkest that brightness and gamma make of white
    assert seen.min() < 0.75


@pytest.mark.parametrize("threshold", [0.0, 1.0, "mean"])
def test_the_authors_loop_answers_with_what_it_teaches(threshold):
    """Their code for ImageNet, written out: online, three batches of four."""
    x, random = tiny.images(12), torch.Generator().manual_seed(3)
    student = tiny.classifier()
    student.norm.running_mean = student.norm.running_var = None
    anchor, teacher, start = (copy.deepcopy(student) for _ in range(3))
    with torch.no_grad():
        certain = [anchor(batch).softmax(1).amax(1).mean().item() for batch in x.split(4)]
    if threshold == "mean":  # some batches are certain, each with images on both sides
        threshold = sum(certain) / 3
    assert threshold in (0, 1) or min(certain) < threshold < max(certain)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    ours = build(
        tiny.problem(), "cotta", optimizer="nesterov", lr=0.1, threshold=threshold, views=3, momentum=0.9, restore=0.3,
        as_released=True, answer_before_step=True,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    for batch, certainty in zip(x.split(4), certain, strict=True):
        with torch.no_grad():
            taught = teacher(batch)
            if certainty < threshold:
                taught = torch.stack([teacher(jittered(batch, 1, random)) for _ in range(3)]).mean(0)
        y = student(batch)
        loss = -(taught.softmax(1) * y.log_softmax(1)).sum(1) - (y.softmax(1) * taught.log_softmax(1)).sum(1)
        optimizer.zero_grad()
        (0.5 * loss).mean(0).backward()
        optimizer.step()
        with torch.no_grad():
            for average, w in zip(teacher.parameters(), student.parameters(), strict=True):
                average.copy_(0.9 * average + 0.1 * w)
            for w, first in zip(student.parameters(), start.parameters(), strict=True):
                mask = (torch.rand(w.shape, generator=random) < 0.3).float()
                w.copy_(first * mask + w * (1 - mask))
        torch.testing.assert_close(ours(batch, generator), taught, rtol=1e-4, atol=1e-5)


def test_the_answer_before_the_step_is_the_belief_taught():
    """In the paper's form: of a sure image the teacher's, of an unsure one the mean over views."""
    wrapped, x = method(answer_before_step=True), tiny.images(4)
    wrapped.threshold = wrapped.source[0](x).softmax(1).amax(1).sort().values[1:3].mean().item()
    perturbed(wrapped.teacher[0], 0.3, seed=1)
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        sure = wrapped.source[0](x).softmax(1).amax(1) >= wrapped.threshold
        plain = wrapped.teacher[0](x).softmax(1)
        views = torch.stack([wrapped.teacher[0](jittered(x, 1, g, False)).softmax(1) for _ in range(4)]).mean(0)
    answer = wrapped(x, torch.Generator().manual_seed(3)).softmax(1)
    assert sure.sum() == 2
    torch.testing.assert_close(answer, torch.where(sure[:, None], plain, views))
