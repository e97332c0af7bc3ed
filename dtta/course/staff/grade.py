"""Grade what was handed in: nbgrader's autograde, feedback and grades.csv for a course folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nbgrader.api import Gradebook
from nbgrader.plugins import CsvExportPlugin

from dtta.course.staff import dates, roster
from dtta.course.staff.build import grader, must
from dtta.course.staff.sandbox import choose
from dtta.course.staff.source import CourseError, submissions


@dataclass
class Score:
    """One graded cell of one submission.

    Args:
        cell: the grade id.
        points: what it got, or None while a person has to grade it.
        most: what it could get.
    """

    student: str
    cell: str
    points: float | None
    most: float


def autograde(folder: Path, key: str, student: str, sandbox: str = "") -> None:
    """Run a submission with the original tests, in a sandbox, and store its scores.

    Raises:
        CourseError: nbgrader could not do it; what it says.
    """
    must(
        grader(folder, sandbox).autograde(key, student, force=True, create=True), f"nbgrader autograde {key} {student}"
    )


def grade(folder: Path, keys: list[str], students: list[str], sandbox: str = "", again: bool = False) -> Iterator[str]:
    """Autograde and write the feedback of all submissions; yields a line for each, and goes on where one fails.

    Args:
        keys, students: which ones; empty: all.
        again: also those that were graded and have not changed since.

    Raises:
        CourseError: no such assignment or student, no sandbox, or, at the end, the submissions that failed.
    """
    choose(sandbox)
    failed = []
    for key, student in submissions(folder, keys, students):
        if not again and _graded_since(folder, key, student):
            yield f"{key} {student}: graded before and not changed since"
            continue
        try:
            autograde(folder, key, student, sandbox)
            feedback(folder, key, student)
        except CourseError as error:
            failed.append(f"{key} {student}: {error}")
            yield f"{key} {student}: FAILED"
            continue
        mine = [score for score in scores(folder, key) if score.student == student]
        waiting = sum(score.points is None for score in mine)
        yield f"{key} {student}: {sum(s.points or 0 for s in mine):g} of {sum(s.most for s in mine):g} points" + (
            f", {waiting} answers still to be graded by hand" if waiting else ""
        )
    if failed:
        raise CourseError("\n".join(failed))


def _graded_since(folder: Path, key: str, student: str) -> bool:
    before = list((folder / "submitted" / student / key).glob("*.ipynb"))
    after = list((folder / "autograded" / student / key).glob("*.ipynb"))
    return bool(after) and all(path.stat().st_mtime <= after[0].stat().st_mtime for path in before)


def scores(folder: Path, key: str) -> list[Score]:
    """All scores of an assignment, by student and cell; empty if nothing is graded."""
    found = []
    if not (folder / "gradebook.db").is_file():  # opening it would make it
        return found
    with _gradebook(folder) as book:
        for submission in book.assignment_submissions(key):
            for notebook in submission.notebooks:
                for grade in notebook.grades:
                    points = None if grade.needs_manual_grade and grade.manual_score is None else grade.score
                    found.append(Score(submission.student.id, grade.name, points, grade.max_score))
    return found


def feedback(folder: Path, key: str, student: str) -> Path:
    """The page that a student gets back: feedback/NAME/a1/a1_NAME.html."""
    dates.apply(folder, key, student)
    must(grader(folder).generate_feedback(key, student, force=True), f"nbgrader generate_feedback {key} {student}")
    return next((folder / "feedback" / student / key).glob("*.html"))


def export(folder: Path) -> Path:
    """nbgrader's table of all scores, grades.csv in the course folder."""
    for key in {key for key, _ in submissions(folder)}:
        dates.apply(folder, key)
    path = folder / "grades.csv"
    exporter = CsvExportPlugin()
    exporter.to = str(path)
    with _gradebook(folder) as book:
        exporter.export(book)
    header, rows = roster.table(path)
    roster.write_table(path, header, [list(row.values()) for row in rows])  # so that Excel reads the accents
    return path


def _gradebook(folder: Path) -> Gradebook:
    return Gradebook(f"sqlite:///{folder.resolve()}/gradebook.db", "dtta")
