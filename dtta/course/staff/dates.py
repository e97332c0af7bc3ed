"""Deadlines, extensions and what late work loses: course.toml in the course folder, and the points after it."""

from __future__ import annotations

import datetime as dt
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

from nbgrader.api import Gradebook

from dtta.course.staff import roster
from dtta.course.staff.source import CourseError

FILE = "course.toml"
EXAMPLE = """\
# Deadlines of this course, extensions, and what late work loses. `dtta course grade` and `report` read this file.
timezone = "UTC"       # of the times below, such as "Europe/Berlin"

[late]
per_day = 0.0          # share of the points reached that each day begun after the deadline costs; 0.1 is a tenth
at_most = 1.0          # the largest share that lateness can cost
grace_minutes = 0      # this much later still counts as in time

[deadlines]
# a1 = 2027-04-12T23:59:00
# a2 = 2027-04-19       # without a time: the end of that day

[extensions.a1]
# ada = 2027-04-15T23:59:00     # the student as in submitted/
"""
TIME = "timestamp.txt"  # nbgrader's: when a submission came in
LATE = "late.txt"  # the platform says that it was late, without a time
_DEFAULTS = {"per_day": 0.0, "at_most": 1.0, "grace_minutes": 0}


@dataclass(frozen=True)
class Dates:
    """What course.toml says."""

    deadlines: dict[str, dt.datetime] = field(default_factory=dict)
    extensions: dict[str, dict[str, dt.datetime]] = field(default_factory=dict)
    per_day: float = 0.0
    at_most: float = 1.0
    grace: dt.timedelta = dt.timedelta()
    zone: dt.tzinfo = dt.UTC

    def deadline(self, key: str, student: str = "") -> dt.datetime | None:
        """When an assignment is due, for this student."""
        return self.extensions.get(key, {}).get(student) or self.deadlines.get(key)

    def last(self, key: str) -> dt.datetime | None:
        """When the last student has to hand in."""
        times = [*self.extensions.get(key, {}).values(), *([self.deadlines[key]] if key in self.deadlines else [])]
        return max(times, default=None)

    def days_late(self, key: str, student: str, when: dt.datetime | None) -> int:
        """The number of days begun after the deadline; 0 in time, or if there is no deadline or no time."""
        due = self.deadline(key, student)
        if due is None or when is None or when <= due + self.grace:
            return 0
        return math.ceil((when - due) / dt.timedelta(days=1))

    def penalty(self, points: float, days: int) -> float:
        """The points that a submission loses which reached these."""
        return round(points * min(self.at_most, self.per_day * days), 2)


def read(folder: Path) -> Dates:
    """The dates of a course folder; none without a course.toml.

    Raises:
        CourseError: what the file says is not understood; the sentence names the place.
    """
    path = folder / FILE
    if not path.is_file():
        return Dates()
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} is no TOML: {error}") from error
    if unknown := sorted(set(data) - {"timezone", "late", "deadlines", "extensions"}):
        raise CourseError(f"{path}: unknown {', '.join(unknown)}; it has timezone, late, deadlines and extensions")
    try:
        zone = ZoneInfo(data.get("timezone", "UTC"))
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise CourseError(f"{path}: no timezone {data['timezone']!r}; write one such as 'Europe/Berlin'") from error
    late = _table(path, data, "late")
    if unknown := sorted(set(late) - set(_DEFAULTS)):
        raise CourseError(f"{path}, late: unknown {', '.join(unknown)}; it has {', '.join(_DEFAULTS)}")
    late = _DEFAULTS | late
    for name, most in (("per_day", 1), ("at_most", 1), ("grace_minutes", math.inf)):
        number = late[name]
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= most:
            words = "a number from 0 to 1" if most == 1 else "a number of minutes"
            raise CourseError(f"{path}, late: {name} must be {words}, not {number!r}")
    deadlines = {key: _time(path, f"deadlines.{key}", v, zone) for key, v in _table(path, data, "deadlines").items()}
    extensions = {
        key: {
            student: _time(path, f"extensions.{key}.{student}", value, zone)
            for student, value in _table(path, data["extensions"], key).items()
        }
        for key in _table(path, data, "extensions")
    }
    if orphans := sorted(key for key, students in extensions.items() if students and key not in deadlines):
        raise CourseError(f"{path}: {', '.join(orphans)} has extensions and no deadline; add it under [deadlines]")
    keys = {person.key for person in roster.of_course(folder)}
    for key, students in extensions.items():
        if strangers := sorted(set(students) - keys) if keys else []:
            raise CourseError(f"{path}, extensions.{key}: nobody on the roster is called {', '.join(strangers)}")
    grace = dt.timedelta(minutes=late["grace_minutes"])
    return Dates(deadlines, extensions, late["per_day"], late["at_most"], grace, zone)


