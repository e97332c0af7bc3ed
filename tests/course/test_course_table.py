"""A class of odd, wrong and dishonest submissions: each gets what it deserves; its other tasks keep their points."""

from __future__ import annotations

import functools

import nbformat
import pytest
import table
from breaking import cells
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader.utils import determine_grade
from trip import ROOT, SANDBOX, solved

from dtta.course.staff import build, doctor, execute, remote, source

PARTS = ("check", "hidden", "edge")
SUBMISSIONS = [*table.RIGHT, *table.WRONG, *table.DISHONEST]
ALWAYS = {
    "leftover dots after the answer", "another default dtype", "a variable called check", "whole parts first",
    "an endless loop under a bare except, in between", "step leaves train() on", "episode leaves train() on",
    "allclose patched", "reads the frames above", "an input transformer", "a tensor that equals everything",
    "Student patched", "writes a result and ends", "reads what lies around", "asks the other end for names",
}  # fmt: skip
# `make test` runs these and every sixth of the others; `make reproduce` runs all.
MARKED = [
    pytest.param(
        each, id=each.name.replace(" ", "_"), marks=[pytest.mark.reproduction] * (each.name not in ALWAYS and i % 6 > 0)
    )
    for i, each in enumerate(SUBMISSIONS)
]


@functools.cache
def code(key):
    """The assignment's cells, with solutions and hidden tests, and what each can get."""
    assignment = source.read(ROOT, key)
    return cells(assignment), {cell: most for task in assignment.tasks for cell, most in task.points.items()}


@pytest.fixture(scope="module")
def runner():
    """One sandbox for all: each submission starts from the same state. It is made anew after one that broke it."""
    made = []

    def usable() -> remote.Runner:
        if not made or made[-1].ended:
            for old in made:
                old.close()
            made.append(remote.Runner(SANDBOX, build.hidden(), warm=True))
        made[-1].reset()
        if made[-1].cell("0", 5)[1]:  # one that ended everything
            made.append(remote.Runner(SANDBOX, build.hidden(), warm=True))
        made[-1].reset()
        return made[-1]

    yield usable
    for old in made:
        old.close()


@pytest.fixture
def impatient(monkeypatch):
    """A second for a call and a cell, in place of ten and more."""
    call = remote.Remote.call
    monkeypatch.setattr(remote.Remote, "call", lambda self, arguments, seconds=2: call(self, arguments, 2))
    monkeypatch.setattr(execute, "LEAST", 2.0)


def notebook(submission):
    """The submission's notebook, with the tests' texts left out, and these by name."""
    texts, _ = code(submission.key)
    parts = [("setup", texts["setup"]), ("", submission.before)]
    for i, task in enumerate(submission.tasks):
        parts += [(f"{task}-answer", submission.answers.get(task, texts[f"{task}-answer"]))]
        parts += [("", submission.beside)] if i == 0 else []
        parts += [(f"{task}-{part}", "# not what is run") for part in PARTS if f"{task}-{part}" in texts]
        parts += [("", submission.between)] if i == 0 else []
    parts += [("", submission.after)]
    made = new_notebook(cells=[new_code_cell(text) for name, text in parts if text])
    for cell, (name, _) in zip(made.cells, [part for part in parts if part[1]], strict=True):
        if name:
            graded = not name.endswith("-answer") and name != "setup"
            about = {"grade_id": name, "grade": graded, "locked": graded, "solution": not graded, "points": 1}
            cell.metadata["nbgrader"] = about
    tests = {name: text for name, text in texts.items() if name.rpartition("-")[2] in PARTS}
    return made, execute.Texts({"setup": texts["setup"]}, tests)


@pytest.mark.parametrize("submission", MARKED)
def test_each_gets_what_it_deserves(submission, runner, impatient):
    if submission.sandboxed and SANDBOX == "none":
        pytest.skip("no sandbox works here")
    made, texts = notebook(submission)
    execute.run(made, texts, runner(), seconds=30, cell_seconds=2)
    judge(made, submission.loses)


def judge(made, loses):
    """Compare the points of a notebook that has run with what it deserves."""
    graded = [cell for cell in made.cells if cell.metadata.get("nbgrader", {}).get("grade")]
    scores = {cell.metadata.nbgrader.grade_id: determine_grade(cell)[0] for cell in graded}
    lost = {name for name in scores if name in loses or name.rpartition("-")[0] in loses}
    said = {
        c.metadata.nbgrader.grade_id: [o.get("evalue") for o in c.outputs if o.output_type == "error"] for c in graded
    }
    assert {name for name, score in scores.items() if not score} == lost, said
    most = {cell.metadata.nbgrader.grade_id: cell.metadata.nbgrader.points for cell in graded}
    assert all(score == most[name] for name, score in scores.items() if name not in lost)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case.name.replace(" ", "_"),
            marks=[pytest.mark.reproduction] * (case.name not in ALWAYS and i % 6 > 0),
        )
        for i, case in enumerate(table.DAMAGED)
    ],
)
def test_a_damaged_notebook_keeps_its_points(case, runner, impatient, tmp_path):
    """Its cells are found again, so that nothing is lost but what is not there; or it is refused, and nobody gets 0."""
    texts, points = code("a1")
    assignment = source.read(ROOT, "a1")
    file = f"{assignment.name}.ipynb"
    release = nbformat.read(ROOT / "notebooks" / "assignments" / file, as_version=4)
    build.write(release, tmp_path / "release" / "a1" / file)
    whole = solved(assignment, release)
    table.named(whole, "experiment-answer").source = "print('an experiment')"  # the solution's takes longest
    came = case.damage(whole)
    home = tmp_path / "submitted" / "ann" / "a1"
    home.mkdir(parents=True)
    (home / file).write_bytes(came if isinstance(came, bytes) else came.encode())
    _, why = doctor.treat(tmp_path, "a1", "ann")
    assert bool(why) == case.refused, why
    if case.refused:
        return
    made = nbformat.read(home / file, as_version=4)
    nbformat.validate(made)
    tests = {name: text for name, text in texts.items() if name.rpartition("-")[2] in PARTS}
    execute.run(made, execute.Texts({"setup": texts["setup"]}, tests), runner(), seconds=60, cell_seconds=5)
    of_a_person = {cell for cell in points if cell not in tests}
    made.cells = [c for c in made.cells if c.metadata.get("nbgrader", {}).get("grade_id") not in of_a_person]
    assert {
        c.metadata.nbgrader.grade_id: c.metadata.nbgrader.points
        for c in made.cells
        if "points" in c.metadata.get("nbgrader", {})
    } == {name: most for name, most in points.items() if name in tests}
    judge(made, case.loses)


def test_the_table_is_large():
    assert len({submission.name for submission in SUBMISSIONS}) == len(SUBMISSIONS) >= 90
    assert {submission.name for submission in SUBMISSIONS} >= ALWAYS
