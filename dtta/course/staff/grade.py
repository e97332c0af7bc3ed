"""Grade what was handed in: nbgrader's autograde, feedback and grades.csv for a course folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nbgrader.api import Gradebook
from nbgrader.plugins import CsvExportPlugin

from dtta.course.staff.build import grader, must


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


def submitted(folder: Path, key: str) -> list[str]:
    """Names of those who handed the assignment in: submitted/NAME/a1/."""
    return sorted(path.parent.name for path in (folder / "submitted").glob(f"*/{key}") if path.is_dir())


def autograde(folder: Path, key: str, student: str) -> None:
    """Run a submission with the original tests and store its scores.

    Raises:
        CourseError: nbgrader could not do it; what it says.
    """
    must(grader(folder).autograde(key, student, force=True, create=True), f"nbgrader autograde {key} {student}")


def scores(folder: Path, key: str) -> list[Score]:
    """All scores of an assignment, by student and cell."""
    found = []
    with _gradebook(folder) as book:
        for submission in book.assignment_submissions(key):
            for notebook in submission.notebooks:
                for grade in notebook.grades:
                    points = None if grade.needs_manual_grade and grade.manual_score is None else grade.score
                    found.append(Score(submission.student.id, grade.name, points, grade.max_score))
    return found


def feedback(folder: Path, key: str, student: str) -> Path:
    """The page that a student gets back: feedback/NAME/a1/a1_NAME.html."""
    must(grader(folder).generate_feedback(key, student, force=True), f"nbgrader generate_feedback {key} {student}")
    return next((folder / "feedback" / student / key).glob("*.html"))


def export(folder: Path) -> Path:
    """nbgrader's table of all scores, grades.csv in the course folder."""
    path = folder / "grades.csv"
    exporter = CsvExportPlugin()
    exporter.to = str(path)
    with _gradebook(folder) as book:
        exporter.export(book)
    return path


def _gradebook(folder: Path) -> Gradebook:
    return Gradebook(f"sqlite:///{folder.resolve()}/gradebook.db", "dtta")