def _table(path: Path, data: dict, name: str) -> dict:
    value = data.get(name, {})
    if not isinstance(value, dict):
        raise CourseError(f"{path}: {name} must be a table, [{name}]")
    return value


def _time(path: Path, where: str, value: object, zone: ZoneInfo) -> dt.datetime:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime.combine(value, dt.time(23, 59, 59))
    if not isinstance(value, dt.datetime):
        raise CourseError(f"{path}: {where} must be a time without quotes, such as 2027-04-12T23:59:00")
    return value if value.tzinfo else value.replace(tzinfo=zone)


def write_example(folder: Path) -> None:
    """Start course.toml; a lecturer's own stays."""
    if not (folder / FILE).exists():
        (folder / FILE).write_text(EXAMPLE, encoding="utf-8")


def handed_in(folder: Path, key: str, student: str) -> dt.datetime | None:
    """When a submission came in, by its timestamp.txt.

    Raises:
        CourseError: the file holds no time.
    """
    path = folder / "submitted" / student / key / TIME
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8").strip().removesuffix(" UTC")
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise CourseError(f"{path} holds no time; write one such as 2027-04-12 21:30:00 UTC") from error
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


@dataclass
class Total:
    """The points of one submission.

    Args:
        raw: before lateness; None while an answer waits for a person, or nothing was graded.
        points: after lateness; None too where the platform calls the submission late and gives no time.
    """

    student: str
    raw: float | None
    most: float
    points: float | None
    penalty: float = 0.0
    days: int = 0
    submitted: dt.datetime | None = None
    note: str = ""


def totals(folder: Path, key: str, scores: list, dates: Dates) -> Iterator[Total]:
    """The points of an assignment by student, from the scores of its cells (`grade.scores`)."""
    for student in dict.fromkeys(score.student for score in scores):
        mine = [score for score in scores if score.student == student]
        most = sum(score.most for score in mine)
        waiting = sum(score.points is None for score in mine)
        when = handed_in(folder, key, student)
        days = dates.days_late(key, student, when)
        if waiting:
            note = f"{waiting} answers wait to be graded by hand"
            yield Total(student, None, most, None, days=days, submitted=when, note=note)
            continue
        raw = sum(score.points for score in mine)
        if when is None and dates.per_day and (folder / "submitted" / student / key / LATE).is_file():
            note = f"late, and when is not known: write the time to submitted/{student}/{key}/{TIME}"
            yield Total(student, raw, most, None, note=note)
            continue
        penalty = dates.penalty(raw, days)
        yield Total(student, raw, most, raw - penalty, penalty, days, when, f"{days} days late" if days else "")


def apply(folder: Path, key: str, student: str = "") -> None:
    """Store names, deadlines and penalties in the gradebook, so that grades.csv and the students' pages have them.

    Raises:
        CourseError: course.toml or a timestamp is not understood.
    """
    dates = read(folder)
    path = folder.resolve() / "gradebook.db"
    people = {person.key: person for person in roster.of_course(folder)}
    if not path.is_file() or not (people or dates.deadlines):
        return
    with Gradebook(f"sqlite:///{path}", "dtta") as book:
        for submission in book.assignment_submissions(key):
            who = submission.student
            if student and who.id != student:
                continue
            if person := people.get(who.id):
                who.last_name, _, who.first_name = (part.strip() for part in person.name.partition(","))
                who.email = person.email
            due, when = dates.deadline(key, who.id), handed_in(folder, key, who.id)
            submission.timestamp = when and when.astimezone(dt.UTC).replace(tzinfo=None)
            days = dates.days_late(key, who.id, when)
            for notebook in submission.notebooks:
                notebook.late_submission_penalty = dates.penalty(notebook.score, days) if due else None
        if key in dates.deadlines:
            book.find_assignment(key).duedate = dates.deadlines[key].astimezone(dt.UTC).replace(tzinfo=None)
        book.db.commit()
