"""dtta course build, doctor, grade and report, from the command line, over one small class."""

from __future__ import annotations

import csv

import nbformat
import pytest
from trip import ROOT, SANDBOX, answered, solved, wrong_answers

from dtta.cli import main
from dtta.course.staff import build, grade, report, source
from dtta.course.staff.source import CourseError

NAME = "a1_diffusion_loss.ipynb"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """Ann solved all of it but wrote no text, Bob made mistakes and his editor lost all metadata, Cy has a blank."""
    folder = tmp_path_factory.mktemp("course")
    assert main(["course", "build", "a1", "--root", str(ROOT), "--to", str(folder)]) == 0
    release = nbformat.read(folder / "release" / "a1" / NAME, as_version=4)
    wrong = {task: answers[0].source for task, answers in wrong_answers("a1").items()}
    ann = solved(source.read(ROOT, "a1"), release)
    for cell in ann.cells:  # the experiment of the solution takes longest
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "experiment-answer":
            cell.source = "print('7, 12 and 4 of 20')"
    bob = answered(release, wrong)
    for cell in bob.cells:
        cell.metadata.pop("nbgrader", None)
    for student, notebook in {"ann": ann, "bob": bob, "cy": release}.items():
        build.write(notebook, folder / "submitted" / student / "a1" / NAME)
    return folder


@pytest.mark.slow
def test_a_class_from_submissions_to_the_lms(course, capsys):
    assert main(["course", "doctor", str(course)]) == 0
    assert "a1 bob: mended: lost the metadata of" in capsys.readouterr().out

    assert main(["course", "grade", str(course), "--sandbox", SANDBOX]) == 0
    said = capsys.readouterr().out
    assert "submissions run in: " in said
    assert "a1 ann: 17 of 26 points, 1 answers still to be graded by hand" in said
    assert "a1 bob: 0 of 26 points" in said and "a1 cy: 0 of 26 points" in said
    assert {path.parts[-3] for path in (course / "feedback").rglob("*.html")} == {"ann", "bob", "cy"}
    (course / "submitted" / "dan" / "a1").mkdir(parents=True)
    (course / "submitted" / "__MACOSX" / "ann").mkdir(parents=True)
    assert main(["course", "grade", str(course), "--sandbox", SANDBOX]) == 2
    said = capsys.readouterr()
    assert said.out.count("graded before and not changed since") == 3
    assert f"a1 dan: not graded: has no notebook {NAME}" in said.out and "a1 dan: has no notebook" in said.err
    rows = {row["student_id"]: row["score"] for row in csv.DictReader((course / "grades.csv").open(encoding="utf-8"))}
    assert rows == {"ann": "17.0", "bob": "0.0", "cy": "0.0", "dan": ""}

    assert main(["course", "report", str(course)]) == 0
    out = course / "report"
    words = (out / "report.md").read_text(encoding="utf-8")
    assert "3 students. 1 answers wait to be graded by hand." in words
    assert f"* a1 dan: has no notebook {NAME}, and no other that looks like it" in words
    assert "* forward-check, 1 students: the square root of ᾱ_t is missing, both times" in words
    assert "| forward-check | 2 | 33% | 1 | 2 | 0 |" in words
    assert (out / "scores.png").stat().st_size > 10_000
    rows = list(csv.reader((out / "lms.csv").open(encoding="utf-8-sig")))
    assert rows[0] == ["Full name", "ID number", "Email address", "a1 (26)"]
    assert rows[1:] == [["", "ann", "", ""], ["", "bob", "", "0"], ["", "cy", "", "0"], ["", "dan", "", ""]]
    assert main(["course", "report", str(course), "--lms", "canvas"]) == 0
    rows = list(csv.reader((out / "lms.csv").open(encoding="utf-8-sig")))
    assert rows[0] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "a1"]
    assert rows[1] == ["    Points Possible", "", "", "", "", "26"]
    assert rows[3] == ["", "", "", "bob", "", "0"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["grade", "FOLDER", "a7"], "nothing was handed in for a7"),
        (["grade", "FOLDER", "--student", "eve"], "nothing was handed in for eve"),
        (["grade", "FOLDER", "--sandbox", "jail"], "the sandbox 'jail' does not work here"),
        (["report", "FOLDER", "a7"], "nothing is graded for a7"),
        (["doctor", "nowhere"], "has no folder submitted/"),
        (["build", "--root", "nowhere"], "is no checkout of the book"),
        (["build", "a99", "--root", str(ROOT)], "no assignment 'a99'"),
    ],
)
def test_bad_input_is_one_sentence(course, capsys, arguments, words):
    arguments = [str(course) if a == "FOLDER" else a for a in arguments]
    if arguments[0] == "grade":
        arguments += [] if "--sandbox" in arguments else ["--sandbox", "none"]
    assert main(["course", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Ann and Bob, graded by what the test says."""
    for student in ("ann", "bob"):
        build.write(nbformat.v4.new_notebook(), tmp_path / "submitted" / student / "a1" / NAME)
    monkeypatch.setattr(grade, "_probe", lambda kind: True)
    monkeypatch.setattr(grade, "feedback", lambda *_: None)
    monkeypatch.setattr(grade, "scores", lambda *_: [grade.Score("bob", "x-check", 2.0, 2.0)])
    return tmp_path


def test_one_bad_submission_does_not_stop_the_others(two, monkeypatch):
    def autograde(folder, key, student, sandbox):
        if student == "ann":
            raise CourseError("two cells have one name")

    monkeypatch.setattr(grade, "autograde", autograde)
    lines = grade.grade(two, [], [], "none")
    assert next(lines) == "a1 ann: not graded: two cells have one name"
    assert next(lines) == "a1 bob: 2 of 2 points"
    with pytest.raises(CourseError, match="not graded:\na1 ann: two cells have one name"):
        next(lines)
    assert grade.not_graded(two) == {("a1", "ann"): "two cells have one name"}


def test_if_all_fail_alike_it_is_said_once(two, monkeypatch):
    def autograde(*_):
        raise CourseError("no space left")

    monkeypatch.setattr(grade, "autograde", autograde)
    with pytest.raises(CourseError, match=r"^none of 2 submissions was graded, all for one reason: no space left$"):
        list(grade.grade(two, [], [], "none"))


def test_mistakes_are_counted_without_the_numbers_of_one_student():
    message = "✗ f gives other numbers than expected for y (most at [3])\n  expected:  1\n  came:      2"
    assert report._mistake(message) == "f gives other numbers than expected for y"
    assert report._mistake(message + "\n  a likely reason: a root\n  called with: 3") == "a root"
    assert report._mistake("") == "an error without words"
