"""Answers to the tasks: which of their cells accept them, and what these say.

They run in this process: what nbgrader makes of a cell that fails is tested once for each assignment, in
test_course_round_trip.py.
"""

from __future__ import annotations

import re

import nbformat
import pytest
from breaking import TABLE, broken, caught, cells, table, tried
from trip import ROOT, wrong_answers

from dtta.course import check
from dtta.course.staff import source
from dtta.course.staff.mend import grade_id

KEYS = source.keys(ROOT)


def tasks(assignment: source.Assignment) -> dict[str, source.Task]:
    """The tasks that are graded without a person, by name."""
    return {task.answers[0].removesuffix("-answer"): task for task in assignment.tasks if not task.manual}


@pytest.mark.parametrize("key", KEYS)
def test_broken_solutions_are_caught(key):
    """Each by the check that the lecturers' list names."""
    assignment = source.read(ROOT, key)
    code, mistakes = cells(assignment), broken(key)
    assert list(dict.fromkeys(mistake.task for mistake in mistakes)) == list(tasks(assignment))
    for task in tasks(assignment):
        assert tried(code, task, code[f"{task}-answer"]) == {}, f"{task}: the solution itself"
        assert sum(mistake.task == task for mistake in mistakes) >= 3, f"{task}: three broken solutions"
    found = {}
    for mistake in mistakes:
        raised = tried(code, mistake.task, mistake.apply(code[f"{mistake.task}-answer"]))
        found[mistake.task, mistake.what] = caught(raised)
    assert found == {(mistake.task, mistake.what): mistake.caught for mistake in mistakes}


@pytest.mark.parametrize("key", KEYS)
def test_wrong_answers_lose_their_points_and_learn_why(key):
    """In another variant of the data than the other tests here use."""
    assignment = source.read(ROOT, key, seed=1)
    code, wrong = cells(assignment), wrong_answers(key)
    for task in tasks(assignment):
        assert len(wrong[f"{task}-answer"]) >= 3, f"{task}: three wrong answers"
        for answer in wrong[f"{task}-answer"]:
            raised = {f"{task}-{part}": error for part, error in tried(code, task, answer.source).items()}
            assert raised.keys() == set(answer.loses), answer.name
            assert answer.says in str(raised[answer.loses[0]]), answer.name


@pytest.mark.parametrize("key", KEYS)
def test_an_answer_that_is_not_written_gets_no_points(key):
    assignment = source.read(ROOT, key)
    code, release = cells(assignment), ROOT / "notebooks" / "assignments" / f"{assignment.name}.ipynb"
    blank = {grade_id(cell): cell.source for cell in nbformat.read(release, as_version=4).cells}
    for name, task in tasks(assignment).items():
        raised = tried(code, name, blank[task.answers[0]])
        assert [f"{name}-{part}" for part in raised] == list(task.points)
        assert "is not written yet" in str(raised["check"])


@pytest.mark.parametrize("seed", range(3))
def test_the_step_of_algorithm_1_can_be_seen(seed):
    """Whoever forgets the step is shown parameters that should have changed by more than a hundredth."""
    check.variant(seed)

    def no_step(network, loss, embeddings, optimizer, x, z0, t, noise):
        c = network(x).softmax(1) @ embeddings
        return loss(z0.expand(len(t), -1, -1, -1), t, noise, c.expand(len(t), -1)).mean().detach()

    with pytest.raises(check.Wrong, match="parameters have not changed at all") as error:
        check.adapt_step(no_step)
    check.variant(0)
    assert abs(float(re.search(r"\[(.+?)\]", str(error.value))[1])) > 0.01


def test_the_list_for_lecturers_is_in_step():
    assert TABLE.read_text(encoding="utf-8") == table(), "call: python tests/course/breaking.py"
