"""Solutions broken in one place are caught, each by the check that the lecturers' list names."""

from __future__ import annotations

import pytest
from breaking import TABLE, broken, caught, cells, table, tried
from trip import ROOT

from dtta.course.staff import source

KEYS = source.keys(ROOT)


@pytest.mark.parametrize("key", KEYS)
def test_broken_solutions_are_caught(key):
    assignment = source.read(ROOT, key)
    code, mistakes = cells(assignment), broken(key)
    tasks = [task.answers[0].removesuffix("-answer") for task in assignment.tasks if not task.manual]
    assert list(dict.fromkeys(mistake.task for mistake in mistakes)) == tasks
    for task in tasks:
        assert tried(code, task, code[f"{task}-answer"]) == {}, f"{task}: the solution itself"
        assert sum(mistake.task == task for mistake in mistakes) >= 3, f"{task}: three broken solutions"
    found = {}
    for mistake in mistakes:
        raised = tried(code, mistake.task, mistake.apply(code[f"{mistake.task}-answer"]))
        found[mistake.task, mistake.what] = caught(raised)
    assert found == {(mistake.task, mistake.what): mistake.caught for mistake in mistakes}


def test_the_list_for_lecturers_is_in_step():
    assert TABLE.read_text(encoding="utf-8") == table(), "call: python tests/course/breaking.py"
