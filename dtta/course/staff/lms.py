"""Points as a learning platform takes them back, and as a lecturer reads them: raw, lost by lateness, final."""

from __future__ import annotations

import re
from pathlib import Path

from dtta.course.staff import collect, roster
from dtta.course.staff.dates import Total
from dtta.course.staff.roster import Person
from dtta.course.staff.source import submissions

CANVAS = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
POINTS = ["assignment", "student", "name", "id", "email"]
POINTS += ["submitted", "days late", "raw", "penalty", "points", "most", "note"]


def write(folder: Path, totals: dict[str, list[Total]], platform: str) -> list[Path]:
    """Write report/points.csv, report/lms.csv and, from each of Moodle's grading worksheets, report/moodle_a1.csv.

    Where an answer waits for a person, or nothing was handed in, the points are empty, not 0.

    Args:
        totals: by assignment.
        platform: "canvas" or "moodle", whose columns lms.csv has.
    """
    out = folder / "report"
    people = _people(folder, totals)
    points = {(key, total.student): total for key, of_key in totals.items() for total in of_key}
    most = {key: max(total.most for total in of_key) for key, of_key in totals.items()}
    rows = [
        [key, person.key, person.name, person.id, person.email, *_facts(folder, key, person, points, most[key])]
        for key in totals
        for person in people.values()
    ]
    roster.write_table(out / "points.csv", POINTS, rows)
    table = _canvas if platform == "canvas" else _moodle
    roster.write_table(out / "lms.csv", *table(folder, people, most, points))
    paths = [out / "points.csv", out / "lms.csv"]
    if platform == "moodle":
        paths += [path for key in totals if (path := _worksheet(folder, key, points))]
    return paths


def _people(folder: Path, totals: dict[str, list[Total]]) -> dict[str, Person]:
    """The roster, and those who handed in without being on it, as far as the platform's files named them."""
    people = {person.key: person for person in roster.of_course(folder)}
    rows = collect.record(folder)
    for key, of_key in totals.items():
        handed_in = {student for name, student in submissions(folder) if name == key}
        for student in sorted(handed_in | {total.student for total in of_key}):
            row = rows.get((key, student), {})
            name, email = row.get("name", ""), row.get("email", "")
            people.setdefault(student, Person(student, name, row.get("id", ""), "", email))
    return people


def _facts(folder: Path, key: str, person: Person, points: dict, most: float) -> list[object]:
    total = points.get((key, person.key))
    if total is None:
        there = (folder / "submitted" / person.key / key).is_dir()
        return ["", "", "", "", "", most, "handed in, not graded" if there else "nothing handed in"]
    when = f"{total.submitted:%Y-%m-%d %H:%M:%S %Z}" if total.submitted else ""
    return [when, total.days, _number(total.raw), total.penalty, _number(total.points), total.most, total.note]


def _number(points: float | None) -> str:
    return "" if points is None else f"{points:g}"


def _of(points: dict[tuple[str, str], Total], key: str, student: str) -> str:
    total = points.get((key, student))
    return _number(total.points if total else None)


def _canvas(folder: Path, people: dict[str, Person], most: dict, points: dict) -> tuple[list[str], list[list[str]]]:
    """Canvas's gradebook: the columns of its own export up to Section, then the assignments under its names of them."""
    header, _ = roster.table(folder / roster.FILE) if (folder / roster.FILE).is_file() else ([], [])
    first = header[: header.index("Section") + 1] if {"Student", "Section"} <= set(header) else CANVAS
    columns = {key: next((name for name in header if re.match(rf"{key}\b", name)), key) for key in most}
    rows = [["    Points Possible", *[""] * (len(first) - 1), *map(_number, most.values())]]
    for person in people.values():
        plain = {"Student": person.name, "ID": person.id, "SIS Login ID": person.login or person.key}
        fields = person.fields if first is not CANVAS else plain
        scores = [_of(points, key, person.key) for key in most]
        rows.append([*(fields.get(name, plain.get(name, "")) for name in first), *scores])
    return [*first, *columns.values()], rows


def _moodle(folder: Path, people: dict[str, Person], most: dict, points: dict) -> tuple[list[str], list[list[str]]]:
    """For Moodle's gradebook import, which asks by which column it finds students."""
    header = ["Full name", "ID number", "Email address", *(f"{key} ({_number(value)})" for key, value in most.items())]
    rows = [
        [person.name, person.id or person.key, person.email, *(_of(points, key, person.key) for key in most)]
        for person in people.values()
    ]
    return header, rows


def _worksheet(folder: Path, key: str, points: dict) -> Path | None:
    """Moodle's own grading worksheet with its column Grade filled in; for the upload in the assignment."""
    path = folder / "worksheets" / f"{key}.csv"
    if not path.is_file():
        return None
    header, rows = roster.table(path)
    keys = {tuple(person.fields.values()): person.key for person in roster.read(path)}
    for row in rows:
        if grade := _of(points, key, keys.get(tuple(row.values()), "")):
            row["Grade"] = grade
    to = folder / "report" / f"moodle_{key}.csv"
    roster.write_table(to, header, [[row.get(name, "") for name in header] for row in rows])
    return to
