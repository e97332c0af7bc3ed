"""Grade what was handed in: nbgrader's autograde, feedback and grades.csv for a course folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nbgrader.api import Gradebook
from nbgrader.plugins import CsvExportPlugin

from dtta.course.runner.wire import Stopped
from dtta.course.staff import dates, roster
from dtta.course.staff.build import grader, hidden, must
from dtta.course.staff.doctor import treat
from dtta.course.staff.remote import START, NotGraded, Runner
from dtta.course.staff.sandbox import KINDS, choose
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
    """Mend, autograde and write the feedback of all submissions; yields a line for each, and goes on where one fails.

    Args:
        keys, students: which ones; empty: all.
        again: also those that were graded and have not changed since.

    Raises:
        CourseError: no such assignment or student, no sandbox that can run a submission, or, after grades.csv was
            written, the submissions that were not graded.
    """
    kind, ready = choose(sandbox), False
    failed: dict[str, str] = {}
    good = 0
    for key, student in submissions(folder, keys, students):
        if not again and _graded_since(folder, key, student):
            yield f"{key} {student}: graded before and not changed since"
            good += 1
            continue
        try:
            findings, why = treat(folder, key, student)
            if why:
                raise CourseError(why)
            if not ready:  # one stop in place of one for each submission
                ready = _probe(kind)
            autograde(folder, key, student, sandbox)
            feedback(folder, key, student)
        except CourseError as error:
            failed[f"{key} {student}"] = str(error)
            _note(folder, key, student, str(error))
            yield f"{key} {student}: not graded: {error}"
            continue
        good += 1
        _note(folder, key, student, "")
        mine = [score for score in scores(folder, key) if score.student == student]
        waiting, mended = sum(score.points is None for score in mine), sum(finding.mended for finding in findings)
        yield (
            f"{key} {student}: {sum(s.points or 0 for s in mine):g} of {sum(s.most for s in mine):g} points"
            + (f", {waiting} answers still to be graded by hand" if waiting else "")
            + (f" (mended first: {mended} findings; the original is in before_doctor)" if mended else "")
        )
    if failed:
        if (folder / "gradebook.db").is_file():
            export(folder)
        reasons = set(failed.values())
        if len(failed) > 1 and len(reasons) == 1 and not good:
            raise CourseError(f"none of {len(failed)} submissions was graded, all for one reason: {reasons.pop()}")
        raise CourseError("not graded:\n" + "\n".join(f"{who}: {why}" for who, why in failed.items()))


def _probe(kind: str) -> bool:
    """Whether the sandbox does all that grading needs: it imports the package, runs a cell and answers a call."""
    try:
        with Runner(kind, hidden()) as runner:
            outputs, trouble = runner.cell("import dtta\n\ndef double(x):\n    return 2 * x", START)
            if trouble or any(output.output_type == "error" for output in outputs):
                raise NotGraded(trouble or f"{outputs[-1].ename}: {outputs[-1].evalue}")
            if runner.value("double").call((21,), START) != 42:
                raise NotGraded("a function gives another answer there")
    except (NotGraded, Stopped, NameError, AttributeError) as error:
        raise NoSandbox(
            f"nothing was graded, for no submission can run in the sandbox {kind!r}: {error}; choose another with "
            f"--sandbox ({', '.join(KINDS)})"
        ) from error
    return True


class NoSandbox(ValueError):
    """No submission at all could be graded."""


def not_graded(folder: Path) -> dict[tuple[str, str], str]:
    """Why a submission was not graded, by assignment and student."""
    path = folder / "not_graded.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {(key, student): why for key, student, why in rows}


def _note(folder: Path, key: str, student: str, why: str) -> None:
    notes = not_graded(folder)
    if notes.pop((key, student), "") == why:
        return
    if why:
        notes[key, student] = why
        if (folder / "gradebook.db").is_file():
            with _gradebook(folder) as book:
                book.update_or_create_student(student)
    rows = [[*place, text] for place, text in sorted(notes.items())]
    (folder / "not_graded.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _graded_since(folder: Path, key: str, student: str) -> bool:
    before = list((folder / "submitted" / student / key).glob("*.ipynb"))
    after = list((folder / "autograded" / student / key).glob("*.ipynb"))
    if not after or (key, student) in not_graded(folder):
        return False
    return all(path.stat().st_mtime <= after[0].stat().st_mtime for path in before)


def scores(folder: Path, key: str) -> list[Score]:
    """All scores of an assignment, by student and cell; empty if nothing is graded."""
    rows, without = [], not_graded(folder)
    if not (folder / "gradebook.db").is_file():  # opening it would make it
        return rows
    with _gradebook(folder) as book:
        for submission in book.assignment_submissions(key):
            if (key, submission.student.id) in without:  # what an earlier, or half a, run left
                continue
            for notebook in submission.notebooks:
                for grade in notebook.grades:
                    points = None if grade.needs_manual_grade and grade.manual_score is None else grade.score
                    rows.append(Score(submission.student.id, grade.name, points, grade.max_score))
    return rows


def feedback(folder: Path, key: str, student: str) -> Path:
    """The page that a student gets back: feedback/NAME/a1/a1_NAME.html."""
    dates.apply(folder, key, student)
    must(grader(folder).generate_feedback(key, student, force=True), f"nbgrader generate_feedback {key} {student}")
    return next((folder / "feedback" / student / key).glob("*.html"))


def export(folder: Path) -> Path:
    """nbgrader's table of all scores, grades.csv in the course folder; no score where nothing was graded."""
    for key in {key for key, _ in submissions(folder)}:
        dates.apply(folder, key)
    path = folder / "grades.csv"
    exporter = CsvExportPlugin()
    exporter.to = str(path)
    with _gradebook(folder) as book:
        exporter.export(book)
        empty = set(not_graded(folder))
        for assignment in book.assignments:
            handed_in = {submission.student.id for submission in book.assignment_submissions(assignment.name)}
            empty |= {(assignment.name, student.id) for student in book.students if student.id not in handed_in}
    header, rows = roster.table(path)
    for row in rows:
        if (row["assignment"], row["student_id"]) in empty:
            row.update(dict.fromkeys(("raw_score", "late_submission_penalty", "score"), ""))
    roster.write_table(path, header, [list(row.values()) for row in rows])  # so that Excel reads the accents
    return path


def _gradebook(folder: Path) -> Gradebook:
    return Gradebook(f"sqlite:///{folder.resolve()}/gradebook.db", "dtta")
