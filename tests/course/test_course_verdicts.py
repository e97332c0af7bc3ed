"""One answer has one verdict: where students run the checks, in a notebook of theirs, and where it is graded."""

from __future__ import annotations

import functools

import pytest
from breaking import broken, cells, tried
from nbformat.v4 import new_code_cell, new_notebook
from references import code as reference
from references import run
from trip import ROOT, SANDBOX, wrong_answers

from dtta.course.staff import build, execute, source
from dtta.course.staff.remote import Runner

PARTS = ("check", "hidden", "edge")


def answers(key: str, code: dict[str, str]) -> list[tuple[str, str]]:
    """The task and the text of the solutions, of the wrong answers and of the broken solutions."""
    tasks = list(dict.fromkeys(name.rpartition("-")[0] for name in code if name.endswith("-check")))
    found = [(task, code[f"{task}-answer"]) for task in tasks]
    found += [(a.task.removesuffix("-answer"), a.source) for each in wrong_answers(key).values() for a in each]
    found += [(mistake.task, mistake.apply(code[f"{mistake.task}-answer"])) for mistake in broken(key)]
    return [(task, text) for task, text in found if task in tasks]


def graded(runner: Runner, code: dict[str, str], task: str, answer: str) -> dict[str, str]:
    """What the graded cells of a task say where submissions are graded, by "check", "hidden" and "edge"."""
    runner.reset()
    names = ["setup", f"{task}-answer", *(f"{task}-{part}" for part in PARTS if f"{task}-{part}" in code)]
    texts = [code["setup"], answer, *("# not what is run" for _ in names[2:])]
    made = new_notebook(cells=[new_code_cell(text, metadata={"nbgrader": {}}) for text in texts])
    for name, cell in zip(names, made.cells, strict=True):
        cell.metadata.nbgrader["grade_id"] = name
    tests = {name: code[name] for name in names[2:]}
    execute.run(made, execute.Texts({"setup": code["setup"]}, tests), runner, seconds=60, cell_seconds=20)
    said = {}
    for name, cell in zip(names[2:], made.cells[2:], strict=True):
        if errors := [output.evalue for output in cell.outputs if output.output_type == "error"]:
            said[name.rpartition("-")[2]] = errors[0]
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "kind"),
    [("project", SANDBOX), ("project", "none")]
    + [pytest.param(key, SANDBOX, marks=pytest.mark.reproduction) for key in source.keys(ROOT) if key != "project"],
)
def test_in_a_notebook_and_in_grading(key, kind):
    """The same cells accept an answer, and the others say the same of it."""
    code = cells(source.read(ROOT, key))
    different = []
    with Runner(kind, build.hidden(), warm=True) as runner:
        for task, answer in answers(key, code):
            here = {part: str(error) for part, error in tried(code, task, answer).items()}
            there = graded(runner, code, task, answer)
            if here != there:
                different.append((task, answer, here, there))
    assert not different


@functools.cache
def table() -> list[str]:
    """What the reference of the project prints in this process."""
    return run(reference("project"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", dict.fromkeys([SANDBOX, "none"]))
def test_a_report_of_the_project_has_the_same_verdicts(kind):
    """The reference's table, with "a gain", "a loss" or "not established" in each line, as it runs in a notebook."""
    code = cells(source.read(ROOT, "project"))
    with Runner(kind, build.hidden(), warm=True) as runner:
        parts = [text for name, text in code.items() if name == "setup" or name.endswith("-answer")]
        outputs = [runner.cell(text, 400) for text in parts]
    assert not any(trouble for _, trouble in outputs)
    printed = "".join(output.text for each, _ in outputs for output in each if output.output_type == "stream")
    assert printed.splitlines() == table()
