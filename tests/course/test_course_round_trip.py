"""Each assignment through nbgrader, really: generate, release, hand in, autograde, feedback, grades.csv.

One test for each assignment: python -m pytest tests/course -k a1
"""

from __future__ import annotations

import csv

import nbformat
import pytest
from nbgrader.api import Gradebook
from trip import ROOT, SANDBOX, answered, rounds, solved, wrong_answers

from dtta.course.staff import build, grade, source

PUBLISHED = ROOT / "notebooks" / "assignments"
SECONDS = 60  # of a core, for one submission: this machine may be busy with other tests


@pytest.mark.slow
@pytest.mark.timeout(1800)  # seven submissions of up to a minute each, more on a busy machine
@pytest.mark.parametrize("key", source.keys(ROOT))
def test_round_trip(key, tmp_path):
    (assignment,) = build.build(ROOT, tmp_path, [key])
    file = f"{assignment.name}.ipynb"
    made = tmp_path / "release" / key / file
    assert (PUBLISHED / file).read_text(encoding="utf-8") == made.read_text(encoding="utf-8"), (
        f"call: dtta course build {key} --publish"
    )
    release = nbformat.read(made, as_version=4)
    wrong = wrong_answers(key)
    tasks = [task for task in assignment.tasks if not task.manual]
    assert all(len(wrong.get(task.answers[0], [])) >= 3 for task in tasks), "three wrong answers for each task"
    handed_in = {"solution": solved(assignment, release), "blank": release}
    for i, answers in enumerate(rounds(wrong)):
        handed_in[f"wrong-{i}"] = answered(release, {a.task: a.source for a in answers})
    for student, notebook in handed_in.items():
        build.write(notebook, tmp_path / "submitted" / student / key / file)

    for student in handed_in:
        grade.autograde(tmp_path, key, student, SANDBOX)
    graded = {
        student: nbformat.read(tmp_path / "autograded" / student / key / file, as_version=4) for student in handed_in
    }
    seconds = {student: notebook.metadata["cpu_seconds"] for student, notebook in graded.items()}
    print(seconds)
    assert max(seconds.values()) <= SECONDS

    found = {student: {} for student in handed_in}
    for score in grade.scores(tmp_path, key):
        found[score.student][score.cell] = score.points
    points = {cell: most for task in assignment.tasks for cell, most in task.points.items()}
    manual = {cell for task in assignment.tasks for cell in task.manual}
    assert found["solution"] == {cell: None if cell in manual else most for cell, most in points.items()}
    assert found["blank"] == dict.fromkeys(points, 0)
    for task in tasks:
        assert "is not written yet" in said_by(graded["blank"], next(iter(task.points)))
    for i, answers in enumerate(rounds(wrong)):
        answered_tasks = {a.task for a in answers}
        for task in tasks:
            for cell in task.points:
                lost = {c for a in answers for c in a.loses}
                right = 0 if task.answers[0] not in answered_tasks or cell in lost else points[cell]
                names = [a.name for a in answers if a.task == task.answers[0]]
                assert found[f"wrong-{i}"][cell] == right, f"{cell} under the answer {names}"
        for answer in answers:
            said = said_by(graded[f"wrong-{i}"], answer.loses[0])
            assert answer.says in said, f"{answer.name}: {answer.loses[0]} says\n{said}"

    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db", "dtta") as book:
        for cell in manual:
            book.find_grade(cell, assignment.name, key, "solution").manual_score = points[cell]
        book.db.commit()
    page = grade.feedback(tmp_path, key, "solution").read_text(encoding="utf-8")
    assert assignment.tasks[0].title in page
    assert "✗" in grade.feedback(tmp_path, key, "wrong-0").read_text(encoding="utf-8")
    rows = {row["student_id"]: row for row in csv.DictReader(grade.export(tmp_path).open(encoding="utf-8"))}
    assert float(rows["solution"]["score"]) == float(rows["solution"]["max_score"]) == assignment.points
    assert float(rows["blank"]["score"]) == 0


def said_by(notebook: nbformat.NotebookNode, cell_id: str) -> str:
    """What a cell put out, errors included."""
    (cell,) = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == cell_id]
    return "\n".join(o.get("text", "") + o.get("evalue", "") for o in cell.outputs)
