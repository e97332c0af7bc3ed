"""Each assignment through nbgrader: generate, release, hand in, autograde, feedback, grades.csv.

One or two tests for each: python -m pytest tests/course -k a1. test_course_answers.py tries all wrong answers.
"""

from __future__ import annotations

import csv

import nbformat
import pytest
from nbgrader.api import Gradebook
from trip import ROOT, SANDBOX, answered, solved, wrong_answers

from dtta.course.staff import build, grade, source

PUBLISHED = ROOT / "notebooks" / "assignments"


BOTH = ("a1", "a4", "project")  # Bob's other notebooks are left to `make reproduce`
STUDENTS = [pytest.param(key, ["ann", "bob"] if key in BOTH else ["ann"], id=key) for key in source.keys(ROOT)]
STUDENTS += [
    pytest.param(key, ["bob"], marks=pytest.mark.reproduction, id=f"{key}-wrong")
    for key in source.keys(ROOT)
    if key not in BOTH
]


@pytest.mark.slow
@pytest.mark.parametrize(("key", "students"), STUDENTS)
def test_round_trip(key, students, tmp_path):
    """Ann solved all; Bob answered each task wrongly, so that some of its cells keep their points if that can be."""
    (assignment,) = build.build(ROOT, tmp_path, [key])
    file = f"{assignment.name}.ipynb"
    made = tmp_path / "release" / key / file
    assert (PUBLISHED / file).read_text(encoding="utf-8") == made.read_text(encoding="utf-8"), (
        f"call: dtta course build {key} --publish"
    )
    release = nbformat.read(made, as_version=4)
    answers = [min(answers, key=lambda answer: len(answer.loses)) for answers in wrong_answers(key).values()]
    handed_in = {
        "ann": solved(assignment, release),
        "bob": answered(release, {answer.task: answer.source for answer in answers}),
    }
    graded = {}
    for student in students:
        build.write(handed_in[student], tmp_path / "submitted" / student / key / file)
        grade.autograde(tmp_path, key, student, SANDBOX)
        graded[student] = nbformat.read(tmp_path / "autograded" / student / key / file, as_version=4)

    scores = {student: {} for student in students}
    for score in grade.scores(tmp_path, key):
        scores[score.student][score.cell] = score.points
    points = {cell: most for task in assignment.tasks for cell, most in task.points.items()}
    manual = {cell for task in assignment.tasks for cell in task.manual}
    lost = manual.union(*(answer.loses for answer in answers))  # Bob wrote no texts, which gives no points at once
    expected = {
        "ann": {cell: None if cell in manual else most for cell, most in points.items()},
        "bob": {cell: 0 if cell in lost else most for cell, most in points.items()},
    }
    assert scores == {student: expected[student] for student in students}
    for answer in answers if "bob" in students else ():
        said = said_by(graded["bob"], answer.loses[0])
        assert answer.says in said, f"{answer.name}: {answer.loses[0]} says\n{said}"

    if "ann" in students:
        with Gradebook(f"sqlite:///{tmp_path}/gradebook.db", "dtta") as book:
            for cell in manual:
                book.find_grade(cell, assignment.name, key, "ann").manual_score = points[cell]
            book.db.commit()
    in_feedback = {"ann": assignment.tasks[0].title, "bob": "✗"}
    totals = {"ann": assignment.points, "bob": sum(expected["bob"].values())}
    for student in students:
        assert in_feedback[student] in grade.feedback(tmp_path, key, student).read_text(encoding="utf-8")
    rows = list(csv.DictReader(grade.export(tmp_path).open(encoding="utf-8")))
    assert {row["student_id"]: float(row["score"]) for row in rows} == {s: totals[s] for s in students}
    assert {float(row["max_score"]) for row in rows} == {assignment.points}


def said_by(notebook: nbformat.NotebookNode, cell_id: str) -> str:
    """What a cell put out, errors included."""
    (cell,) = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == cell_id]
    return "\n".join(o.get("text", "") + o.get("evalue", "") for o in cell.outputs)
