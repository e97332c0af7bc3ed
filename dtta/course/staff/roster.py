"""Who is in the course: the table of students that a learning platform exports, and tables that open in Excel.

Known columns: Student, ID, SIS Login ID and Section (Canvas's gradebook); Identifier, Full name, ID number and Email
address (Moodle's grading worksheet or participants); First Name, Last Name and Email Address (Google Classroom).
A table of your own needs a column ``name``, and may have ``id``, ``login`` and ``email``.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dtta.course.staff.source import CourseError

FILE = "roster.csv"  # in the course folder
COLUMNS = {  # of what we need: the headers under which platforms give it, in small letters
    "name": ("student", "full name", "name"),
    "first": ("first name", "firstname"),
    "last": ("last name", "lastname", "surname"),
    "id": ("id", "id number", "student id"),
    "login": ("sis login id", "login", "login id", "username"),
    "email": ("email address", "email", "e-mail", "e-mail address"),
    "participant": ("identifier",),
    "submitted": ("last modified (submission)",),
}


@dataclass
class Person:
    """One student of the roster.

    Args:
        key: the folder's name in submitted/: the login, else the ID, else the e-mail address, else the name.
        participant: the number that Moodle gives a student in one assignment.
        submitted: when the platform got the submission, in its words.
        fields: the row of the table, by header.
    """

    key: str
    name: str
    id: str = ""
    login: str = ""
    email: str = ""
    participant: str = ""
    submitted: str = ""
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def spellings(self) -> set[str]:
        """The name as platforms write it into file names: in order, turned around, and in one word, as Canvas does."""
        last, comma, first = self.name.partition(",")
        given = f"{first} {last}" if comma else self.name
        words = fold(given).split()
        return {fold(given), fold(self.name.replace(",", " ")), "".join(words), "".join([*words[-1:], *words[:-1]])} | (
            {re.sub(r"\W", "", fold(self.name))} if comma else set()
        )


def fold(text: str) -> str:
    """A name to compare by: without accents, capitals and marks."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(re.sub(r"[^\w]+", " ", plain.casefold()).split())


def folder_name(text: str) -> str:
    """A text as the name of one folder, on every system."""
    name = re.sub(r"[^\w.@-]+", "_", unicodedata.normalize("NFC", text)).strip("._")
    return name[:100]


def read(path: Path) -> list[Person]:
    """The students of a table; rows that are no students (points possible, Canvas's test student) are left out.

    Raises:
        CourseError: the file cannot be read, has no column of names, or names two students alike.
    """
    _, rows = table(path)
    people = [person for row in rows if (person := _person(row))]
    if not people:
        raise CourseError(f"{path} has no students; it needs a header with one of: Student, Full name, Name, Last name")
    keys = [person.key for person in people]
    if repeated := sorted({key for key in keys if keys.count(key) > 1}):
        raise CourseError(f"{path}: {', '.join(repeated)} appears twice; give each student an ID or e-mail address")
    return people


def of_course(folder: Path) -> list[Person]:
    """The roster that was collected with; empty if there is none."""
    return read(folder / FILE) if (folder / FILE).is_file() else []


def table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The header and the rows of a CSV with commas, semicolons or tabs.

    Raises:
        CourseError: no such file, or not text in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CourseError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CourseError(f"{path} is not in UTF-8; save it from Excel as 'CSV UTF-8'") from error
    first = text.partition("\n")[0]
    rows = list(csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count)))
    if not rows:
        raise CourseError(f"{path} is empty")
    header = [name.strip() for name in rows[0]]
    return header, [dict(zip(header, row, strict=False)) for row in rows[1:] if any(cell.strip() for cell in row)]


def _person(row: dict[str, str]) -> Person | None:
    by_header = {header.lower(): value.strip().removeprefix("'") for header, value in row.items()}
    fields = {
        what: next((by_header[header] for header in headers if by_header.get(header)), "")
        for what, headers in COLUMNS.items()
    }
    name = fields["name"] or " ".join(filter(None, (fields["first"], fields["last"])))
    if not name or name == "Student, Test" or "Points Possible" in name:
        return None
    canvas = "section" in by_header and "student" in by_header  # whose IDs are numbers that say nothing to a reader
    order = ("login", "email", "id") if canvas else ("login", "id", "email")
    key = folder_name(next((fields[what] for what in order if fields[what]), name))
    number = re.search(r"\d+$", fields["participant"])
    submitted = "" if fields["submitted"] in ("", "-") else fields["submitted"]
    return Person(
        key, name, fields["id"], fields["login"], fields["email"], number[0] if number else "", submitted, dict(row)
    )


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV that Excel opens with its accents, in which no text of a student is run as a formula."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # with the mark that tells Excel the encoding
        out = csv.writer(file)
        out.writerows([[_harmless(cell) for cell in row] for row in (header, *rows)])


def _harmless(cell: object) -> object:
    """A text that begins like a formula gets an apostrophe in front, as spreadsheets hide it."""
    risky = isinstance(cell, str) and len(cell) > 1 and cell.lstrip(" ")[:1] in tuple("=+-@\t\r\n")
    return f"'{cell}" if risky and not re.fullmatch(r"[-+]?\d+(\.\d+)?", cell) else cell
